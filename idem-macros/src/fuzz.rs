//! Targets for fuzzing: whatever is written in the attribute, on whatever function, the macro answers in order.
//!
//! `cargo xtask fuzz` runs them for longer. `idem-fuzz` has the corpus and says how inputs are made up.

use std::str::FromStr;

use proc_macro2::TokenStream;
use proptest::prelude::*;
use syn::{File, Item, ItemFn};

use crate::duration::{LEASE, TTL, WAIT};
use crate::expand;

/// A file of the corpus: the attribute's arguments in the first line, the function below.
fn parts(text: &[u8]) -> Option<(TokenStream, TokenStream)> {
    let (args, item) = str::from_utf8(text).ok()?.split_once('\n')?;
    Some((TokenStream::from_str(args).ok()?, TokenStream::from_str(item).ok()?))
}

/// The function that the macro writes, which has to have the user's name: the routes that mention it resolve, whatever
/// is reported beside it.
fn function(args: &TokenStream, item: &TokenStream, name: &str) -> File {
    let written = expand(args.clone(), item.clone());
    let file: File = syn::parse2(written.clone()).unwrap_or_else(|error| panic!("{error}: {written}"));
    let is_there = file.items.iter().any(|item| matches!(item, Item::Fn(function) if function.sig.ident == name));
    assert!(is_there, "the function is lost: {written}");
    file
}

fn is_refused(file: &File) -> bool {
    file.items.iter().any(|item| matches!(item, Item::Macro(item) if item.mac.path.segments.last().is_some_and(|last| last.ident == "compile_error")))
}

#[test]
fn fuzz_the_attribute() {
    idem_fuzz::bytes("attribute", |text| {
        let Some((args, item)) = parts(text) else { return };
        // Another thing than a function is only reported.
        let Ok(asked) = syn::parse2::<ItemFn>(item.clone()) else { return drop(expand(args, item)) };
        function(&args, &item, &asked.sig.ident.to_string());
    });
}

/// Arguments in any order are taken, if each is there once and the scope is among them.
#[test]
fn fuzz_the_arguments() {
    const ARGUMENTS: [&[&str]; 10] = [
        &["scope = user", "scope = (user.id, order.id)", "scope = \"all\"", "scope = global"],
        &["ttl = \"1s\"", "ttl = \"3650d\""],
        &["key = header(\"X-Key\")"],
        &["fingerprint = none", "fingerprint = (order.id, order.amount)"],
        &["then = run", "then = refuse(\"30d\")"],
        &["first_sent = ignore", "first_sent = refuse"],
        &["in_flight = conflict", "in_flight = wait(\"5s\")", "in_flight = accepted"],
        &["missing_key = reject", "missing_key = run"],
        &["operation = \"payments.create\""],
        &["crate = ::idem_core"],
    ];
    let item =
        "async fn pay(user: User, tx: &mut PgTx, Json(order): Json<Order>) -> Response { todo(tx, order).await }";
    let item = TokenStream::from_str(item).expect("tokens");
    let argument = (0..ARGUMENTS.len(), any::<prop::sample::Index>());
    idem_fuzz::values("arguments", (prop::collection::vec(argument, 0..9), any::<bool>()), |(chosen, comma)| {
        let written: Vec<_> = chosen.iter().map(|(at, which)| *which.get(ARGUMENTS[*at])).collect();
        let args = written.join(", ") + if comma && !written.is_empty() { "," } else { "" };
        let file = function(&TokenStream::from_str(&args).expect("tokens"), &item, "pay");
        let names: Vec<_> = chosen.iter().map(|(at, _)| *at).collect();
        let is_twice = (1..names.len()).any(|at| names[..at].contains(&names[at]));
        assert_eq!(is_refused(&file), is_twice || !names.contains(&0), "{args}");
    });
}

/// A duration is what the plainest reading of its text says, or is refused with what to write.
#[test]
fn fuzz_durations() {
    let plain = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
        let (_, unit) = units.into_iter().find(|(name, _)| *name == unit)?;
        number.parse::<u64>().ok()?.checked_mul(unit)
    };
    let check = |text: &str| {
        for limits in [&TTL, &WAIT, &LEASE] {
            let [least, most] =
                [limits.least.1, limits.most.1].map(|limit| u64::try_from(limit.as_millis()).expect("small"));
            let expected = plain(text).filter(|milliseconds| (least..=most).contains(milliseconds));
            match limits.parse(text) {
                Ok(duration) => assert_eq!(Some(duration.as_millis()), expected.map(u128::from), "{text}"),
                Err(message) => {
                    assert_eq!(expected, None, "{text}: {message}");
                    assert!(message.contains("\nhelp: "), "{text}: {message}");
                }
            }
        }
    };
    idem_fuzz::bytes("duration", |text| _ = str::from_utf8(text).map(check));
    idem_fuzz::values("written", "[ -]?[0-9]{0,3}[.,0]?[0-9]{0,18} ?(ms|[smhdwSMHDWy]|[a-z]{0,6})", |text| {
        check(&text);
    });
}
