//! Checks that a method says which `self` it is called on.

use proc_macro2::{Literal, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Expr, ExprPath, Item, Lit, Macro, Signature};

use super::Form;
use crate::args::Args;
use crate::errors::{Errors, text};

/// Reports a method whose records do not depend on `self`: a call on a second value would get the result of the first.
///
/// The default fingerprint leaves out `self`, which may not be serializable.
pub(super) fn check(args: &Args, form: Form, signature: &Signature, errors: &mut Errors) {
    let (Form::Plain, Some(receiver)) = (form, signature.receiver()) else { return };
    // A missing scope is reported elsewhere.
    let Some(scope) = &args.scope else { return };
    let expressions = [&args.scope, &args.key, &args.fingerprint];
    if expressions.into_iter().flatten().any(|arg| names_self(&arg.value)) {
        return;
    }
    let example = match text(&scope.value).as_str() {
        "global" => "scope = self.name".to_owned(),
        scope => format!("scope = (self.name, {scope})"),
    };
    errors.at(
        receiver,
        format!(
            "`scope`, `key` and `fingerprint` all leave out `self`, so another `self` would get this one's result\n\
             help: write `{example}` for a field that tells them apart, or name it in `key` or `fingerprint`"
        ),
    );
}

fn names_self(value: &Expr) -> bool {
    struct Named(bool);

    impl Visit<'_> for Named {
        fn visit_expr_path(&mut self, path: &ExprPath) {
            // `self::NAME` is a path to a module.
            self.0 |= path.path.is_ident("self");
            visit::visit_expr_path(self, path);
        }

        fn visit_macro(&mut self, call: &Macro) {
            self.0 |= stands_in(call.tokens.clone());
        }

        // A nested item can only have a `self` of its own.
        fn visit_item(&mut self, _: &Item) {}
    }

    let mut named = Named(false);
    named.visit_expr(value);
    named.0
}

/// Whether a macro's tokens name `self`, also inside a string, as `format!` takes it.
fn stands_in(tokens: TokenStream) -> bool {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let stands_here = match token {
            TokenTree::Ident(word) => {
                let is_of_a_path = matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() == ':');
                word == "self" && !is_of_a_path
            }
            TokenTree::Group(group) => stands_in(group.stream()),
            TokenTree::Literal(literal) => is_captured(&literal),
            TokenTree::Punct(_) => false,
        };
        if stands_here {
            return true;
        }
    }
    false
}

/// Whether a format string captures `self`: `{self}`, `{self:?}`, `{:self$}`.
fn is_captured(literal: &Literal) -> bool {
    let Lit::Str(string) = Lit::new(literal.clone()) else { return false };
    // Two braces are an escaped brace, not an argument.
    let string = string.value().replace("{{", "");
    let mut arguments = string.split('{').skip(1).filter_map(|argument| argument.split_once('}'));
    arguments.any(|(argument, _)| {
        let (name, format) = argument.split_once(':').unwrap_or((argument, ""));
        name.trim() == "self" || format.split_inclusive('$').filter_map(|count| count.strip_suffix('$')).any(is_of_self)
    })
}

/// Whether a part of a format, up to its `$`, ends in the name.
fn is_of_self(count: &str) -> bool {
    count.rsplit(|letter: char| !(letter.is_alphanumeric() || letter == '_')).next() == Some("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn named(expression: &str) -> bool {
        names_self(&syn::parse_str(expression).expect("an expression"))
    }

    #[test]
    fn r08_an_expression_that_names_self() {
        for expression in [
            "self",
            "self.name",
            "&self.0",
            "(order.id, self.name)",
            "self.name()",
            "name(self)",
            "names.iter().map(|name| (self.name, name))",
            "match self.kind { Kind::A => 1, _ => 2 }",
            "if order.amount > self.limit { 1 } else { 2 }",
            "{ let name = &self.name; name }",
            "format!(\"{}\", self.name)",
            "format!(\"{}\", (order.id, self.name))",
            "format!(\"{self}\")",
            "format!(\"{order} { self:?}\")",
            "format!(r#\"{{}} {self:>8}\"#)",
            "format!(\"{order:>self$.3}\")",
            "matches!(self, Self::A)",
            "concat(vec![format!(\"{self}\")])",
        ] {
            assert!(named(expression), "{expression}");
        }
    }

    #[test]
    fn r08_an_expression_that_does_not() {
        for expression in [
            "global",
            "\"self\"",
            "\"{self}\"",
            "order.this",
            "Self::NAME",
            "self::NAME",
            "self::name(order)",
            "name(self::NAME, order.id)",
            "format!(\"{}\", self::NAME)",
            "format!(\"self {{self}} {myself} {self_name}\")",
            "format!(\"{order:>myself$}\")",
            "format!(\"{}\", \"itself\")",
            "{ struct Name; impl Name { fn name(&self) -> &Self { self } } order.id }",
        ] {
            assert!(!named(expression), "{expression}");
        }
    }
}
