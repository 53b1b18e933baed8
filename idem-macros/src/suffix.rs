//! Suffixes on literals. `"24h"foo` is one token: rustc refuses it only where it stays in the program, and the attribute
//! takes most of its literals out.

use syn::visit::Visit;
use syn::{Expr, Lit};

use crate::errors::Errors;

/// Reports every suffix that no literal can have.
pub(crate) fn check(value: &Expr, errors: &mut Errors) {
    struct Suffixes<'a>(&'a mut Errors);

    impl Visit<'_> for Suffixes<'_> {
        fn visit_lit(&mut self, literal: &Lit) {
            // A number may have one (`1_u8`), and rustc knows which.
            if !matches!(literal, Lit::Int(_) | Lit::Float(_))
                && let Some(message) = refused(literal)
            {
                self.0.at(literal, message);
            }
        }
    }

    Suffixes(errors).visit_expr(value);
}

/// What is wrong with a literal that has a suffix.
pub(crate) fn refused(literal: &Lit) -> Option<String> {
    let suffix = literal.suffix();
    let text = quote::quote!(#literal).to_string();
    let plain = text.strip_suffix(suffix).filter(|_| !suffix.is_empty())?;
    Some(format!("`{text}` has a suffix\nhelp: write `{plain}`"))
}
