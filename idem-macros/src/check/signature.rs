//! Checks that the function can be a handler with a context.

use std::ptr;

use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{
    FnArg, GenericArgument, Ident, Path, PathArguments, PathSegment, ReceiverKind, ReturnType, Safety, Signature, Type,
    TypeFnPtr, TypeReference, parse_quote,
};

use super::Form;
use crate::errors::{Errors, text};
use crate::item::{Function, is_ours};
use crate::parameters::{Parameter, Role, is_known, is_of_redis, is_sqlx, plain};

/// Reports what no handler can have, and returns the type of the context.
pub(super) fn check(function: &Function, form: Form, parameters: &[Parameter], errors: &mut Errors) -> Type {
    check_once(function, errors);
    check_qualifiers(&function.signature, errors);
    match form {
        Form::Axum => {
            check_no_self(&function.signature, errors);
            check_reply_ends(&function.signature, parameters, errors);
            check_body_is_last(parameters, errors);
        }
        Form::Plain => {
            check_receiver(&function.signature, errors);
            check_result_is_owned(&function.signature, errors);
        }
    }
    check_error(&function.signature, errors);
    let context = context(&function.signature, parameters, errors);
    check_generic(&function.signature, &context, errors);
    context
}

fn check_once(function: &Function, errors: &mut Errors) {
    for attr in &function.attrs {
        if is_ours(attr) {
            errors.at(attr, "`#[idempotent]` is given twice\nhelp: keep one of them, with all arguments");
        }
    }
}

fn check_qualifiers(signature: &Signature, errors: &mut Errors) {
    let mut refuse = |qualifier: &dyn ToTokens, what: &str, help: &str| {
        errors.at(qualifier, format!("an idempotent handler cannot be {what}\nhelp: {help}"));
    };
    if let Some(token) = &signature.constness {
        refuse(token, "`const`", "remove `const`");
    }
    if let Safety::Unsafe(token) = &signature.safety {
        refuse(token, "`unsafe`", "remove `unsafe`: nobody is there to keep its promises when it runs again");
    }
    if let Some(abi) = &signature.abi {
        refuse(abi, "`extern`", "remove it");
    }
    if let Some(variadic) = &signature.variadic {
        refuse(variadic, "variadic", "name the parameters");
    }
    if signature.asyncness.is_none() && signature.constness.is_none() {
        if returns_boxed_future(signature) {
            errors.at(
                signature.fn_token,
                "`#[idempotent]` goes on an `async fn`, not on what `#[async_trait]` or another macro has made of one\n\
                 help: put it on an `async fn` of the type's own `impl`, and call that in the trait's method",
            );
        } else {
            refuse(&signature.fn_token, "synchronous", "write `async fn`");
        }
    }
}

/// Whether it returns a `Pin<Box<dyn Future<…>>>`, under any paths.
fn returns_boxed_future(signature: &Signature) -> bool {
    // rustc writes tokens with line breaks.
    let output: String = signature.output.to_token_stream().to_string().split_whitespace().collect();
    ["Pin<", "Box<dyn", "Future<"].iter().all(|part| output.contains(part))
}

/// A method shares its `self` with other waiting calls and with the retry.
fn check_receiver(signature: &Signature, errors: &mut Errors) {
    let Some(FnArg::Receiver(receiver)) = signature.inputs.first() else { return };
    let mutability = match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => Some(mutability),
        ReceiverKind::Typed(_, ty) => match plain(ty) {
            Type::Reference(reference) => Some(&reference.mutability),
            _ => None,
        },
        _ => None,
    };
    let why = match mutability {
        Some(None) => return,
        Some(Some(_)) => "a replay would not change it again, so it cannot be changed",
        None => "a retry calls it again, so it cannot be used up",
    };
    errors.at(receiver, format!("{why}\nhelp: write `&self`"));
}

fn check_no_self(signature: &Signature, errors: &mut Errors) {
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        errors.at(
            receiver,
            "an Axum handler takes no `self`\n\
             help: make it a free function and take what it needs as `State`; \
             or, off the web, name its key, which makes it a plain function: `key = order.id`",
        );
        return;
    }
    for name in self_types(signature) {
        errors.at(name, "a handler cannot name `Self`\nhelp: write the type's name");
    }
}

/// Axum lets only the last extractor read the body, and says so of no function without `#[debug_handler]`.
fn check_body_is_last(parameters: &[Parameter], errors: &mut Errors) {
    let extractors = parameters.iter().filter(|parameter| matches!(parameter.role, Role::Extractor));
    let mut before_the_last: Vec<_> = extractors.collect();
    before_the_last.pop();
    for parameter in before_the_last {
        if let Some(name) = parameter.body_extractor_by_name() {
            errors.at(
                &parameter.ty,
                format!("`{name}` reads the body, so it is the last extractor\nhelp: move it behind the others"),
            );
        }
    }
}

/// `Result<&str, E>` can be written, and not read back.
fn check_result_is_owned(signature: &Signature, errors: &mut Errors) {
    struct Borrowed<'a>(&'a mut Errors);

    impl Visit<'_> for Borrowed<'_> {
        fn visit_type_reference(&mut self, reference: &TypeReference) {
            let help = match plain(&reference.elem) {
                Type::Path(path) if path.path.is_ident("str") => "write `String`".to_owned(),
                Type::Slice(slice) => format!("write `Vec<{}>`", text(&slice.elem)),
                owned => format!("write `{}`", text(owned)),
            };
            self.0
                .at(reference, format!("a retry reads the result from its record, so it cannot borrow\nhelp: {help}"));
        }

        fn visit_path_segment(&mut self, segment: &PathSegment) {
            // Without a value there is nothing to borrow.
            if segment.ident != "PhantomData" {
                visit::visit_path_segment(self, segment);
            }
        }

        fn visit_type_fn_ptr(&mut self, _: &TypeFnPtr) {}
    }

    if let Some([Some(value), _]) = result(signature) {
        Borrowed(errors).visit_type(value);
    }
}

/// No crate but sqlx itself could make its error a response, or make it of ours.
fn check_error(signature: &Signature, errors: &mut Errors) {
    let is_sqlxs = |path: &Path, name: &str| {
        let mut last = path.segments.iter().rev().map(|segment| &segment.ident);
        last.next().is_some_and(|last| last == name) && last.next().is_some_and(|module| module == "sqlx")
    };
    let wrong: &dyn ToTokens = match (&signature.output, result(signature)) {
        (_, Some([_, Some(Type::Path(error))])) if is_sqlxs(&error.path, "Error") => error,
        (ReturnType::Type(_, ty), Some([_, None])) => match plain(ty) {
            Type::Path(alias) if is_sqlxs(&alias.path, "Result") => alias,
            _ => return,
        },
        _ => return,
    };
    errors.at(
        wrong,
        "an error of sqlx is no answer to a caller\n\
         help: return `Result<…, idem_core::Error>`, and write `.map_err(idem_sqlx::into_idem_error)?` at each statement; \
         or return an error type of yours",
    );
}

/// The types of `Result<T, E>`, as far as they are written.
fn result(signature: &Signature) -> Option<[Option<&Type>; 2]> {
    let ReturnType::Type(_, ty) = &signature.output else { return None };
    let Type::Path(path) = plain(ty) else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let mut types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(plain(ty)),
        _ => None,
    });
    Some([types.next(), types.next()])
}

/// A stored reply must have an end. An event stream and a socket have none, and they are known by name. Behind
/// `impl IntoResponse` they cannot be detected, and inside another type they are not the reply.
fn check_reply_ends(signature: &Signature, parameters: &[Parameter], errors: &mut Errors) {
    let (stream, socket) = (("Sse", "an event stream"), ("WebSocketUpgrade", "a socket"));
    // A socket is a parameter, a stream is returned.
    for parameter in parameters {
        refuse_endless(&parameter.ty, &[socket], errors);
    }
    if let ReturnType::Type(_, ty) = &signature.output {
        refuse_endless(ty, &[stream, socket], errors);
    }
}

fn refuse_endless(ty: &Type, names: &[(&str, &str)], errors: &mut Errors) {
    let path = match plain(ty) {
        Type::Tuple(parts) => return parts.elems.iter().for_each(|part| refuse_endless(part, names, errors)),
        Type::Path(path) => path,
        _ => return,
    };
    let Some(last) = path.path.segments.last() else { return };
    if let Some((_, what)) = names.iter().find(|(name, _)| last.ident == name) {
        errors.at(
            &last.ident,
            format!(
                "{what} has no end, so there is no reply to store for a retry\n\
                 help: answer with a result that ends, such as `Json<…>`, \
                 and open {what} on a route without `#[idempotent]`"
            ),
        );
    }
    let name = last.ident.to_string();
    if let PathArguments::AngleBracketed(arguments) = &last.arguments
        // `ApiResult<Sse<…>>` is a result type of the user's own.
        && (name.ends_with("Result") || name == "Option")
    {
        for argument in &arguments.args {
            if let GenericArgument::Type(ty) = argument {
                refuse_endless(ty, names, errors);
            }
        }
    }
}

/// Where the signature says `Self`: a function inside another function cannot say it.
pub(crate) fn self_types(signature: &Signature) -> Vec<Ident> {
    struct SelfTypes(Vec<Ident>);

    impl Visit<'_> for SelfTypes {
        fn visit_path(&mut self, path: &Path) {
            let first = path.segments.first().map(|first| &first.ident);
            self.0.extend(first.filter(|first| *first == "Self").cloned());
            visit::visit_path(self, path);
        }
    }

    let mut types = SelfTypes(Vec::new());
    types.visit_signature(signature);
    types.0
}

/// The one parameter that is `&mut`.
fn context(signature: &Signature, parameters: &[Parameter], errors: &mut Errors) -> Type {
    let borrowed = parameters.iter().filter_map(|parameter| match &parameter.role {
        Role::Context(context) => Some(context),
        Role::Extractor | Role::Misused(_) => None,
    });
    let borrowed: Vec<_> = borrowed.collect();
    // If there are several, take the one with the name of a context, otherwise the first.
    let meant = borrowed.iter().copied().find(|context| is_known(context)).or(borrowed.first().copied());

    let mut misused = false;
    for Parameter { ty, role, .. } in parameters {
        match role {
            Role::Context(context) if meant.is_some_and(|meant| !ptr::eq(meant, context)) => {
                let help = if is_known(context) {
                    "keep one `&mut` parameter"
                } else {
                    "only the context is `&mut`: take this one by value or by `&`"
                };
                errors.at(ty, format!("a handler has one context\nhelp: {help}"));
            }
            Role::Context(context) => {
                if is_sqlx(context) {
                    let context = text(context);
                    errors.at(
                        ty,
                        format!(
                            "`{context}` is no idempotency context, since it holds no claim\n\
                             help: write `&mut PgTx` or `&mut SqliteTx`, which is used like sqlx's own transaction"
                        ),
                    );
                }
                if is_of_redis(context) {
                    let context = text(context);
                    errors.at(
                        ty,
                        format!(
                            "`{context}` is no idempotency context, since Redis has no transaction for the handler's writes\n\
                             help: write `steps: &mut RedisSteps`, and make each effect a call: `steps.call(\"name\", …)`"
                        ),
                    );
                }
                check_lifetime(ty, errors);
            }
            Role::Misused(context) => {
                misused = true;
                let context = text(context);
                errors.at(ty, format!("the context is lent to the handler\nhelp: write `&mut {context}`"));
            }
            Role::Extractor => {}
        }
    }
    if meant.is_none() && !misused {
        errors.at(
            &signature.ident,
            "no context parameter says how the handler runs\n\
             help: add `tx: &mut PgTx` or `tx: &mut SqliteTx` to run it in one transaction \
             or `steps: &mut PgSteps` or `steps: &mut SqliteSteps` to run it in recorded steps",
        );
    }
    meant.cloned().unwrap_or_else(|| parse_quote!(_))
}

/// The context is dropped when the run ends.
fn check_lifetime(ty: &Type, errors: &mut Errors) {
    if let Type::Reference(reference) = plain(ty)
        && let Some(lifetime) = reference.lifetime.as_ref().filter(|lifetime| lifetime.ident == "static")
    {
        let context = text(&reference.elem);
        errors.at(lifetime, format!("the context is lent to the handler, for one run\nhelp: write `&mut {context}`"));
    }
}

/// A route gives no way to infer the context, and the context decides how the handler runs.
fn check_generic(signature: &Signature, context: &Type, errors: &mut Errors) {
    let is_generic = match plain(context) {
        Type::ImplTrait(_) => true,
        Type::Path(path) => signature.generics.type_params().any(|param| path.path.is_ident(&param.ident)),
        _ => false,
    };
    if is_generic {
        errors.at(
            context,
            "the context says how the handler runs, so its type cannot be generic\n\
             help: name the type: `tx: &mut PgTx` or `tx: &mut SqliteTx`",
        );
    }
}
