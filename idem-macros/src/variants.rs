//! `#[cfg]` on parameters: one variant of the function for each combination of the conditions.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Error, FnArg, Meta, Result, Signature};

use crate::item::Function;

/// How many conditions may differ. Each of them doubles the function.
const MOST: usize = 4;

/// A function without `#[cfg]` on its parameters, and the condition under which it is used.
pub(crate) struct Variant {
    pub(crate) function: Function,
    condition: Vec<TokenStream>,
}

/// All variants of the function. There is only one if no parameter has a condition.
///
/// rustc evaluates such conditions only after this macro, and the macro cannot ask it. The arguments of a call cannot
/// have conditions, and the expansion writes a call. So the whole handler gets the conditions.
pub(crate) fn variants(mut function: Function) -> Result<Vec<Variant>> {
    let written = function.signature.clone();
    // The condition of each parameter, by its number. Equal conditions share theirs.
    let mut conditions: Vec<Condition> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let inputs: Vec<_> = (function.signature.inputs.iter_mut())
        .map(|input| {
            let condition = take_cfg(input)?;
            let next = conditions.len();
            let number = *known.entry(condition.predicate.to_string()).or_insert(next);
            let needed = (number, !condition.negated);
            if number == next {
                conditions.push(condition);
            }
            Some(needed)
        })
        .collect();
    if conditions.len() > MOST {
        return Err(too_many(conditions.len(), &written));
    }
    let variants = (0..1_usize << conditions.len()).rev().map(|chosen| {
        let holds = |number: usize| chosen >> number & 1 == 1;
        let mut function = function.clone();
        function.signature.inputs = (function.signature.inputs.into_iter().zip(&inputs))
            .filter(|(_, needed)| needed.is_none_or(|(number, needed)| holds(number) == needed))
            .map(|(input, _)| input)
            .collect();
        let condition = (conditions.iter().enumerate())
            .map(|(number, Condition { predicate, .. })| match holds(number) {
                true => quote!(#predicate),
                false => quote!(not(#predicate)),
            })
            .collect();
        Variant { function, condition }
    });
    Ok(variants.collect())
}

fn too_many(count: usize, written: &Signature) -> Error {
    Error::new_spanned(
        &written.ident,
        format!(
            "the parameters have {count} different conditions, and each of them doubles the function\n\
             help: leave at most {MOST}, or put the conditions on several functions: `#[cfg(…)] async fn {} …`",
            written.ident
        ),
    )
}

impl Variant {
    /// The items under the variant's condition.
    pub(crate) fn only_here(&self, items: impl IntoIterator<Item = TokenStream>) -> TokenStream {
        let condition = &self.condition;
        let cfg = (!condition.is_empty()).then(|| quote!(#[cfg(all(#(#condition),*))]));
        items.into_iter().map(|item| quote!(#cfg #item)).collect()
    }
}

/// What `#[cfg]` says on a parameter, without the `not(…)` around it.
struct Condition {
    predicate: TokenStream,
    negated: bool,
}

/// Removes the condition from a parameter: all its `#[cfg(…)]` as one.
fn take_cfg(input: &mut FnArg) -> Option<Condition> {
    let attrs = match input {
        FnArg::Typed(typed) => &mut typed.attrs,
        FnArg::Receiver(receiver) => &mut receiver.attrs,
    };
    let (conditions, others): (Vec<Attribute>, _) = attrs.drain(..).partition(|attr| attr.path().is_ident("cfg"));
    *attrs = others;
    let predicates = conditions.iter().filter_map(|attr| match &attr.meta {
        Meta::List(list) => Some(list.tokens.to_token_stream()),
        Meta::Path(_) | Meta::NameValue(_) => None,
    });
    let predicates: Vec<_> = predicates.collect();
    match predicates.as_slice() {
        [] => None,
        [predicate] => Some(Condition::of(predicate.clone())),
        _ => Some(Condition { predicate: quote!(all(#(#predicates),*)), negated: false }),
    }
}

impl Condition {
    fn of(predicate: TokenStream) -> Self {
        let negation = match syn::parse2::<Meta>(predicate.clone()) {
            Ok(Meta::List(list)) if list.path.is_ident("not") => list.tokens,
            _ => return Self { predicate, negated: false },
        };
        let Self { predicate, negated } = Self::of(negation);
        Self { predicate, negated: !negated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of each variant's parameters, with its condition.
    fn of(function: &str) -> Result<Vec<(String, String)>> {
        let variants = variants(syn::parse_str(function).expect("a function"))?;
        let text = |tokens: TokenStream| tokens.to_string().replace(' ', "");
        let described = variants.iter().map(|Variant { function, condition }| {
            (text(function.signature.inputs.to_token_stream()), text(quote!(#(#condition),*)))
        });
        Ok(described.collect())
    }

    fn expected(variants: &[(&str, &str)]) -> Vec<(String, String)> {
        variants.iter().map(|(inputs, condition)| ((*inputs).to_owned(), (*condition).to_owned())).collect()
    }

    #[test]
    fn equal_and_opposite_conditions_share_their_variants() {
        let one = of("async fn f(#[cfg(unix)] a: A, b: B, #[cfg(unix)] c: C, #[cfg(not(unix))] d: D) {}").expect("few");
        assert_eq!(one, expected(&[("a:A,b:B,c:C", "unix"), ("b:B,d:D", "not(unix)")]));

        let twice = of("async fn f(#[cfg(not(not(unix)))] a: A, #[cfg(unix)] b: B) {}").expect("few");
        assert_eq!(twice, expected(&[("a:A,b:B", "unix"), ("", "not(unix)")]));

        let none = of("async fn f(a: A) {}").expect("none");
        assert_eq!(none, expected(&[("a:A", "")]));
    }

    #[test]
    fn other_conditions_are_combined() {
        let all = of("async fn f(#[cfg(a)] #[cfg(b)] a: A, #[cfg(c)] b: B) {}").expect("few");
        let both = [("a:A,b:B", "all(a,b),c"), ("b:B", "not(all(a,b)),c"), ("a:A", "all(a,b),not(c)")];
        assert_eq!(all[..3], expected(&both));
        assert_eq!(all[3], (String::new(), "not(all(a,b)),not(c)".to_owned()));
    }

    #[test]
    fn many_parameters_with_few_conditions_are_few_variants() {
        let parameters = |conditions: usize| {
            let parameters = (0..16).map(|at| format!("#[cfg(feature = \"f{}\")] p{at}: u8", at % conditions));
            format!("async fn f({}) {{}}", parameters.collect::<Vec<_>>().join(", "))
        };
        for conditions in 1..=MOST {
            assert_eq!(of(&parameters(conditions)).expect("few").len(), 1 << conditions);
        }
        let refused = of(&parameters(MOST + 1)).expect_err("too many").to_string();
        assert!(refused.contains("5 different conditions"), "{refused}");
    }
}
