//! Statements in front of the user's own.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt};
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Item, Result};

/// The body with these statements in front of the user's, behind inner attributes and items.
///
/// `#![…]` can only stand first. Clippy reports items that come after statements.
pub(super) fn put(statements: TokenStream, body: &TokenTree) -> TokenTree {
    let TokenTree::Group(group) = body else { return body.clone() };
    if statements.is_empty() {
        return body.clone();
    }
    let with_statements = |input: ParseStream<'_>| {
        let mut whole = TokenStream::new();
        whole.append_all(input.call(Attribute::parse_inner)?);
        while let Some(item) = item(input)? {
            item.to_tokens(&mut whole);
        }
        whole.extend(statements.clone());
        whole.extend(input.parse::<TokenStream>()?);
        Ok(whole)
    };
    // rustc reports what cannot be parsed, at the user's own tokens.
    let Ok(whole) = with_statements.parse2(group.stream()) else { return body.clone() };
    let mut put = Group::new(group.delimiter(), whole);
    put.set_span(group.span());
    put.into()
}

/// The next item, if one comes next. The call of a macro may be a statement; `macro_rules!` has a name and is an item.
fn item(input: ParseStream<'_>) -> Result<Option<Item>> {
    let ahead = input.fork();
    match ahead.parse::<Item>() {
        Ok(Item::Macro(call)) if call.ident.is_none() => Ok(None),
        Ok(Item::Verbatim(_)) | Err(_) => Ok(None),
        Ok(item) => {
            input.advance_to(&ahead);
            Ok(Some(item))
        }
    }
}
