//! The caller of a request.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use idem_core::{Error, Scope, ToScope};

use crate::error::ApiError;

/// The caller's name, from `Authorization: Bearer NAME`.
///
/// A stand-in that believes every caller. In its place, look up a session or a token, and keep the user's number.
pub(crate) struct Caller(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).ok_or(ApiError::Unauthorized)?;
        let (scheme, name) =
            header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(ApiError::Unauthorized)?;
        let plausible = (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if scheme.eq_ignore_ascii_case("bearer") && plausible {
            Ok(Self(name.to_owned()))
        } else {
            Err(ApiError::Unauthorized)
        }
    }
}

/// Each caller has their own keys: this makes `scope = caller` possible.
impl ToScope for Caller {
    fn to_scope(&self) -> Result<Scope, Error> {
        self.0.to_scope()
    }
}
