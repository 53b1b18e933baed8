//! A form of a handler with a mistake, against which the rest of the program can be compiled.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{FnArg, Pat, PatIdent, Safety, Signature, Token, Type, parse_quote};

use crate::check::{Form, self_types};
use crate::item::{Function, is_ours};
use crate::outside;
use crate::parameters::{Parameter, Role, parameters, role};

/// The handler without its context, so that routes which mention it still resolve, and the mistake is the only error.
///
/// The body is inside if it can be, so that its mistakes are reported together with those of the attribute.
pub(crate) fn expand(function: &Function, form: Form) -> TokenStream {
    let mut function = function.clone();
    function.attrs.retain(|attr| !is_ours(attr) && !outside::is_debug_handler(&attr.meta));
    // A method cannot be inside another function, and a route cannot mention it: it was meant as a plain function.
    if form == Form::Plain || function.signature.receiver().is_some() {
        return plain(function);
    }
    let Function { vis, signature, body, .. } = &function;
    let parameters = parameters(signature);
    // Axum takes only a function whose last extractor alone reads the body.
    let (bodies, mut inputs): (Vec<_>, Vec<_>) =
        outside::named(&parameters).partition(|(_, parameter)| parameter.body_extractor_by_name().is_some());
    inputs.extend(bodies.last().cloned());
    let inputs = inputs.into_iter().map(|(name, Parameter { attrs, ty, .. })| {
        // Conditions are still here where there are too many of them.
        let conditions = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
        quote!(#(#conditions)* #name: #ty)
    });
    let inputs = quote!(#(#inputs),*);
    // A response that is never made. Its type needs no crate, because a crate could have another name.
    let never = quote_spanned!(outside::output_place(signature)=> ::core::convert::Infallible);
    let head = outside::signature(signature, &parameters, &inputs, &never);
    let (outside, inside) = outside::split_attrs(&function);
    let inside = can_stand_inside(signature).then(|| {
        let signature = meant(signature);
        quote!(#(#inside)* #signature #body)
    });

    let whole = quote_spanned!(Span::mixed_site()=> #inside ::core::unreachable!());
    let whole = outside::block(whole, body);
    quote!(#(#outside)* #vis #head #whole)
}

/// The function for its callers: it takes any store in the context's place, and has no body that needs a context.
fn plain(mut function: Function) -> TokenStream {
    function.signature.asyncness.get_or_insert_with(|| Token![async](Span::mixed_site()));
    let mut names = Vec::new();
    for input in &mut function.signature.inputs {
        if let FnArg::Typed(typed) = input {
            if !matches!(role(&typed.ty), Role::Extractor) {
                typed.ty = parse_quote!(&impl ::core::marker::Sized);
            }
            // Names stay, since rustc quotes them where a call is wrong. They are used, so that no lint reports them.
            typed.pat = match &*typed.pat {
                Pat::Ident(PatIdent { ident, .. }) => {
                    names.push(ident.clone());
                    parse_quote!(#ident)
                }
                _ => parse_quote!(_),
            };
        }
    }
    let whole = quote_spanned!(Span::mixed_site()=> #(let _ = &#names;)* ::core::unreachable!());
    function.body = outside::block(whole, &function.body);
    function.into_token_stream()
}

/// What the attribute does not accept, rustc may not accept either, and would report a second time.
fn can_stand_inside(signature: &Signature) -> bool {
    signature.constness.is_none()
        && signature.abi.is_none()
        && signature.variadic.is_none()
        && matches!(signature.safety, Safety::Default)
        && self_types(signature).is_empty()
}

/// The signature that the body expects: async, and with a context that it can write through.
///
/// Its outline is ours, so rustc does not report that nothing calls it.
fn meant(signature: &Signature) -> Signature {
    let mut signature = signature.clone();
    signature.asyncness = Some(Token![async](Span::mixed_site()));
    signature.fn_token.span = Span::mixed_site().located_at(signature.fn_token.span);
    signature.ident.set_span(Span::mixed_site().located_at(signature.ident.span()));
    for input in &mut signature.inputs {
        if let FnArg::Typed(typed) = input
            && let Type::Reference(reference) = &mut *typed.ty
        {
            reference.mutability.get_or_insert_with(|| Token![mut](Span::mixed_site()));
        }
    }
    signature
}
