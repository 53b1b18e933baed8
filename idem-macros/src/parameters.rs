//! The handler's parameters: the context, and the extractors around it.

use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, FnArg, GenericArgument, Ident, Pat, PatIdent, PatType, PathArguments, Signature, Type};

/// One parameter and its purpose.
pub(crate) struct Parameter {
    /// Mostly lint levels: `#[cfg]` is evaluated before.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) pat: Pat,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// The purpose of a parameter.
pub(crate) enum Role {
    /// `&mut T`, with this `T`. No extractor is a `&mut`, so the parameter is the context.
    Context(Type),
    /// Anything that Axum gets from the request.
    Extractor,
    /// A mistake: a context that is not taken by `&mut`, but by value, by `&` or inside another type. It is detected by
    /// its name.
    Misused(Type),
}

/// Names of context types, used only in reports. A context is known by its `&mut`, so any other type can also be a
/// context.
const CONTEXTS: [&str; 5] = ["PgTx", "SqliteTx", "PgSteps", "SqliteSteps", "RedisSteps"];

/// Whether the type is a context, by its name.
pub(crate) fn is_known(context: &Type) -> bool {
    let Type::Path(path) = plain(context) else { return false };
    path.path.segments.last().is_some_and(|last| CONTEXTS.iter().any(|name| last.ident == name))
}

/// What sqlx calls a transaction or a connection. Neither knows of a claim.
pub(crate) fn is_sqlx(context: &Type) -> bool {
    let Type::Path(path) = plain(context) else { return false };
    let Some(last) = path.path.segments.last() else { return false };
    match last.ident.to_string().as_str() {
        "PgTransaction" | "SqliteTransaction" | "PgConnection" | "SqliteConnection" => true,
        // With its database parameter, because a user's own context may have this name.
        "Transaction" | "PoolConnection" => {
            let arguments = last.arguments.to_token_stream().to_string();
            arguments.contains("Postgres") || arguments.contains("Sqlite")
        }
        _ => false,
    }
}

/// The transaction that Redis does not have.
pub(crate) fn is_of_redis(context: &Type) -> bool {
    let Type::Path(path) = plain(context) else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "RedisTx")
}

/// The parameters in their order, without a receiver.
pub(crate) fn parameters(signature: &Signature) -> Vec<Parameter> {
    let typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    typed
        .map(|PatType { attrs, pat, ty, .. }| Parameter {
            attrs: attrs.clone(),
            pat: (**pat).clone(),
            ty: (**ty).clone(),
            role: role(ty),
        })
        .collect()
}

/// The purpose of a parameter of this type.
pub(crate) fn role(ty: &Type) -> Role {
    match plain(ty) {
        Type::Reference(reference) if reference.mutability.is_some() => Role::Context((*reference.elem).clone()),
        other => named_as_context(other).map_or(Role::Extractor, Role::Misused),
    }
}

/// The context that a value of this type holds, by its name.
///
/// `Service<PgTx>` and `impl Fn(&mut PgTx)` hold none, so only types that are known to hold a value are searched.
fn named_as_context(ty: &Type) -> Option<Type> {
    const HOLDERS: [&str; 7] = ["Option", "Box", "Pin", "Arc", "Rc", "Mutex", "RefCell"];
    let path = match plain(ty) {
        Type::Reference(reference) => return named_as_context(&reference.elem),
        Type::Path(path) => path,
        _ => return None,
    };
    let last = path.path.segments.last()?;
    if CONTEXTS.iter().any(|name| last.ident == name) {
        return Some(Type::Path(path.clone()));
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(held) if HOLDERS.iter().any(|name| last.ident == name) => named_as_context(held),
        _ => None,
    }
}

/// The type without the invisible group that a `macro_rules!` argument comes in, and without parentheses.
pub(crate) fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain(&group.elem),
        Type::Paren(paren) => plain(&paren.elem),
        other => other,
    }
}

/// Axum's extractors that hold a value. A plain function has little use for them.
const EXTRACTORS: [&str; 7] = ["Json", "State", "Path", "Query", "Form", "Extension", "TypedHeader"];

/// The first segment of a path to such an extractor. `sqlx::types::Json` is another type.
const AXUM: [&str; 3] = ["axum", "axum_extra", "extract"];

impl Parameter {
    /// The name of the type if it is one of Axum's extractors, by its path.
    pub(crate) fn extractor_by_name(&self) -> Option<&Ident> {
        let Type::Path(path) = plain(&self.ty) else { return None };
        let segments = &path.path.segments;
        let (first, last) = (segments.first()?, segments.last()?);
        let may_be_axums = segments.len() == 1 || AXUM.iter().any(|name| first.ident == name);
        let holds_something = matches!(last.arguments, PathArguments::AngleBracketed(_));
        (may_be_axums && holds_something && EXTRACTORS.iter().any(|name| last.ident == name)).then_some(&last.ident)
    }

    /// The name of the type if it is one of Axum's extractors that read the body, by its path.
    pub(crate) fn body_extractor_by_name(&self) -> Option<&Ident> {
        fn named(ty: &Type) -> Option<&Ident> {
            let Type::Path(path) = plain(ty) else { return None };
            let (first, last) = (path.path.segments.first()?, path.path.segments.last()?);
            let held = match &last.arguments {
                PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                    Some(GenericArgument::Type(held)) => Some(held),
                    _ => None,
                },
                _ => None,
            };
            if last.ident == "Option" || last.ident == "Result" {
                return named(held?);
            }
            let is_known = match held {
                Some(_) => ["Json", "Form"].iter().any(|name| last.ident == name),
                None => ["RawForm", "Multipart", "Bytes", "String"].iter().any(|name| last.ident == name),
            };
            let may_be_axums = path.path.segments.len() == 1
                || AXUM.iter().chain(&["bytes", "std", "alloc"]).any(|name| first.ident == name);
            (is_known && may_be_axums).then_some(&last.ident)
        }

        named(&self.ty)
    }

    /// The names that the pattern binds.
    pub(crate) fn names(&self) -> Vec<Ident> {
        struct Names(Vec<Ident>);

        impl Visit<'_> for Names {
            fn visit_pat_ident(&mut self, pat: &PatIdent) {
                self.0.push(pat.ident.clone());
                visit::visit_pat_ident(self, pat);
            }
        }

        let mut names = Names(Vec::new());
        names.visit_pat(&self.pat);
        names.0
    }

    /// Whether the pattern has a macro, so that its names are not known.
    pub(crate) fn binds_unknown_names(&self) -> bool {
        struct Macros(bool);

        impl Visit<'_> for Macros {
            fn visit_macro(&mut self, _: &syn::Macro) {
                self.0 = true;
            }
        }

        let mut macros = Macros(false);
        macros.visit_pat(&self.pat);
        macros.0
    }

    /// The pattern for a borrowed value, without `mut`, `ref` and `&`, which are for a moved value.
    pub(crate) fn borrowing_pattern(&self) -> Pat {
        struct Borrow;

        impl VisitMut for Borrow {
            fn visit_pat_mut(&mut self, pat: &mut Pat) {
                while let Pat::Reference(reference) = pat {
                    *pat = (*reference.pat).clone();
                }
                visit_mut::visit_pat_mut(self, pat);
            }

            fn visit_pat_ident_mut(&mut self, pat: &mut PatIdent) {
                pat.mutability = None;
                pat.by_ref = None;
                visit_mut::visit_pat_ident_mut(self, pat);
            }
        }

        let mut pat = self.pat.clone();
        Borrow.visit_pat_mut(&mut pat);
        pat
    }
}
