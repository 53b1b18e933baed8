//! Every mistake of one attribute, reported in one go.

use std::fmt::Display;

use quote::ToTokens;
use syn::Error;

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    /// One more mistake, underlined at these tokens.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(Error::new_spanned(tokens, message));
    }

    /// One more mistake.
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// What was checked, if nothing was wrong with it.
    pub(crate) fn none_or<T>(self, checked: T) -> Result<T, Error> {
        match self.0 {
            None => Ok(checked),
            Some(errors) => Err(errors),
        }
    }
}

/// Names in a sentence: "`a`, `b` and `c`".
pub(crate) fn all_of<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    joined(names, "and")
}

/// Names to choose from: "`a`, `b` or `c`".
pub(crate) fn any_of<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    joined(names, "or")
}

fn joined<T: Display>(names: impl IntoIterator<Item = T>, word: &str) -> String {
    let mut names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match (names.pop(), names.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} {word} {last}", names.join(", ")),
    }
}

/// Tokens as a person would write them: `quote` puts a space between any two.
pub(crate) fn text(tokens: impl ToTokens) -> String {
    let text = tokens.into_token_stream().to_string();
    let spaced = [(" :: ", "::"), (":: ", "::"), (" :: <", "<"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ",")];
    spaced.iter().fold(text, |text, (spaced, plain)| text.replace(spaced, plain))
}

#[cfg(test)]
mod tests {
    use super::{all_of, any_of};

    #[test]
    fn names_are_listed_as_a_person_would() {
        assert_eq!(all_of::<&str>([]), "");
        assert_eq!(all_of(["a"]), "`a`");
        assert_eq!(all_of(["a", "b"]), "`a` and `b`");
        assert_eq!(any_of(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
