//! What the attribute means: from arguments and signature as they were written to a handler that can be expanded.

mod arguments;
mod names;
mod signature;

use std::time::Duration;

use syn::{Error, Expr, Ident, LitStr, Path, Type};

use crate::args::Args;
use crate::errors::Errors;
use crate::item::Function;
use crate::parameters::{Parameter, parameters};

pub(crate) use signature::self_types;

/// An Axum handler without a mistake.
pub(crate) struct Handler {
    pub(crate) function: Function,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) context: Type,
    pub(crate) scope: Scope,
    pub(crate) ttl: Duration,
    pub(crate) key: Key,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) in_flight: InFlight,
    pub(crate) missing_key: MissingKey,
    pub(crate) operation: Option<LitStr>,
    /// Where `idem_core` is to be found, if not at the root.
    pub(crate) krate: Option<Path>,
}

/// An expression over the parameters, with the name of the argument that it is the value of.
pub(crate) struct Asked {
    pub(crate) name: Ident,
    pub(crate) value: Expr,
}

/// Who owns the key.
pub(crate) enum Scope {
    Global,
    Value(Asked),
}

/// Where the key comes from.
pub(crate) enum Key {
    /// A header, in lower case.
    Header(String),
    Value(Asked),
}

/// What must be equal on a retry.
pub(crate) enum Fingerprint {
    Request,
    None,
    Value(Asked),
}

/// What a duplicate gets while the first still runs.
pub(crate) enum InFlight {
    Conflict,
    Wait(Duration),
    Accepted,
}

/// What a request without a key gets.
pub(crate) enum MissingKey {
    Reject,
    Run,
}

impl Handler {
    /// Every expression over the parameters.
    pub(crate) fn expressions(&self) -> Vec<&Asked> {
        let scope = match &self.scope {
            Scope::Value(asked) => Some(asked),
            Scope::Global => None,
        };
        let key = match &self.key {
            Key::Value(asked) => Some(asked),
            Key::Header(_) => None,
        };
        let fingerprint = match &self.fingerprint {
            Fingerprint::Value(asked) => Some(asked),
            Fingerprint::Request | Fingerprint::None => None,
        };
        [scope, key, fingerprint].into_iter().flatten().collect()
    }
}

/// Checks everything, and reports all mistakes together.
///
/// Each part answers with something to go on with, be it right or wrong; the mistakes decide in the end.
pub(crate) fn check(args: &Args, mut errors: Errors, function: &Function) -> Result<Handler, Error> {
    let parameters = parameters(&function.signature);
    let names = names::Names::of(&parameters);
    let handler = Handler {
        function: function.clone(),
        context: signature::check(function, &parameters, &mut errors),
        scope: arguments::scope(args, &names, &mut errors),
        ttl: arguments::ttl(args, &mut errors),
        key: arguments::key(args, &names, &mut errors),
        fingerprint: arguments::fingerprint(args, &names, &mut errors),
        in_flight: arguments::in_flight(args, &mut errors),
        missing_key: arguments::missing_key(args, &mut errors),
        operation: arguments::operation(args, &mut errors),
        krate: arguments::krate(args, &mut errors),
        parameters,
    };
    arguments::not_for_axum(args, &mut errors);
    errors.none_or(handler)
}
