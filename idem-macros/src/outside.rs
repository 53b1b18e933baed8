//! The outer function of a handler, which has the user's own function inside.

use std::collections::HashSet;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{
    Attribute, GenericParam, Generics, Ident, Lifetime, Meta, ReturnType, Signature, Token, Type, WherePredicate,
};

use crate::item::Function;
use crate::parameters::{Parameter, Role};

/// Splits the attributes into those of the outer function, which Axum sees, and those of the body.
///
/// A lint level on the outer function also holds inside. `debug_handler` looks at extractors. Every other attribute,
/// such as `tracing::instrument`, expects the parameters that the user wrote.
pub(crate) fn split_attrs(function: &Function) -> (Vec<&Attribute>, Vec<&Attribute>) {
    function.attrs.iter().partition(|attr| is_outside(&attr.meta))
}

fn is_outside(meta: &Meta) -> bool {
    const OUTSIDE: [&str; 8] = ["doc", "cfg", "allow", "expect", "warn", "deny", "forbid", "deprecated"];
    if let Meta::List(list) = meta
        && list.path.is_ident("cfg_attr")
        && let Ok(nested) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
    {
        return nested.iter().skip(1).all(is_outside);
    }
    OUTSIDE.iter().any(|name| meta.path().is_ident(name)) || is_debug_handler(meta)
}

/// `#[axum::debug_handler]`, under any import.
pub(crate) fn is_debug_handler(meta: &Meta) -> bool {
    meta.path().segments.last().is_some_and(|last| last.ident == "debug_handler")
}

/// Takes `#[axum::debug_handler]` out of the attributes of the outer function, with the condition that it may have.
pub(crate) fn take_debug_handlers<'a>(outside: &mut Vec<&'a Attribute>) -> Vec<&'a Attribute> {
    let is_only = |meta: &Meta| match meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|nested| nested.len() > 1 && nested.iter().skip(1).all(is_debug_handler)),
        meta => is_debug_handler(meta),
    };
    outside.extract_if(.., |attr| is_only(&attr.meta)).collect()
}

/// The signature that Axum sees, with these parameters and this return type.
///
/// Its other tokens are the user's own, and so is the [`block`] after it. rustc does not warn about an unused function
/// whose outline comes from a macro, and a handler that no route mentions deserves the warning.
pub(crate) fn signature(
    written: &Signature,
    parameters: &[Parameter],
    inputs: &TokenStream,
    output: &TokenStream,
) -> TokenStream {
    let Signature { asyncness, fn_token, ident, paren_token, .. } = written;
    let asyncness = asyncness.unwrap_or_else(|| Token![async](fn_token.span));
    let generics = generics(&written.generics, parameters);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let mut tokens = quote!(#asyncness #fn_token #ident #impl_generics);
    paren_token.surround(&mut tokens, |tokens| inputs.to_tokens(tokens));
    tokens.extend(quote_spanned!(output_place(written)=> -> #output #where_clause));
    tokens
}

/// The body that Axum sees, with the braces of the user's own.
pub(crate) fn block(whole: TokenStream, written: &TokenTree) -> TokenTree {
    let mut block = Group::new(Delimiter::Brace, whole);
    block.set_span(written.span());
    block.into()
}

/// The place of the return type, written or not.
pub(crate) fn output_place(signature: &Signature) -> Span {
    match &signature.output {
        ReturnType::Type(_, ty) => ty.span(),
        ReturnType::Default => signature.paren_token.span.close(),
    }
}

/// The generics without lifetimes that only the context has: the outer function does not borrow the context yet.
pub(crate) fn generics(generics: &Generics, parameters: &[Parameter]) -> Generics {
    let mentioned = mentioned_lifetimes(generics, parameters);
    let mut generics = generics.clone();
    generics.params = (generics.params.into_iter())
        .filter_map(|param| match param {
            GenericParam::Lifetime(mut param) if mentioned.contains(&param.lifetime) => {
                param.bounds = param.bounds.into_iter().filter(|bound| mentioned.contains(bound)).collect();
                Some(GenericParam::Lifetime(param))
            }
            GenericParam::Lifetime(_) => None,
            other => Some(other),
        })
        .collect();
    if let Some(clause) = &mut generics.where_clause {
        clause.predicates = (clause.predicates.clone().into_iter())
            .filter(|predicate| match predicate {
                WherePredicate::Lifetime(predicate) => {
                    let mut lifetimes = predicate.bounds.iter().chain([&predicate.lifetime]);
                    lifetimes.all(|lifetime| mentioned.contains(lifetime))
                }
                _ => true,
            })
            .collect();
    }
    generics
}

fn mentioned_lifetimes(generics: &Generics, parameters: &[Parameter]) -> HashSet<Lifetime> {
    struct Lifetimes(HashSet<Lifetime>);

    impl Visit<'_> for Lifetimes {
        fn visit_lifetime(&mut self, lifetime: &Lifetime) {
            self.0.insert(lifetime.clone());
        }
    }

    let mut lifetimes = Lifetimes(HashSet::new());
    extractors(parameters).for_each(|(_, ty)| lifetimes.visit_type(ty));
    generics.type_params().for_each(|param| lifetimes.visit_type_param(param));
    let predicates = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    predicates
        .filter(|predicate| matches!(predicate, WherePredicate::Type(_)))
        .for_each(|predicate| lifetimes.visit_where_predicate(predicate));
    lifetimes.0
}

/// The types of the extractors, each with its name in the outer function.
pub(crate) fn extractors(parameters: &[Parameter]) -> impl Iterator<Item = (Ident, &Type)> {
    named(parameters).map(|(name, parameter)| (name, &parameter.ty))
}

/// The extractors, each with its name in the outer function. Patterns stay with the body.
pub(crate) fn named(parameters: &[Parameter]) -> impl Iterator<Item = (Ident, &Parameter)> {
    let extractors = parameters.iter().filter(|parameter| matches!(parameter.role, Role::Extractor));
    extractors.enumerate().map(|(at, parameter)| (Ident::new(&format!("__idem_{at}"), Span::mixed_site()), parameter))
}
