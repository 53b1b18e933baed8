//! Checks that the parameters an expression names exist.

use std::collections::BTreeSet;

use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprAsync, ExprAwait, ExprCall, ExprClosure, ExprMethodCall, ExprPath, ExprReturn, ExprTry, Ident, Item,
    PatIdent,
};

use super::Form;
use crate::args::Arg;
use crate::errors::{Errors, any_of};
use crate::nearest::nearest;
use crate::parameters::{Parameter, Role};

/// The names that an expression may use, and those that it may not.
pub(super) struct Names {
    form: Form,
    bound: Vec<Ident>,
    context: Vec<Ident>,
    all_known: bool,
}

impl Names {
    pub(super) fn of(form: Form, parameters: &[Parameter], has_self: bool) -> Self {
        let names = |of_context| -> Vec<Ident> {
            let wanted =
                parameters.iter().filter(move |parameter| matches!(parameter.role, Role::Extractor) != of_context);
            wanted.flat_map(Parameter::names).map(|name| name.unraw()).collect()
        };
        let bound = names(false).into_iter().chain(has_self.then(|| Ident::new("self", Span::call_site()))).collect();
        Self { form, bound, context: names(true), all_known: !parameters.iter().any(Parameter::binds_unknown_names) }
    }

    /// Reports every name in the argument's value that can only mean a parameter, but is none.
    pub(super) fn check(&self, arg: &Arg, errors: &mut Errors) {
        let name = &arg.name;
        let help = match self.form {
            Form::Axum => "do it in an extractor, and name what that gives",
            Form::Plain => "do it before the call, and pass what that gives as an argument",
        };
        Leaving(|token: &dyn ToTokens, what| {
            errors.at(
                token,
                format!("`{what}` cannot stand in `{name}`, which is evaluated outside the handler\nhelp: {help}"),
            );
        })
        .visit_expr(&arg.value);

        let mut locals = Locals(BTreeSet::new());
        locals.visit_expr(&arg.value);
        let mut mentioned = Mentioned(Vec::new());
        mentioned.visit_expr(&arg.value);

        for name in mentioned.0 {
            let word = name.unraw();
            if self.context.contains(&word) {
                errors.at(
                    &name,
                    format!(
                        "`{word}` is the context, which begins only after `{}` is known\nhelp: {}",
                        arg.name,
                        self.parameters()
                    ),
                );
            } else if self.all_known && !self.bound.contains(&word) && !locals.0.contains(&word.to_string()) {
                let bound: Vec<_> = self.bound.iter().map(ToString::to_string).collect();
                let help = match nearest(&word.to_string(), bound.iter().map(String::as_str)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => self.parameters(),
                };
                errors.at(&name, format!("no parameter named `{word}`\nhelp: {help}"));
            }
        }
    }

    /// Reports a parameter that has the name of the argument's value, if the value is a word of the attribute.
    pub(super) fn check_word(&self, arg: &Arg, word: &str, consequence: &str, errors: &mut Errors) {
        for name in self.bound.iter().chain(&self.context).filter(|name| *name == word) {
            errors.at(
                name,
                format!(
                    "`{} = {word}` does not mean this parameter: {consequence}\n\
                     help: rename the parameter, so that one can tell which is meant",
                    arg.name
                ),
            );
        }
    }

    fn parameters(&self) -> String {
        match self.bound.is_empty() {
            true => "the handler has no parameter besides its context".to_owned(),
            false => format!("name {}, or a part of it", any_of(&self.bound)),
        }
    }
}

/// Names in a place where only a variable can be.
struct Mentioned(Vec<Ident>);

impl Visit<'_> for Mentioned {
    fn visit_expr_path(&mut self, path: &ExprPath) {
        let Some(name) = path.path.get_ident() else { return };
        let is_variable = name.unraw().to_string().starts_with(|letter: char| letter.is_lowercase() || letter == '_');
        if path.qself.is_none() && is_variable {
            self.0.push(name.clone());
        }
    }

    fn visit_expr_call(&mut self, call: &ExprCall) {
        if !matches!(*call.func, Expr::Path(_)) {
            self.visit_expr(&call.func);
        }
        call.args.iter().for_each(|argument| self.visit_argument(argument));
    }

    fn visit_expr_method_call(&mut self, call: &ExprMethodCall) {
        self.visit_expr(&call.receiver);
        call.args.iter().for_each(|argument| self.visit_argument(argument));
    }
}

impl Mentioned {
    /// A bare name passed to a function may be another function: `map(to_id)`. If the name does not exist, rustc
    /// reports it.
    fn visit_argument(&mut self, argument: &Expr) {
        if !matches!(argument, Expr::Path(_)) {
            visit::visit_expr(self, argument);
        }
    }
}

/// Names that the expression binds itself: in closures, `match` and `let`.
struct Locals(BTreeSet<String>);

impl Visit<'_> for Locals {
    fn visit_pat_ident(&mut self, pat: &PatIdent) {
        self.0.insert(pat.ident.unraw().to_string());
        visit::visit_pat_ident(self, pat);
    }
}

/// What would return from the function that evaluates the expression, or make that function wait. It is not the user's
/// function.
struct Leaving<F>(F);

impl<F: FnMut(&dyn ToTokens, &'static str)> Visit<'_> for Leaving<F> {
    fn visit_expr_try(&mut self, expr: &ExprTry) {
        self.0(&expr.question_token, "?");
        visit::visit_expr_try(self, expr);
    }

    fn visit_expr_await(&mut self, expr: &ExprAwait) {
        self.0(&expr.await_token, ".await");
        visit::visit_expr_await(self, expr);
    }

    fn visit_expr_return(&mut self, expr: &ExprReturn) {
        self.0(&expr.return_token, "return");
        visit::visit_expr_return(self, expr);
    }

    // In here they return only from the user's own closure or block.
    fn visit_expr_closure(&mut self, _: &ExprClosure) {}
    fn visit_expr_async(&mut self, _: &ExprAsync) {}
    fn visit_item(&mut self, _: &Item) {}
}
