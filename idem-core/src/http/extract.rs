//! The last parameter of a handler: the user's own extractor, and the parts of the request that the run needs.

use std::error::Error as StdError;
use std::iter::successors;
use std::marker::PhantomData;

use axum::RequestExt;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, OriginalUri, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use http_body_util::LengthLimitError;

use crate::error::{Error, Kind};
use crate::http::bounds::{FromRef, HoldsStore, Needs};
use crate::http::lifetime::Announced;
use crate::http::problem;
use crate::store::Context;

/// The user's last extractor `T`, run over a body that has been read whole, so that the body can be digested.
///
/// It takes the place of `T` in the handler's parameters, so the handler has as many parameters as the user wrote. Axum
/// runs it after all other extractors: a refusal by one of them comes before the key is asked for (rule 4).
pub struct Recorded<C: Context, T> {
    call: Call<C>,
    last: T,
}

impl<C: Context, T> Recorded<C, T> {
    /// The request, and the user's last extractor.
    pub fn into_parts(self) -> (Call<C>, T) {
        (self.call, self.last)
    }
}

/// The parts of a request that its run needs.
pub struct Call<C: Context> {
    pub(crate) store: C::Store,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where a `Lifetime` layer, if there is one, reads how long the record lives.
    pub(crate) announced: Option<Announced>,
    context: PhantomData<fn() -> C>,
}

impl<S, C, T, M> FromRequest<S, Needs<C::Store, FromRef<S>, M>> for Recorded<C, T>
where
    S: HoldsStore<C::Store> + Send + Sync,
    C: Context,
    T: FromRequest<S, M>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        // The limit is Axum's `DefaultBodyLimit`, whether raised, lowered or off.
        let (parts, body) = request.with_limited_body().into_parts();
        let body = to_bytes(body, usize::MAX).await.map_err(|error| problem::respond(&unread(error)))?;
        // Nested routers see a shortened path. The original one keeps two routes apart (rule 8).
        let uri =
            parts.extensions.get::<OriginalUri>().map_or_else(|| parts.uri.clone(), |original| original.0.clone());
        let (method, headers) = (parts.method.clone(), parts.headers.clone());
        let announced = parts.extensions.get::<Announced>().cloned();

        let request = Request::from_parts(parts, Body::from(body.clone()));
        let last = T::from_request(request, state).await.map_err(IntoResponse::into_response)?;

        let call = Call { store: state.store(), method, uri, headers, body, announced, context: PhantomData };
        Ok(Self { call, last })
    }
}

fn unread(error: axum::Error) -> Error {
    let first: &(dyn StdError + 'static) = &error;
    let too_large = successors(Some(first), |&error| error.source()).any(|error| error.is::<LengthLimitError>());
    let kind = if too_large { Kind::BodyTooLarge } else { Kind::BodyUnreadable };
    Error::new(kind).caused_by(error)
}
