//! The item under the attribute, as it was written.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, Ident, Result, Signature, Token, Visibility};

/// A function whose body is left as tokens: a half-typed body keeps the compiler's own errors.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) signature: Signature,
    pub(crate) body: TokenTree,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        refuse_other_items(input)?;
        let signature: Signature = input.parse()?;
        if let Some(semicolon) = input.parse::<Option<Token![;]>>()? {
            return Err(Error::new_spanned(
                semicolon,
                "a handler has a body\nhelp: put `#[idempotent]` on the function that does the work, not on its declaration",
            ));
        }
        let body: TokenTree = input.parse()?;
        Ok(Self { attrs, vis, signature, body })
    }
}

/// The name of the item's kind, if the item is not a function.
fn refuse_other_items(input: ParseStream<'_>) -> Result<()> {
    let ahead = input.fork();
    while ahead.peek(Token![unsafe]) || ahead.peek(Token![async]) || ahead.peek(Token![const]) {
        // A `const` item is no `const fn`.
        if ahead.peek(Token![const])
            && !(ahead.peek2(Token![fn]) || ahead.peek2(Token![async]) || ahead.peek2(Token![unsafe]))
        {
            break;
        }
        ahead.call(<Ident as syn::ext::IdentExt>::parse_any)?;
    }
    let what = if ahead.peek(Token![struct]) {
        "a struct"
    } else if ahead.peek(Token![enum]) {
        "an enum"
    } else if ahead.peek(Token![trait]) {
        "a trait"
    } else if ahead.peek(Token![impl]) {
        "an `impl` block"
    } else if ahead.peek(Token![mod]) {
        "a module"
    } else if ahead.peek(Token![fn]) || ahead.peek(Token![extern]) {
        return Ok(());
    } else {
        "this item"
    };
    let keyword: TokenTree = ahead.parse()?;
    Err(Error::new_spanned(
        keyword,
        format!("`#[idempotent]` goes on an `async fn`, not on {what}\nhelp: put it on each handler"),
    ))
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { attrs, vis, signature, body } = self;
        quote::quote!(#(#attrs)* #vis #signature #body).to_tokens(tokens);
    }
}

/// Whether this is a second `#[idempotent]`.
pub(crate) fn is_ours(attr: &Attribute) -> bool {
    attr.path().segments.last().is_some_and(|last| last.ident == "idempotent")
}
