//! Turns each argument from what was written into what was meant.

use std::time::Duration;

use proc_macro2::Span;
use syn::{Expr, ExprCall, ExprLit, Lit, LitStr, Path, Signature};

use super::names::Names;
use super::renamed::renamed;
use super::{Asked, Fingerprint, FirstSent, Form, InFlight, Key, Lease, MissingKey, Scope, Then, self_types};
use crate::args::{Arg, Args};
use crate::duration::{self, Limits};
use crate::errors::{Errors, any_of, text};
use crate::nearest::nearest;
use crate::parameters::Parameter;
use crate::suffix;

/// The name from the drafts of the `Idempotency-Key` header.
const DEFAULT_HEADER: &str = "idempotency-key";

/// 24 hours, as long as most public interfaces keep their keys.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest name of an operation that the store keeps.
const LONGEST_OPERATION: usize = 255;

pub(super) fn scope(args: &Args, names: &Names, errors: &mut Errors) -> Scope {
    let Some(arg) = &args.scope else {
        if args.scope_was_meant {
            return Scope::Global;
        }
        errors.push(syn::Error::new(
            Span::call_site(),
            "no scope says who owns the key\n\
             help: write `scope = user` for a parameter that tells the caller, or `scope = global` where all callers may share keys",
        ));
        return Scope::Global;
    };
    match word(&arg.value).as_deref() {
        Some("global") => {
            names.check_word(arg, "global", "all callers share one scope", errors);
            return Scope::Global;
        }
        Some("none" | "None") => {
            errors.at(
                &arg.value,
                "without a scope, one caller could see another's reply\nhelp: write `scope = global` where that is meant",
            );
            return Scope::Global;
        }
        _ => {}
    }
    if let Some(text) = string(&arg.value) {
        if text.value().is_empty() {
            errors.at(text, "a scope cannot be empty\nhelp: write `scope = global` for one that all callers share");
        } else if text.value().eq_ignore_ascii_case("global") {
            errors.at(text, "the scope of all callers is a bare word\nhelp: write `scope = global`");
        }
    }
    names.check(arg, errors);
    Scope::Value(asked(arg))
}

pub(super) fn ttl(args: &Args, errors: &mut Errors) -> Duration {
    let Some(arg) = &args.ttl else { return DEFAULT_TTL };
    duration(&arg.value, &duration::TTL, "ttl = \"24h\"", errors)
}

pub(super) fn then(args: &Args, errors: &mut Errors) -> Then {
    const EXAMPLE: &str = "then = refuse(\"30d\")";
    let Some(arg) = &args.then else { return Then::Run };
    if let Some(call) = call(&arg.value, "refuse")
        && let (Some(time), 1) = (call.args.first(), call.args.len())
    {
        return Then::Refuse(duration(time, &duration::TTL, EXAMPLE, errors));
    }
    match word(&arg.value).as_deref() {
        Some("run") => return Then::Run,
        Some("refuse") => errors.at(&arg.value, format!("`refuse` needs a duration\nhelp: write `{EXAMPLE}`")),
        _ if call(&arg.value, "refuse").is_some() => {
            errors.at(&arg.value, format!("`refuse` takes one duration\nhelp: write `{EXAMPLE}`"));
        }
        _ => unknown_value(arg, &["run", "refuse(\"30d\")"], errors),
    }
    Then::Run
}

pub(super) fn first_sent(args: &Args, errors: &mut Errors) -> FirstSent {
    const EXAMPLE: &str = "help: write `first_sent = refuse`";
    let Some(arg) = &args.first_sent else { return FirstSent::Ignore };
    match word(&arg.value).as_deref() {
        Some("ignore") => return FirstSent::Ignore,
        Some("refuse") => return FirstSent::Refuse,
        _ if call(&arg.value, "refuse").is_some() => errors.at(
            &arg.value,
            format!("`refuse` takes no duration here: the time is how long records are kept\n{EXAMPLE}"),
        ),
        _ if call(&arg.value, "header").is_some() => {
            errors.at(&arg.value, format!("the headers with the time have fixed names\n{EXAMPLE}"));
        }
        _ => unknown_value(arg, &["ignore", "refuse"], errors),
    }
    FirstSent::Ignore
}

pub(super) fn key(args: &Args, form: Form, parameters: &[Parameter], names: &Names, errors: &mut Errors) -> Key {
    let default = Key::Header(DEFAULT_HEADER.to_owned());
    let Some(arg) = &args.key else {
        if let Some(axum) = &args.axum {
            errors.at(axum, "`axum` says nothing without `key = …`\nhelp: remove it, or write `axum, key = event.id`");
        }
        return default;
    };
    if let Some(call) = call(&arg.value, "header") {
        return header(call, errors).map_or(default, Key::Header);
    }
    if let Some(text) = string(&arg.value) {
        let header = text.value();
        errors.at(text, format!("every request would have this key\nhelp: write `key = header(\"{header}\")`"));
        return default;
    }
    if form == Form::Axum && args.axum.is_none() {
        let extractor = parameters.iter().find_map(Parameter::extractor_by_name);
        let otherwise = extractor.map_or_else(String::new, |name| {
            format!("; or, where this `{name}` is not Axum's, write it with its path, such as `types::{name}`, and the function is a plain one")
        });
        errors.at(
            &arg.name,
            format!(
                "an Axum handler whose key is not in a header says so\n\
                 help: write `axum` beside it: `axum, key = …`{otherwise}"
            ),
        );
    }
    names.check(arg, errors);
    Key::Value(asked(arg))
}

/// Whether the key is an expression over the parameters.
pub(super) fn has_key_expression(args: &Args) -> bool {
    args.key.as_ref().is_some_and(|arg| call(&arg.value, "header").is_none() && string(&arg.value).is_none())
}

/// The header's name in lower case, as `HeaderName::from_static` takes it.
fn header(call: &ExprCall, errors: &mut Errors) -> Option<String> {
    const EXAMPLE: &str = "help: write `key = header(\"Idempotency-Key\")`";
    let name = match call.args.first().map(string) {
        Some(Some(name)) if call.args.len() == 1 => name,
        _ => {
            errors.at(call, format!("`header` takes one name, in quotes\n{EXAMPLE}"));
            return None;
        }
    };
    let text = name.value();
    // RFC 9110, `token`.
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    if text.is_empty() || !text.chars().all(is_token) {
        let what = if text.is_empty() {
            "a header's name cannot be empty".to_owned()
        } else {
            format!("`{text}` is no header name")
        };
        errors.at(name, format!("{what}\n{EXAMPLE}"));
        return None;
    }
    Some(text.to_ascii_lowercase())
}

pub(super) fn fingerprint(args: &Args, names: &Names, errors: &mut Errors) -> Fingerprint {
    let Some(arg) = &args.fingerprint else {
        return Fingerprint::Default;
    };
    if word(&arg.value).is_some_and(|word| word == "none") {
        names.check_word(arg, "none", "nothing is compared", errors);
        return Fingerprint::None;
    }
    if matches!(plain(&arg.value), Expr::Lit(_)) || word(&arg.value).is_some_and(|word| word == "None") {
        errors.at(
            &arg.value,
            "every request would have this fingerprint\nhelp: write `fingerprint = none` where that is meant",
        );
        return Fingerprint::None;
    }
    names.check(arg, errors);
    Fingerprint::Value(asked(arg))
}

pub(super) fn in_flight(args: &Args, form: Form, errors: &mut Errors) -> InFlight {
    let Some(arg) = &args.in_flight else {
        return InFlight::Conflict;
    };
    if let Some(call) = call(&arg.value, "wait")
        && let (Some(time), 1) = (call.args.first(), call.args.len())
    {
        return InFlight::Wait(duration(time, &duration::WAIT, "in_flight = wait(\"5s\")", errors));
    }
    match word(&arg.value).as_deref() {
        Some("conflict") => return InFlight::Conflict,
        Some("accepted") if form == Form::Plain => errors.at(
            &arg.value,
            "`accepted` is an HTTP answer, and a plain function has none\n\
             help: remove it: a duplicate gets an error of the kind `KeyInFlight`",
        ),
        Some("accepted") => return InFlight::Accepted,
        Some("wait") => errors.at(&arg.value, "`wait` needs a duration\nhelp: write `in_flight = wait(\"5s\")`"),
        _ if call(&arg.value, "wait").is_some() => {
            errors.at(&arg.value, "`wait` takes one duration\nhelp: write `in_flight = wait(\"5s\")`");
        }
        _ => unknown_value(arg, &["conflict", "wait(\"5s\")", "accepted"], errors),
    }
    InFlight::Conflict
}

pub(super) fn missing_key(args: &Args, form: Form, errors: &mut Errors) -> MissingKey {
    let Some(arg) = &args.missing_key else {
        return MissingKey::Reject;
    };
    if form == Form::Plain {
        errors.at(
            &arg.name,
            "`missing_key` is for requests, which may come without a key\n\
             help: remove it: a plain function whose key is blank or `None` gives an error of the kind `KeyMissing`",
        );
        return MissingKey::Reject;
    }
    match word(&arg.value).as_deref() {
        Some("reject") => return MissingKey::Reject,
        Some("run") => return MissingKey::Run,
        _ => unknown_value(arg, &["reject", "run"], errors),
    }
    MissingKey::Reject
}

pub(super) fn operation(args: &Args, form: Form, signature: &Signature, errors: &mut Errors) -> Option<LitStr> {
    const EXAMPLE: &str = "help: write a short name that stays: `operation = \"payments.create\"`";
    let Some(arg) = args.operation.as_ref() else {
        let what = match signature.receiver() {
            Some(_) => Some("a method"),
            None if !self_types(signature).is_empty() => Some("an associated function"),
            None => None,
        };
        if let Some(what) = what.filter(|_| form == Form::Plain) {
            errors.at(
                &signature.ident,
                format!("{what} needs a name of its own: two types may have one called this\n{EXAMPLE}"),
            );
        }
        return None;
    };
    let Some(name) = string(&arg.value) else {
        errors.at(&arg.value, format!("`operation` is a name in quotes\n{EXAMPLE}"));
        return None;
    };
    let text = name.value();
    if text.is_empty() {
        errors.at(name, format!("an operation needs a name\n{EXAMPLE}"));
    } else if text.len() > LONGEST_OPERATION {
        let length = text.len();
        errors.at(
            name,
            format!("an operation's name has at most {LONGEST_OPERATION} bytes, this one has {length}\n{EXAMPLE}"),
        );
    } else if text.contains(char::is_control) {
        errors.at(name, format!("an operation's name has no control characters\n{EXAMPLE}"));
    }
    Some(name.clone())
}

pub(super) fn krate(args: &Args, errors: &mut Errors) -> Option<Path> {
    let Some(arg) = &args.krate else {
        if let Some(name) = renamed() {
            errors.push(syn::Error::new(Span::call_site(), renamed_message(&name)));
        }
        return None;
    };
    let value = plain(&arg.value);
    if let Expr::Path(path) = value
        && path.qself.is_none()
    {
        return Some(path.path.clone());
    }
    let help = match string(value).and_then(|text| text.parse::<Path>().ok()) {
        Some(path) => format!("write it without quotes: `crate = {}`", text(path)),
        None => "write where `idem_core` is to be found: `crate = path::to::idem_core`".to_owned(),
    };
    errors.at(&arg.value, format!("`crate` is a path\nhelp: {help}"));
    None
}

pub(super) fn renamed_message(name: &str) -> String {
    format!("this package calls `idem-core` by the name `{name}`\nhelp: write `crate = {name}`")
}

pub(super) fn rejects(args: &Args, form: Form, errors: &mut Errors) -> Option<Expr> {
    let arg = args.rejects.as_ref()?;
    if form == Form::Axum {
        errors.at(
            &arg.name,
            "`rejects` is for plain functions, which have a `key = …` and no `axum`\n\
             help: an Axum handler adds `Disposition::Reject` to its response",
        );
    }
    if matches!(plain(&arg.value), Expr::Lit(_)) {
        errors.at(
            &arg.value,
            "`rejects` is a function that says which errors are final\n\
             help: write `fn is_final(error: &E) -> bool`, and `rejects = is_final`",
        );
    }
    Some(arg.value.clone())
}

pub(super) fn record_input(args: &Args, form: Form, names: &Names, errors: &mut Errors) -> Option<Asked> {
    let arg = args.record_input.as_ref()?;
    if form == Form::Axum {
        errors.at(
            &arg.name,
            "`record_input` is for plain functions, which have a `key = …` and no `axum`\n\
             help: remove it: a request's client sends it again; or do the work in a plain function that the handler calls",
        );
    }
    names.check(arg, errors);
    Some(asked(arg))
}

pub(super) fn deadline(args: &Args, errors: &mut Errors) -> Option<Duration> {
    let arg = args.deadline.as_ref()?;
    Some(duration(&arg.value, &duration::DEADLINE, "deadline = \"30s\"", errors))
}

/// The type of the context decides whether it has a use for a lease.
pub(super) fn lease(args: &Args, errors: &mut Errors) -> Lease {
    let Args { lease, attempts, .. } = args;
    Lease {
        name: lease.as_ref().or(attempts.as_ref()).map(|arg| arg.name.clone()),
        duration: lease.as_ref().map(|arg| duration(&arg.value, &duration::LEASE, "lease = \"30s\"", errors)),
        attempts: attempts.as_ref().map(|arg| attempts_of(arg, errors)),
    }
}

fn attempts_of(arg: &Arg, errors: &mut Errors) -> u32 {
    const MOST: u32 = 1000;
    let number = match plain(&arg.value) {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => number.base10_parse::<u32>().ok(),
        _ => None,
    };
    if let Expr::Lit(ExprLit { lit: lit @ Lit::Int(_), .. }) = plain(&arg.value)
        && let Some(refused) = suffix::refused(lit)
    {
        errors.at(lit, refused);
        return 1;
    }
    let wrong = match number {
        Some(0) => "with no attempt, nothing would ever run\nhelp: write at least `attempts = 1`".to_owned(),
        Some(number) if number <= MOST => return number,
        _ => format!("`attempts` is a number from 1 to {MOST}\nhelp: write `attempts = 10`"),
    };
    errors.at(&arg.value, wrong);
    1
}

fn asked(arg: &Arg) -> Asked {
    Asked { name: arg.name.clone(), value: arg.value.clone() }
}

fn duration(value: &Expr, limits: &Limits, example: &str, errors: &mut Errors) -> Duration {
    let duration = match plain(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => limits.parse(&text.value()),
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => match limits.parse(&number.to_string()) {
            Ok(_) => Err(format!("a duration stands in quotes\nhelp: write `\"{number}\"`")),
            Err(_) => Err(format!("a duration is a number and a unit, in quotes\nhelp: write `{example}`")),
        },
        _ => Err(format!("a duration is a number and a unit, in quotes\nhelp: write `{example}`")),
    };
    duration.unwrap_or_else(|message| {
        errors.at(value, message);
        limits.least.1
    })
}

fn unknown_value(arg: &Arg, known: &[&str], errors: &mut Errors) {
    let name = &arg.name;
    let written = string(&arg.value).map(LitStr::value).or_else(|| word(&arg.value));
    let bare = |known: &&str| known.split('(').next().unwrap_or_default().to_owned();
    let meant = written.as_ref().and_then(|written| {
        let bare_words: Vec<_> = known.iter().map(bare).collect();
        let meant = nearest(written, bare_words.iter().map(String::as_str))?;
        known.iter().find(|known| bare(known) == meant)
    });
    let help = match meant {
        Some(meant) => format!("write `{name} = {meant}`"),
        None => format!("write {}", any_of(known.iter().map(|known| format!("{name} = {known}")))),
    };
    errors.at(&arg.value, format!("`{name}` has no such value\nhelp: {help}"));
}

/// The expression without the invisible group that a `macro_rules!` argument comes in.
fn plain(value: &Expr) -> &Expr {
    match value {
        Expr::Group(group) => plain(&group.expr),
        other => other,
    }
}

/// A bare word, such as `global`.
fn word(value: &Expr) -> Option<String> {
    match plain(value) {
        Expr::Path(path) if path.qself.is_none() => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

fn string(value: &Expr) -> Option<&LitStr> {
    match plain(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text),
        _ => None,
    }
}

/// A call of this name, such as `header("Name")`.
fn call<'a>(value: &'a Expr, name: &str) -> Option<&'a ExprCall> {
    match plain(value) {
        Expr::Call(call) if word(&call.func).is_some_and(|word| word == name) => Some(call),
        _ => None,
    }
}
