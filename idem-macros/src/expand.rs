//! From a checked handler to Rust.

mod debug_handler;
mod front;
mod plain;

use std::time::Duration;

use proc_macro2::{Group, Ident, Literal, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Attribute, Expr, ExprLit, ExprPath, ExprTuple, GenericParam, Lit, Macro, Pat, PatIdent, ReturnType};

use crate::check::{Asked, Fingerprint, FirstSent, Form, Handler, InFlight, Key, MissingKey, Scope, Then};
use crate::item::Function;
use crate::outside;
use crate::parameters::{Parameter, Role};

/// The handler as the rest of the program sees it.
pub(crate) fn expand(handler: &Handler) -> TokenStream {
    match handler.form {
        Form::Axum => axum(handler),
        Form::Plain => plain::expand(handler),
    }
}

/// Puts the user's function, whole, into one that Axum can call.
///
/// Input:
///
/// ```text
/// async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Reply { … }
/// ```
///
/// Output:
///
/// ```text
/// async fn create_payment(__idem_0: CurrentUser, __idem_last: RecordedOf<PgTx, Json<NewPayment>>) -> Response {
///     async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Reply { … }
///     static __IDEM_POLICY: Policy = …;
///     let (__idem_call, __idem_1) = __idem_last.into_parts();
///     let __idem_asked = asked(|| Asked { … });
///     __idem_call.serve(&__IDEM_POLICY, __idem_asked, move |__idem_context| {
///         Box::pin(async move { reply(create_payment(__idem_0, __idem_context, __idem_1).await) })
///     })
///     .await
/// }
/// ```
fn axum(handler: &Handler) -> TokenStream {
    let Handler { function, parameters, context, .. } = handler;
    let Function { vis, signature, body, .. } = function;
    let (mut outside, inside) = outside::split_attrs(function);
    let debugged = debugged(handler, &outside::take_debug_handlers(&mut outside));

    let (mut names, mut types): (Vec<_>, Vec<_>) =
        outside::extractors(parameters).map(|(name, ty)| (name.into_token_stream(), ty.into_token_stream())).unzip();
    let last = names.pop().unwrap_or_else(|| quote!(()));
    let last_type = types.pop().unwrap_or_else(|| quote!(()));
    // rustc reports an unmet requirement on the context at the context's own type.
    let private = handler.private(at(context));
    let recorded = quote_spanned!(at(context)=> #private::RecordedOf<#context, #last_type>);
    let inputs = quote_spanned!(Span::mixed_site()=> #(#names: #types,)* __idem_last: #recorded);
    let private = handler.private(outside::output_place(signature));
    let response = quote_spanned!(outside::output_place(signature)=> #private::Response);
    let head = outside::signature(signature, parameters, &inputs, &response);

    let private = handler.private(Span::mixed_site());
    let policy = policy(handler);
    let asked = asked(handler);
    let reply = reply(handler);
    // A body that is not `Send` is reported here, with a note at the line that causes it.
    let boxed = quote_spanned!(at(&signature.ident)=> ::std::boxed::Box::pin(async move { #reply }));

    let named: Vec<_> = parameters.iter().flat_map(|parameter| used_by_expressions(handler, parameter)).collect();
    let inner = front::put(used(&named), body);

    let whole = quote_spanned! {Span::mixed_site()=>
        #(#inside)*
        #signature #inner
        #debugged

        static __IDEM_POLICY: #private::Policy = #policy;
        let (__idem_call, #last) = __idem_last.into_parts();
        let __idem_asked = #asked;
        __idem_call.serve(&__IDEM_POLICY, __idem_asked, move |__idem_context| #boxed).await
    };
    let whole = outside::block(whole, body);
    quote!(#(#outside)* #vis #head #whole)
}

/// What `#[axum::debug_handler]` checks: a function with the extractors as they were written, and the store. The last
/// parameter of the outer function holds both, so an error at it would not say which is wrong.
fn debugged(handler: &Handler, attributes: &[&Attribute]) -> TokenStream {
    let Handler { function, parameters, context, .. } = handler;
    let Some(first) = attributes.first() else { return TokenStream::new() };
    let inputs = outside::extractors(parameters).map(|(name, ty)| quote!(#name: #ty));
    let generics = outside::generics(&function.signature.generics, parameters);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let mut name = function.signature.ident.clone();
    name.set_span(at(&name));

    // Axum says that it takes no generic function.
    let state = generics.params.is_empty().then(|| {
        let (condition, state) = debug_handler::state(first, parameters);
        let private = handler.private(at(context));
        quote_spanned!(at(context)=> #condition const _: () = #private::holds_store::<#context, #state>();)
    });
    let private = handler.private(Span::mixed_site());
    quote_spanned! {Span::mixed_site()=>
        #state
        const _: () = {
            #(#attributes)*
            async fn #name #impl_generics(#(#inputs),*) -> #private::Response #where_clause {
                ::core::unreachable!()
            }
        };
    }
}

/// The policy: everything that is known at compile time.
fn policy(handler: &Handler) -> TokenStream {
    let private = handler.private(Span::mixed_site());
    let Handler { operation, ttl, then, first_sent, in_flight, missing_key, .. } = handler;
    let operation = match operation {
        Some(operation) => operation.to_token_stream(),
        None => {
            let path = format!("::{}", handler.function.signature.ident.unraw());
            quote!(::core::concat!(::core::module_path!(), #path))
        }
    };
    let ttl = duration(*ttl);
    let then = match then {
        Then::Run => quote!(Run),
        Then::Refuse(time) => {
            let time = duration(*time);
            quote!(Refuse(#time))
        }
    };
    let first_sent = match first_sent {
        FirstSent::Ignore => quote!(Ignore),
        FirstSent::Refuse => quote!(Refuse),
    };
    let in_flight = match in_flight {
        InFlight::Conflict => quote!(Conflict),
        InFlight::Accepted => quote!(Accepted),
        InFlight::Wait(patience) => {
            let patience = duration(*patience);
            quote!(Wait(#patience))
        }
    };
    let missing_key = match missing_key {
        MissingKey::Reject => quote!(Reject),
        MissingKey::Run => quote!(Run),
    };
    let deadline = match handler.deadline.map(duration) {
        Some(deadline) => quote!(::core::option::Option::Some(#deadline)),
        None => quote!(::core::option::Option::None),
    };
    let lease = lease(handler);
    quote_spanned! {Span::mixed_site()=>
        #private::Policy {
            operation: #private::Operation::new(#operation),
            ttl: #ttl,
            then: #private::Then::#then,
            first_sent: #private::OnFirstSent::#first_sent,
            in_flight: #private::InFlight::#in_flight,
            missing_key: #private::MissingKey::#missing_key,
            deadline: #deadline,
            lease: #lease,
        }
    }
}

/// The lease terms, if the context has a lease.
fn lease(handler: &Handler) -> TokenStream {
    let private = handler.private(Span::mixed_site());
    let Some(name) = &handler.lease.name else { return quote!(#private::LeaseTerms::DEFAULT) };
    let time = handler.lease.duration.map(duration).map(|time| quote!(.lasting(#time)));
    let attempts = handler.lease.attempts.map(Literal::u32_unsuffixed).map(|attempts| quote!(.attempts(#attempts)));
    // If the context is a transaction without a lease, the error is at the argument, which has to be removed.
    let context = said_at(&handler.context, name.span());
    let of_context = handler.private(at(name));
    let terms = quote!(#private::LeaseTerms::DEFAULT #time #attempts);
    quote_spanned!(at(name)=> #of_context::lease::<#context>(#terms))
}

fn duration(duration: Duration) -> TokenStream {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (constructor, number) = match milliseconds % 1000 {
        0 => ("from_secs", milliseconds / 1000),
        _ => ("from_millis", milliseconds),
    };
    let (constructor, number) = (Ident::new(constructor, Span::mixed_site()), Literal::u64_unsuffixed(number));
    quote_spanned!(Span::mixed_site()=> ::core::time::Duration::#constructor(#number))
}

/// The values of the expressions for one request, with the parameters that they mention bound by reference.
fn asked(handler: &Handler) -> TokenStream {
    let private = handler.private(Span::mixed_site());
    let value = |asked: &Asked| asked_value(handler, asked);
    let scope = match &handler.scope {
        Scope::Global => quote!(::core::result::Result::Ok(#private::Scope::global())),
        Scope::Value(asked) => value(asked),
    };
    let key = match &handler.key {
        Key::Header(name) => quote!(Header(#name)),
        Key::Value(asked) => {
            let value = value(asked);
            quote!(Value(#value))
        }
    };
    let fingerprint = match &handler.fingerprint {
        Fingerprint::Default => quote!(Request),
        Fingerprint::None => quote!(None),
        Fingerprint::Value(asked) => {
            let value = value(asked);
            quote!(Value(#value))
        }
    };
    let bindings = bindings(handler);
    let asked = quote_spanned! {Span::mixed_site()=>
        #private::Asked {
            scope: #scope,
            key: #private::AskedKey::#key,
            fingerprint: #private::AskedFingerprint::#fingerprint,
            input: ::core::option::Option::None,
        }
    };
    let asked = if bindings.is_empty() { asked } else { quote!({ #bindings #asked }) };
    quote_spanned!(Span::mixed_site()=> #private::asked(|| #asked))
}

/// One expression, as a call of the library's function that has the argument's name.
fn asked_value(handler: &Handler, asked: &Asked) -> TokenStream {
    // The function has the argument's name, so that an error underlines the name together with the value.
    let span = at(&asked.name);
    let private = handler.private(span);
    let function = Ident::new(&asked.name.to_string(), span);
    let value = borrowed(&asked.value, &handler.parameters);
    quote_spanned!(span=> #private::#function(#value))
}

/// `let PATTERN = &__idem_0;` for each parameter that an expression may mention.
fn bindings(handler: &Handler) -> TokenStream {
    let expressions = handler.expressions();
    let is_mentioned = |name: &Ident| expressions.iter().any(|asked| mentions(&asked.value, name));
    outside::named(&handler.parameters)
        .filter_map(|(name, parameter)| {
            if !parameter.names().iter().any(is_mentioned) && !parameter.binds_unknown_names() {
                return None;
            }
            let pat = parameter.borrowing_pattern();
            let name = match &parameter.pat {
                Pat::Ident(PatIdent { ident, .. }) if handler.form == Form::Plain && plain::is_name(&parameter.pat) => {
                    ident.clone()
                }
                _ => name,
            };
            // A pattern may bind more than the expressions need, and `user.id` mentions no parameter `id`. Where the
            // names are not known, they cannot be marked as used.
            let lint = parameter.binds_unknown_names().then(|| quote!(#[allow(unused_variables)]));
            let used = used(&parameter.names());
            Some(quote_spanned!(Span::mixed_site()=> #lint let #pat = &#name; #used))
        })
        .collect()
}

/// Marks variables as used. A lint level (`#[allow]`) would be an error where the user forbids that lint.
fn used(names: &[Ident]) -> TokenStream {
    // rustc does not expect a use of these, and Clippy would report one.
    let names = names.iter().filter(|name| !name.unraw().to_string().starts_with('_'));
    quote_spanned!(Span::mixed_site()=> #(let _ = &#names;)*)
}

/// The names that a parameter binds and an expression uses. The body need not use them as well.
fn used_by_expressions(handler: &Handler, parameter: &Parameter) -> Vec<Ident> {
    let expressions = handler.expressions();
    let mut names = parameter.names();
    names.retain(|name| expressions.iter().any(|asked| uses(&asked.value, name)));
    names
}

/// Whether the expression uses a variable of this name. `user.id` does not use `id`.
fn uses(expression: &Expr, name: &Ident) -> bool {
    struct Uses<'a>(&'a Ident, bool);

    impl Visit<'_> for Uses<'_> {
        fn visit_expr_path(&mut self, path: &ExprPath) {
            self.1 |= path.path.get_ident().is_some_and(|ident| ident.unraw() == self.0.unraw());
        }

        fn visit_macro(&mut self, call: &Macro) {
            self.1 |= stands_in(call.tokens.clone(), self.0);
        }
    }

    let mut uses = Uses(name, false);
    uses.visit_expr(expression);
    uses.1
}

/// Whether the name occurs anywhere in the expression, also as a field. A macro may take a name out of a string, as
/// `format!` does.
fn mentions(expression: &Expr, name: &Ident) -> bool {
    stands_in(expression.to_token_stream(), name)
}

fn stands_in(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident.unraw() == name.unraw(),
        TokenTree::Group(group) => stands_in(group.stream(), name),
        TokenTree::Literal(literal) => literal.to_string().contains(&name.unraw().to_string()),
        TokenTree::Punct(_) => false,
    })
}

/// The expression as a reference. The parts of a tuple are borrowed one by one, so that no part is moved out of a
/// parameter.
fn borrowed(expression: &Expr, parameters: &[Parameter]) -> TokenStream {
    // These tokens name nothing. With the user's span, the whole expression is underlined and not only its beginning.
    let span = expression.span();
    match expression {
        Expr::Group(group) => borrowed(&group.expr, parameters),
        Expr::Reference(reference) => reference.to_token_stream(),
        // A parameter is bound by reference already.
        Expr::Path(path) if is_parameter(path, parameters) => path.to_token_stream(),
        Expr::Tuple(tuple) => {
            let parts = parts(tuple, parameters);
            quote_spanned!(span=> &#parts)
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.to_token_stream(),
        Expr::Lit(_) | Expr::Path(_) | Expr::Field(_) | Expr::MethodCall(_) | Expr::Call(_) | Expr::Macro(_) => {
            quote_spanned!(span=> &#expression)
        }
        Expr::Paren(paren) => {
            let inner = &paren.expr;
            borrowed(inner, parameters)
        }
        _ => quote_spanned!(span=> &(#expression)),
    }
}

fn parts(tuple: &ExprTuple, parameters: &[Parameter]) -> TokenStream {
    let parts = tuple.elems.iter().map(|part| match part {
        Expr::Tuple(tuple) => parts(tuple, parameters),
        other => borrowed(other, parameters),
    });
    quote_spanned!(tuple.paren_token.span.join()=> (#(#parts,)*))
}

fn is_parameter(path: &ExprPath, parameters: &[Parameter]) -> bool {
    let is = |ident: &Ident| parameters.iter().flat_map(Parameter::names).any(|name| name.unraw() == ident.unraw());
    path.path.get_ident().is_some_and(is)
}

/// The call of the user's function, and its response.
fn reply(handler: &Handler) -> TokenStream {
    let Handler { parameters, function, .. } = handler;
    let signature = &function.signature;
    // rustc reports an unmet requirement on the return type at that type.
    let span = match &signature.output {
        ReturnType::Type(_, ty) => at(ty),
        ReturnType::Default => at(&signature.ident),
    };
    let private = handler.private(span);
    let mut name = signature.ident.clone();
    name.set_span(span);

    // Types that only the body mentions are not inferred from the arguments; lifetimes always are.
    let params = signature.generics.params.iter().filter_map(|param| match param {
        GenericParam::Type(param) => Some(&param.ident),
        GenericParam::Const(param) => Some(&param.ident),
        GenericParam::Lifetime(_) => None,
    });
    let params: Vec<_> = params.collect();
    let turbofish = (!params.is_empty()).then(|| quote_spanned!(span=> ::<#(#params),*>));

    let mut extractors = outside::named(parameters).map(|(name, _)| name);
    let arguments = parameters.iter().map(|parameter| match parameter.role {
        Role::Extractor => extractors.next(),
        Role::Context(_) | Role::Misused(_) => Some(format_ident!("__idem_context", span = Span::mixed_site())),
    });
    quote_spanned!(span=> #private::reply(#name #turbofish(#(#arguments),*).await))
}

impl Handler {
    /// The module that expansions call, with the span that rustc should underline. A path given by the user keeps its
    /// own span, so that rustc reports a wrong path there and nothing more.
    fn private(&self, place: Span) -> TokenStream {
        match &self.krate {
            Some(path) => quote_spanned!(place=> #path::__private),
            None => quote_spanned!(place=> ::idem_core::__private),
        }
    }
}

/// The same tokens with another span for rustc to underline.
fn said_at(tokens: impl ToTokens, place: Span) -> TokenStream {
    let moved = |token: TokenTree| match token {
        TokenTree::Group(group) => {
            let mut moved = Group::new(group.delimiter(), said_at(group.stream(), place));
            moved.set_span(group.span().located_at(place));
            TokenTree::Group(moved)
        }
        mut other => {
            other.set_span(other.span().located_at(place));
            other
        }
    };
    tokens.into_token_stream().into_iter().map(moved).collect()
}

/// A span of the user's code, for tokens whose names are ours.
fn at(tokens: impl Spanned) -> Span {
    Span::mixed_site().located_at(tokens.span())
}
