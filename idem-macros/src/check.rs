//! What the attribute means: from arguments and signature as they were written to a handler that can be expanded.

mod arguments;
mod names;
mod renamed;
mod signature;
mod which_self;

use std::time::Duration;

use syn::{Error, Expr, Ident, LitStr, Path, Type};

use crate::args::Args;
use crate::errors::Errors;
use crate::item::Function;
use crate::parameters::{Parameter, parameters};

pub(crate) use signature::self_types;

/// A handler without a mistake.
pub(crate) struct Handler {
    pub(crate) function: Function,
    pub(crate) form: Form,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) context: Type,
    pub(crate) scope: Scope,
    pub(crate) ttl: Duration,
    pub(crate) then: Then,
    pub(crate) first_sent: FirstSent,
    pub(crate) key: Key,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) in_flight: InFlight,
    pub(crate) missing_key: MissingKey,
    pub(crate) operation: Option<LitStr>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) lease: Lease,
    /// Which errors of a plain function are stored.
    pub(crate) rejects: Option<Expr>,
    /// The input that is recorded, so that another process can resume an abandoned run.
    pub(crate) record_input: Option<Asked>,
    /// The path of `idem_core`, if it is not at the root.
    pub(crate) krate: Option<Path>,
}

/// Who calls the handler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Axum, with the values of its extractors.
    Axum,
    /// Any code, with arguments: a plain function, which keeps its return type.
    Plain,
}

impl Form {
    /// A key expression without `axum` makes a plain function, unless a parameter is one of Axum's extractors by name.
    /// A receiver, `rejects` or `record_input` makes it a plain function even then.
    pub(crate) fn of(args: &Args, function: &Function) -> Self {
        let Function { signature, .. } = function;
        let says_plain = || signature.receiver().is_some() || args.rejects.is_some() || args.record_input.is_some();
        let has_extractors = || parameters(signature).iter().any(|parameter| parameter.extractor_by_name().is_some());
        let is_plain =
            args.axum.is_none() && arguments::has_key_expression(args) && (says_plain() || !has_extractors());
        if is_plain { Self::Plain } else { Self::Axum }
    }
}

/// An expression over the parameters, and the name of its argument.
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
    /// The whole request, or all arguments.
    Default,
    None,
    Value(Asked),
}

/// What becomes of a request that says when it was first sent.
#[derive(Clone, Copy)]
pub(crate) enum FirstSent {
    Ignore,
    Refuse,
}

/// What a retry gets when the record's `ttl` is over.
pub(crate) enum Then {
    Run,
    Refuse(Duration),
}

/// What a duplicate gets while the first request still runs.
pub(crate) enum InFlight {
    Conflict,
    Wait(Duration),
    Accepted,
}

/// The lease terms of a leased handler, as far as its arguments say them.
#[derive(Default)]
pub(crate) struct Lease {
    /// The name of one of these arguments.
    pub(crate) name: Option<Ident>,
    pub(crate) duration: Option<Duration>,
    pub(crate) attempts: Option<u32>,
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
            Fingerprint::Default | Fingerprint::None => None,
        };
        [scope, key, fingerprint, self.record_input.as_ref()].into_iter().flatten().collect()
    }
}

/// Checks everything, and reports all mistakes together.
///
/// Each part returns a value to continue with, right or wrong. In the end the mistakes decide.
pub(crate) fn check(args: &Args, mut errors: Errors, function: &Function) -> Result<Handler, Error> {
    let form = Form::of(args, function);
    let parameters = parameters(&function.signature);
    let names = names::Names::of(form, &parameters, function.signature.receiver().is_some());
    let handler = Handler {
        function: function.clone(),
        form,
        context: signature::check(function, form, &parameters, &mut errors),
        scope: arguments::scope(args, &names, &mut errors),
        ttl: arguments::ttl(args, &mut errors),
        then: arguments::then(args, &mut errors),
        first_sent: arguments::first_sent(args, &mut errors),
        key: arguments::key(args, form, &parameters, &names, &mut errors),
        fingerprint: arguments::fingerprint(args, &names, &mut errors),
        in_flight: arguments::in_flight(args, form, &mut errors),
        missing_key: arguments::missing_key(args, form, &mut errors),
        operation: arguments::operation(args, form, &function.signature, &mut errors),
        deadline: arguments::deadline(args, &mut errors),
        lease: arguments::lease(args, &mut errors),
        rejects: arguments::rejects(args, form, &mut errors),
        record_input: arguments::record_input(args, form, &names, &mut errors),
        krate: arguments::krate(args, &mut errors),
        parameters,
    };
    which_self::check(args, form, &function.signature, &mut errors);
    errors.none_or(handler)
}
