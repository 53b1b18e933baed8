//! `#[cfg]` on parameters: one variant of the function for each combination of the conditions.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, FnArg, Meta};

use crate::item::Function;

/// A function without `#[cfg]` on its parameters, and the condition under which it is used.
pub(crate) struct Variant {
    pub(crate) function: Function,
    condition: Vec<TokenStream>,
}

/// All variants of the function. There is only one if no parameter has a condition.
///
/// rustc evaluates such conditions only after this macro, and the macro cannot ask it. The arguments of a call cannot
/// have conditions, and the expansion writes a call. So the whole handler gets the conditions.
pub(crate) fn variants(function: Function) -> Vec<Variant> {
    let mut open = vec![Variant { function, condition: Vec::new() }];
    let mut decided = Vec::new();
    while let Some(variant) = open.pop() {
        match variant.split() {
            Some(variants) => open.extend(variants),
            None => decided.push(variant),
        }
    }
    decided
}

impl Variant {
    /// The variants without and with the first parameter that has a condition.
    fn split(&self) -> Option<[Self; 2]> {
        let mut function = self.function.clone();
        let mut inputs = function.signature.inputs.iter_mut().enumerate();
        let (at, predicate) = inputs.find_map(|(at, input)| Some((at, take_cfg(input)?)))?;
        let mut without = function.clone();
        without.signature.inputs = (function.signature.inputs.iter().enumerate())
            .filter(|(index, _)| *index != at)
            .map(|(_, input)| input.clone())
            .collect();
        let and = |predicate| self.condition.iter().cloned().chain([predicate]).collect();
        Some([
            Self { function: without, condition: and(quote!(not(#predicate))) },
            Self { function, condition: and(predicate) },
        ])
    }

    /// The items under the variant's condition.
    pub(crate) fn only_here(&self, items: impl IntoIterator<Item = TokenStream>) -> TokenStream {
        let condition = &self.condition;
        let cfg = (!condition.is_empty()).then(|| quote!(#[cfg(all(#(#condition),*))]));
        items.into_iter().map(|item| quote!(#cfg #item)).collect()
    }
}

/// Removes the condition from a parameter: all its `#[cfg(…)]` as one.
fn take_cfg(input: &mut FnArg) -> Option<TokenStream> {
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
    (!predicates.is_empty()).then(|| quote!(all(#(#predicates),*)))
}
