//! The `#[idempotent]` attribute. Use it through `idem_core`, which re-exports it.

mod args;
mod check;
mod duration;
mod errors;
mod expand;
mod fallback;
mod item;
mod nearest;
mod outside;
mod parameters;
#[cfg(test)]
mod snapshots;
mod variants;

use proc_macro2::TokenStream;

use crate::args::Args;
use crate::check::check;
use crate::errors::Errors;
use crate::variants::{Variant, variants};

/// Runs a handler at most once for each key.
#[proc_macro_attribute]
pub fn idempotent(args: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(args.into(), item.into()).into()
}

/// The one place where tokens and errors are joined.
fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return TokenStream::from_iter([error.into_compile_error(), item]),
    };
    let expand = |variant: &Variant| {
        let mut errors = Errors::default();
        let args = Args::parse(args.clone(), &mut errors);
        match check(&args, errors, &variant.function) {
            Ok(handler) => variant.only_here([expand::expand(&handler)]),
            Err(error) => {
                let errors = error.into_iter().map(syn::Error::into_compile_error);
                variant.only_here(errors.chain([fallback::expand(&variant.function)]))
            }
        }
    };
    variants(function).iter().map(expand).collect()
}
