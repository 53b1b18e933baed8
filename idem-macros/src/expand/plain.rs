//! A plain function: the store replaces the context, everything else stays.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, GenericArgument, Lifetime, Pat, PatIdent, PathArguments, ReturnType, Signature, Type};

use super::{Fingerprint, Handler, asked_value, at, bindings, borrowed, policy, said_at, used, used_by_expressions};
use crate::check::{Key, Scope};
use crate::item::Function;
use crate::outside;
use crate::parameters::{Parameter, Role, plain};

/// Puts the user's body into a closure that is called where the call is claimed.
///
/// Input:
///
/// ```text
/// async fn on_shipped(tx: &mut PgTx, event: &Shipped) -> Result<Stock, StockError> { … }
/// ```
///
/// Output:
///
/// ```text
/// async fn on_shipped(tx: &<PgTx as Context>::Store, event: &Shipped) -> Result<Stock, StockError> {
///     static __IDEM_POLICY: Policy = …;
///     let __idem_codec = codec_of::<Stock, StockError>();
///     let __idem_asked = Asked { … };
///     match #private::enter::<#context, _>(#store, &__IDEM_POLICY, __idem_asked, &__idem_codec).await {
///         Entered::Over(__idem_answer) => __idem_answer,
///         Entered::Run(mut __idem_run) => {
///             let mut __idem_body = async move |tx: &mut PgTx| -> Result<Stock, StockError> { { … } };
///             let __idem_cut = cut(&__idem_run);
///             let __idem_body = __idem_body(&mut *__idem_run);
///             let __idem_answer = answer(__idem_cut, __idem_body).await;
///             let __idem_is_final = false;
///             settle(__idem_run, __idem_answer, __idem_is_final, &__idem_codec).await
///         }
///     }
/// }
/// ```
///
/// The body is a closure and not an inner function as it is for Axum, because a method's body may say `self`. The body
/// is in a block of its own, because a closure's body cannot begin with `#![…]`.
pub(super) fn expand(handler: &Handler) -> TokenStream {
    let Handler { function, context, .. } = handler;
    let Function { attrs, vis, signature, body } = function;
    let private = handler.private(Span::mixed_site());
    let store = store(handler);
    let inputs = inputs(handler);
    let head = head(signature, &inputs);

    let output = match &signature.output {
        ReturnType::Type(_, ty) => ty.to_token_stream(),
        ReturnType::Default => quote!(()),
    };
    // rustc reports an unmet requirement on the return type at that type, once.
    let place = Span::mixed_site().located_at(outside::output_place(signature));
    let of_output = handler.private(place);
    let codec = if handler.rejects.is_some() { "codec_with_errors" } else { "codec" };
    let codec = match spelt_out(&signature.output) {
        Some([value, error]) => {
            let codec = format_ident!("{codec}_of", span = place);
            quote_spanned!(place=> #of_output::#codec::<#value, #error>())
        }
        None => {
            let codec = Ident::new(codec, place);
            quote_spanned!(place=> #of_output::#codec::<#output>())
        }
    };
    let is_final = match &handler.rejects {
        Some(rejects) => quote_spanned!(place=> #of_output::is_final(&__idem_answer, #rejects)),
        None => quote!(false),
    };

    let policy = policy(handler);
    let named = named(handler);
    let lent = lent(handler);
    let moved = moved(handler);
    let inner = inner(body);

    let whole = quote_spanned! {Span::mixed_site()=>
        static __IDEM_POLICY: #private::Policy = #policy;
        let __idem_codec = #codec;
        let __idem_asked = #named;
        match #private::enter::<#context, _>(#store, &__IDEM_POLICY, __idem_asked, &__idem_codec).await {
            #private::Entered::Over(__idem_answer) => __idem_answer,
            #private::Entered::Run(mut __idem_run) => {
                // A body that changes an argument makes the closure one that is called by `&mut`.
                let mut __idem_body = async move |#lent| -> #output { #moved #inner };
                let __idem_cut = #private::cut(&__idem_run);
                let __idem_body = __idem_body(&mut *__idem_run);
                let __idem_answer = #private::answer(__idem_cut, __idem_body).await;
                let __idem_is_final = #is_final;
                #private::settle(__idem_run, __idem_answer, __idem_is_final, &__idem_codec).await
            }
        }
    };
    let whole = outside::block(whole, &function.body);
    quote!(#(#attrs)* #vis #head #whole)
}

/// `T` and `E`, if the return type says `Result<T, E>`. Behind any other name, only rustc knows them.
fn spelt_out(output: &ReturnType) -> Option<[&Type; 2]> {
    let ReturnType::Type(_, ty) = output else { return None };
    let Type::Path(path) = plain(ty) else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let mut types = arguments.args.iter().map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    match (types.next()??, types.next()??, types.next()) {
        (value, error, None) => Some([value, error]),
        _ => None,
    }
}

/// The signature with other inputs.
fn head(signature: &Signature, inputs: &TokenStream) -> TokenStream {
    let Signature { asyncness, fn_token, ident, generics, paren_token, output, .. } = signature;
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let mut tokens = quote!(#asyncness #fn_token #ident #impl_generics);
    paren_token.surround(&mut tokens, |tokens| inputs.to_tokens(tokens));
    tokens.extend(quote!(#output #where_clause));
    tokens
}

/// The parameters as callers see them. Names stay, so that other attributes can use them. A pattern moves into the
/// body.
fn inputs(handler: &Handler) -> TokenStream {
    let receiver = handler.function.signature.inputs.iter().filter_map(|input| match input {
        FnArg::Receiver(receiver) => Some(receiver.to_token_stream()),
        FnArg::Typed(_) => None,
    });
    let mut named = outside::named(&handler.parameters);
    let typed = handler.parameters.iter().map(|parameter| match &parameter.role {
        Role::Extractor => {
            let name = named.next().map(|(name, _)| name);
            let Parameter { attrs, pat, ty, .. } = parameter;
            if is_name(pat) { quote!(#(#attrs)* #pat: #ty) } else { quote!(#name: #ty) }
        }
        Role::Context(context) | Role::Misused(context) => {
            let (store, private) = (store(handler), handler.private(at(context)));
            // A lifetime that the user named stays in use.
            let lifetime = lifetime(&parameter.ty);
            quote_spanned!(at(context)=> #store: & #lifetime <#context as #private::Context>::Store)
        }
    });
    let inputs = receiver.chain(typed);
    quote!(#(#inputs),*)
}

fn lifetime(ty: &Type) -> Option<&Lifetime> {
    match plain(ty) {
        Type::Reference(reference) => reference.lifetime.as_ref(),
        _ => None,
    }
}

/// The name of the store: the same as the context's, if that has a name.
fn store(handler: &Handler) -> TokenStream {
    let context = handler.parameters.iter().find(|parameter| !matches!(parameter.role, Role::Extractor));
    match context.map(|context| &context.pat) {
        Some(Pat::Ident(PatIdent { ident, .. })) => ident.to_token_stream(),
        _ => Ident::new("__idem_store", Span::mixed_site()).into_token_stream(),
    }
}

/// The context as the body gets it, for as long as it runs.
fn lent(handler: &Handler) -> TokenStream {
    let context = handler.parameters.iter().find(|parameter| matches!(parameter.role, Role::Context(_)));
    let Some(Parameter { attrs, pat, ty, .. }) = context else { return TokenStream::new() };
    let mut ty = plain(ty).clone();
    if let Type::Reference(reference) = &mut ty {
        reference.lifetime = None;
    }
    quote!(#(#attrs)* #pat: #ty)
}

/// `let PATTERN = __idem_0;` for each parameter whose pattern stays with the body.
fn moved(handler: &Handler) -> TokenStream {
    let patterns = outside::named(&handler.parameters).filter(|(_, parameter)| !is_name(&parameter.pat));
    patterns
        .map(|(name, parameter)| {
            let Parameter { attrs, pat, .. } = parameter;
            let used = used(&used_by_expressions(handler, parameter));
            quote_spanned!(Span::mixed_site()=> #(#attrs)* let #pat = #name; #used)
        })
        .collect()
}

/// The user's body as a block inside the closure's. Its braces are ours: rustc would report the user's braces around
/// one line as unused.
fn inner(body: &TokenTree) -> TokenTree {
    let TokenTree::Group(group) = body else { return body.clone() };
    let mut inner = Group::new(group.delimiter(), group.stream());
    inner.set_span(at(body));
    inner.into()
}

/// Whether the parameter can keep its name for callers.
pub(super) fn is_name(pat: &Pat) -> bool {
    matches!(pat, Pat::Ident(PatIdent { by_ref: None, subpat: None, .. }))
}

/// What the expressions say about one call.
fn named(handler: &Handler) -> TokenStream {
    let private = handler.private(Span::mixed_site());
    let scope = match &handler.scope {
        Scope::Global => quote!(::core::result::Result::Ok(#private::Scope::global())),
        Scope::Value(asked) => asked_value(handler, asked),
    };
    let key = match &handler.key {
        Key::Value(asked) => asked_value(handler, asked),
        Key::Header(_) => unreachable!("a plain function's key is an expression"),
    };
    let fingerprint = match &handler.fingerprint {
        Fingerprint::Default => arguments(handler),
        Fingerprint::None => quote!(::core::result::Result::Ok(#private::no_fingerprint())),
        Fingerprint::Value(asked) => asked_value(handler, asked),
    };
    let input = input(handler);
    let bindings = bindings(handler);
    let named = quote_spanned! {Span::mixed_site()=>
        #private::Asked { scope: #scope, key: #key, fingerprint: #fingerprint, input: #input }
    };
    if bindings.is_empty() { named } else { quote!({ #bindings #named }) }
}

/// The recorded input from which another process resumes the run, if the context holds a lease.
fn input(handler: &Handler) -> TokenStream {
    let Some(asked) = &handler.record_input else { return quote!(::core::option::Option::None) };
    let private = handler.private(at(&asked.name));
    // That a transaction holds no lease is said at the argument, which is what has to go.
    let context = said_at(&handler.context, asked.name.span());
    let value = borrowed(&asked.value, &handler.parameters);
    let recorded = quote_spanned!(at(&asked.name)=> #private::record_input::<#context, _>(#value));
    quote!(::core::option::Option::Some(#recorded))
}

/// All arguments, each by its value.
fn arguments(handler: &Handler) -> TokenStream {
    let private = handler.private(Span::mixed_site());
    let arguments = outside::named(&handler.parameters).map(|(name, Parameter { pat, ty, .. })| {
        let name = match pat {
            Pat::Ident(PatIdent { ident, .. }) if is_name(pat) => ident.to_token_stream(),
            _ => name.into_token_stream(),
        };
        let place = Span::mixed_site().located_at(ty.span());
        let private = handler.private(place);
        quote_spanned!(place=> #private::argument(&#name))
    });
    quote_spanned!(Span::mixed_site()=> #private::arguments([#(#arguments),*]))
}
