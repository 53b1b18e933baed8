//! Functions and types for expansions of the attribute. They are not for direct use: they may change in any release.

pub use crate::asked::Asked;
pub use crate::function::{
    Codec, Entered, answer, codec, codec_of, codec_with_errors, codec_with_errors_of, cut, enter, is_final, settle,
};
pub use crate::identity::{Operation, Scope};
pub use crate::policy::{InFlight, LeaseTerms, MissingKey, OnFirstSent, Policy, Then};
pub use crate::store::Context;

use crate::bounds::{Fingerprinted, Leased, Recordable};
#[cfg(feature = "axum")]
use crate::catch::catch_now;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
#[cfg(feature = "axum")]
use crate::http::bounds::{HoldsStore, Replies};
use crate::identity::{Key, ToKey, ToScope};
use crate::record::Input;
use crate::resume;

#[cfg(feature = "axum")]
pub use crate::http::asked::{AskedFingerprint, AskedKey};
#[cfg(feature = "axum")]
pub use crate::http::through_store::RecordedOf;
#[cfg(feature = "axum")]
pub use axum::response::Response;

/// The values of a handler's expressions. The user's code in them (`ToScope`, `ToKey`, `Serialize`) may panic. The
/// caller then gets what it gets for a panic of the handler (rule 15).
#[cfg(feature = "axum")]
pub fn asked(
    values: impl FnOnce() -> Asked<AskedKey, AskedFingerprint>,
) -> Result<Asked<AskedKey, AskedFingerprint>, Error> {
    catch_now(values)
}

/// The value of `scope = EXPR`.
pub fn scope<T: ToScope + ?Sized>(value: &T) -> Result<Scope, Error> {
    value.to_scope()
}

/// The value of `key = EXPR`.
pub fn key<T: ToKey + ?Sized>(value: &T) -> Result<Option<Key>, Error> {
    value.to_key()
}

/// The value of `fingerprint = EXPR`.
pub fn fingerprint<T: Fingerprinted + ?Sized>(value: &T) -> Result<Fingerprint, Error> {
    Fingerprint::of_value(value)
}

/// The value of `fingerprint = none`.
#[must_use]
pub fn no_fingerprint() -> Fingerprint {
    Fingerprint::none()
}

/// The value of `lease = "…"` and `attempts = …`, for a context that has a use for it.
#[must_use]
pub const fn lease<C: Leased>(terms: LeaseTerms) -> LeaseTerms {
    terms
}

/// The value of `record_input = EXPR`, for a context that has a use for it.
pub fn record_input<C: Leased, T: Recordable + ?Sized>(value: &T) -> Result<Input, Error> {
    resume::written(value)
}

/// An argument of a plain function, as a part of its fingerprint.
pub fn argument<T: Fingerprinted + ?Sized>(value: &T) -> Result<Fingerprint, Error> {
    Fingerprint::of_value(value)
}

/// The fingerprint of all arguments.
pub fn arguments<const N: usize>(arguments: [Result<Fingerprint, Error>; N]) -> Result<Fingerprint, Error> {
    let arguments: Vec<_> = arguments.into_iter().collect::<Result<_, _>>()?;
    Ok(Fingerprint::of_all(&arguments))
}

/// Whether a router's state has the store of a context: what `#[axum::debug_handler]` cannot see.
#[cfg(feature = "axum")]
pub const fn holds_store<C: Context, S: HoldsStore<C::Store>>() {}

/// The response of an Axum handler.
#[cfg(feature = "axum")]
pub fn reply<T: Replies>(value: T) -> Response {
    value.into_response()
}
