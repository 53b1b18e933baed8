//! The attribute's arguments, as they were written.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, Ident, Result, Token, token};

use crate::errors::{Errors, all_of};
use crate::nearest::nearest;
use crate::suffix;

/// The content of `#[idempotent(…)]`. `check` decides what each value means.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) scope: Option<Arg>,
    pub(crate) ttl: Option<Arg>,
    pub(crate) key: Option<Arg>,
    pub(crate) axum: Option<Ident>,
    pub(crate) fingerprint: Option<Arg>,
    pub(crate) then: Option<Arg>,
    pub(crate) first_sent: Option<Arg>,
    pub(crate) in_flight: Option<Arg>,
    pub(crate) missing_key: Option<Arg>,
    pub(crate) operation: Option<Arg>,
    pub(crate) deadline: Option<Arg>,
    pub(crate) lease: Option<Arg>,
    pub(crate) attempts: Option<Arg>,
    pub(crate) rejects: Option<Arg>,
    pub(crate) record_input: Option<Arg>,
    pub(crate) krate: Option<Arg>,
    /// True if a mistake that may have been meant as the scope was reported. A missing scope is then not reported as
    /// well.
    pub(crate) scope_was_meant: bool,
}

/// One `name = value`.
pub(crate) struct Arg {
    pub(crate) name: Ident,
    pub(crate) value: Expr,
}

/// Every argument with an example, in the order in which the documentation has them.
const KNOWN: [(&str, &str); 16] = [
    ("scope", "scope = user"),
    ("ttl", "ttl = \"24h\""),
    ("then", "then = refuse(\"30d\")"),
    ("first_sent", "first_sent = refuse"),
    ("key", "key = header(\"Idempotency-Key\")"),
    ("axum", "axum"),
    ("fingerprint", "fingerprint = order.amount"),
    ("in_flight", "in_flight = wait(\"5s\")"),
    ("missing_key", "missing_key = run"),
    ("operation", "operation = \"payments.create\""),
    ("deadline", "deadline = \"30s\""),
    ("lease", "lease = \"30s\""),
    ("attempts", "attempts = 10"),
    ("rejects", "rejects = is_final"),
    ("record_input", "record_input = event"),
    ("crate", "crate = path::to::idem_core"),
];

/// Words that other libraries use for one of our arguments.
const OTHER_WORDS: [(&str, &str); 13] = [
    ("expires", "ttl"),
    ("expiry", "ttl"),
    ("expire", "ttl"),
    ("retention", "ttl"),
    ("header", "key"),
    ("idempotency_key", "key"),
    ("owner", "scope"),
    ("user", "scope"),
    ("tenant", "scope"),
    ("global", "scope"),
    ("name", "operation"),
    ("hash", "fingerprint"),
    ("timeout", "deadline"),
];

impl Args {
    /// Reads all arguments. A mistake in one does not hide the others.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        let read_all = |input: ParseStream<'_>| {
            while !input.is_empty() {
                args.read_one(input, errors).unwrap_or_else(|error| {
                    errors.push(error);
                    skip_to_comma(input);
                });
                expect_comma(input, errors);
            }
            Ok(())
        };
        if let Err(error) = read_all.parse2(tokens) {
            errors.push(error);
        }
        args
    }

    fn read_one(&mut self, input: ParseStream<'_>, errors: &mut Errors) -> Result<()> {
        if !input.peek(Ident::peek_any) {
            // It may have been meant as the scope.
            self.scope_was_meant = true;
            return Err(input.error(format!("expected an argument\nhelp: {}", known())));
        }
        // `r#scope` is `scope`: the expansion calls functions of these names.
        let name = input.call(Ident::parse_any)?.unraw();
        let equals: Option<Token![=]> = input.parse()?;
        if equals.is_none() {
            self.flag(name, input, errors);
            return Ok(());
        }
        // The value is read before its name is looked up, so that an unknown argument causes only one error.
        let value = if input.is_empty() || input.peek(Token![,]) { None } else { Some(input.parse::<Expr>()?) };
        if let Some(value) = &value {
            suffix::check(value, errors);
        }
        let word = name.to_string();
        self.scope_was_meant |= meant(&word) == Some("scope");
        let Some(slot) = self.slot(&word) else {
            errors.at(&name, if word == "axum" { takes_no_value() } else { unknown(&word) });
            if word == "axum" {
                self.axum = Some(name);
            }
            return Ok(());
        };
        match value {
            None => errors.at(&name, needs_value(&word)),
            Some(_) if slot.is_some() => errors.at(&name, repeated(&word)),
            Some(value) => *slot = Some(Arg { name, value }),
        }
        Ok(())
    }

    /// A name without `=`: `axum`, or a slip.
    fn flag(&mut self, name: Ident, input: ParseStream<'_>, errors: &mut Errors) {
        let word = name.to_string();
        if word == "axum" && (input.is_empty() || input.peek(Token![,])) {
            match &self.axum {
                Some(_) => errors.at(&name, repeated(&word)),
                None => self.axum = Some(name),
            }
            return;
        }
        self.scope_was_meant |= meant(&word) == Some("scope");
        // `ttl("24h")` is one mistake in one argument: its parentheses are not a second argument.
        if input.peek(token::Paren) || input.peek(Token![:]) {
            skip_to_comma(input);
        }
        errors.at(
            &name,
            match word.as_str() {
                "axum" => takes_no_value(),
                "global" => "`global` is a scope, not an argument\nhelp: write `scope = global`".to_owned(),
                _ if self.slot(&word).is_some() => needs_value(&word),
                _ => unknown(&word),
            },
        );
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Arg>> {
        Some(match name {
            "scope" => &mut self.scope,
            "ttl" => &mut self.ttl,
            "then" => &mut self.then,
            "first_sent" => &mut self.first_sent,
            "key" => &mut self.key,
            "fingerprint" => &mut self.fingerprint,
            "in_flight" => &mut self.in_flight,
            "missing_key" => &mut self.missing_key,
            "operation" => &mut self.operation,
            "deadline" => &mut self.deadline,
            "lease" => &mut self.lease,
            "attempts" => &mut self.attempts,
            "rejects" => &mut self.rejects,
            "record_input" => &mut self.record_input,
            "crate" => &mut self.krate,
            _ => return None,
        })
    }
}

fn expect_comma(input: ParseStream<'_>, errors: &mut Errors) {
    if input.is_empty() || input.parse::<Token![,]>().is_ok() {
        return;
    }
    errors.push(input.error("expected `,` between two arguments\nhelp: write `, ` before this one"));
    // If only the comma is missing, the next argument can be read as it is.
    if !(input.peek(Ident::peek_any) && input.peek2(Token![=])) {
        skip_to_comma(input);
        let _: Option<Token![,]> = input.parse().unwrap_or_default();
    }
}

fn skip_to_comma(input: ParseStream<'_>) {
    while !input.is_empty() && !input.peek(Token![,]) {
        // Any token tree parses, and each step takes one, so the loop ends.
        if input.parse::<proc_macro2::TokenTree>().is_err() {
            return;
        }
    }
}

fn unknown(word: &str) -> String {
    let help = match meant(word) {
        Some(name) => format!("write `{}`", example(name)),
        None => known(),
    };
    format!("unknown argument `{word}`\nhelp: {help}")
}

/// The argument that a word stands for: its own name, a misspelling of it, or another library's word for it.
fn meant(word: &str) -> Option<&'static str> {
    let other = || OTHER_WORDS.iter().find(|(other, _)| *other == word);
    nearest(word, KNOWN.map(|(name, _)| name)).or_else(|| other().map(|(_, name)| *name))
}

fn known() -> String {
    format!("the arguments are {}", all_of(KNOWN.map(|(name, _)| name)))
}

fn repeated(word: &str) -> String {
    format!("`{word}` is given twice\nhelp: keep one of them")
}

fn takes_no_value() -> String {
    "`axum` takes no value\nhelp: write `axum`".to_owned()
}

fn needs_value(word: &str) -> String {
    format!("`{word}` needs a value\nhelp: write `{}`", example(word))
}

fn example(name: &str) -> &'static str {
    KNOWN.iter().find(|(known, _)| *known == name).map_or("", |(_, example)| example)
}
