//! The state for which `#[axum::debug_handler]` checks a handler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, GenericArgument, Ident, Meta, PathArguments, Result, Token, Type};

use super::at;
use crate::outside;
use crate::parameters::{Parameter, plain};

/// The condition under which the attribute holds, and the state: the one that it names, or else the one that `State`
/// takes, or else `()`.
pub(super) fn state(attribute: &Attribute, parameters: &[Parameter]) -> (Option<TokenStream>, TokenStream) {
    let (condition, meta) = match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => match under_a_condition.parse2(list.tokens.clone()) {
            Ok((condition, meta)) => (Some(quote!(#[cfg(#condition)])), meta),
            Err(_) => (None, attribute.meta.clone()),
        },
        meta => (None, meta.clone()),
    };
    let named = match &meta {
        Meta::List(list) if outside::is_debug_handler(&meta) => named.parse2(list.tokens.clone()).ok(),
        _ => None,
    };
    let state = named
        .or_else(|| taken(parameters))
        .map_or_else(|| quote_spanned!(at(attribute.path())=> ()), ToTokens::into_token_stream);
    (condition, state)
}

/// `state = App`
fn named(input: ParseStream<'_>) -> Result<Type> {
    input.parse::<Ident>()?;
    input.parse::<Token![=]>()?;
    let state = input.parse()?;
    input.parse::<Option<Token![,]>>()?;
    Ok(state)
}

/// `CONDITION, axum::debug_handler(state = App)`
fn under_a_condition(input: ParseStream<'_>) -> Result<(Meta, Meta)> {
    let condition = input.parse()?;
    input.parse::<Token![,]>()?;
    let meta = input.parse()?;
    input.parse::<TokenStream>()?;
    Ok((condition, meta))
}

/// The `App` of `State<App>`.
fn taken(parameters: &[Parameter]) -> Option<Type> {
    parameters.iter().find_map(|parameter| {
        let Type::Path(path) = plain(&parameter.ty) else { return None };
        let last = path.path.segments.last().filter(|last| last.ident == "State")?;
        let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
        match arguments.args.first()? {
            GenericArgument::Type(state) => Some(state.clone()),
            _ => None,
        }
    })
}
