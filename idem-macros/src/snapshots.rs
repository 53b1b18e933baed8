//! Handlers as written and as expanded: `tests/expansion/*.in.rs` and `*.out.rs`.
//!
//! `OVERWRITE=1 cargo test -p idem-macros` rewrites the `*.out.rs` files.

use std::path::Path;
use std::{env, fs};

use syn::{Attribute, File, Item, Meta};

#[test]
fn handlers_become_what_the_snapshots_show() {
    for name in ["payment", "checkout", "webhook", "consumer", "mistake"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expansion");
        let written = fs::read_to_string(folder.join(format!("{name}.in.rs"))).expect("a handler");
        let expanded = expand(&written);

        let out = folder.join(format!("{name}.out.rs"));
        if env::var_os("OVERWRITE").is_some() {
            fs::write(&out, &expanded).expect("a file to write");
        }
        let expected = fs::read_to_string(&out).expect("a snapshot");
        assert_eq!(expanded, expected, "{name} expands otherwise: read the difference, then run with OVERWRITE=1");
    }
}

/// Expands the one handler of a file, as rustc would, and formats it.
fn expand(written: &str) -> String {
    let mut file: File = syn::parse_str(written).expect("Rust");
    let Some(Item::Fn(function)) = file.items.first_mut() else {
        panic!("no function");
    };
    let is_ours = |attr: &Attribute| attr.path().is_ident("idempotent");
    let at = function.attrs.iter().position(is_ours).expect("the attribute");
    let Meta::List(attribute) = function.attrs.remove(at).meta else {
        panic!("no arguments");
    };
    let expanded = crate::expand(attribute.tokens, quote::ToTokens::into_token_stream(function));
    prettyplease::unparse(&syn::parse2(expanded).expect("Rust"))
}
