//! What an operator asks about a database: whether its tables and the store's statements fit together.

use idem_core::Error;
use idem_core::seal::Mark;

use crate::migrations::Migration;

/// How the tables of a database compare with this release: the answer of `store.migrations()`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrations {
    /// The files that have been run, of this release and of later ones.
    pub done: Vec<String>,
    /// The files of this release that have not been run. `migrate` runs them.
    pub pending: Vec<&'static str>,
    /// The files that have been run and that this release does not know: a later release has run them.
    pub later: Vec<String>,
    /// How the database names records.
    pub naming: Naming,
}

/// How a database names records: it refuses the claims of a store that names them otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// There are no tables, or nothing in them refuses such claims. `migrate` mends that.
    Unguarded,
    /// By the SHA-256 of their keys.
    Plain,
    /// By an index key with this mark: see [`Seal::hmac`](idem_core::seal::Seal::hmac).
    Indexed(Mark),
}

impl From<Option<Mark>> for Naming {
    fn from(mark: Option<Mark>) -> Self {
        mark.map_or(Self::Plain, Self::Indexed)
    }
}

impl Migrations {
    /// `known` are all files of this release, `wanted` the files among them that the store needs.
    pub(crate) fn new(wanted: &[&Migration], known: &[&Migration], done: Vec<String>, naming: Naming) -> Self {
        let is_in = |files: &[&Migration], name: &str| files.iter().any(|file| file.name == name);
        let is_done = |name: &str| done.iter().any(|done| done == name);
        let pending = wanted.iter().map(|file| file.name).filter(|name| !is_done(name)).collect();
        let later = done.iter().filter(|name| !is_in(known, name)).cloned().collect();
        Self { done, pending, later, naming }
    }
}

/// A statement of the store that the database does not accept: an answer of `store.refused_statements()`.
#[derive(Debug)]
#[non_exhaustive]
pub struct RefusedStatement {
    /// The name of the statement in this crate's source.
    pub name: &'static str,
    /// Why.
    pub error: Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r33_the_tables_are_of_this_release_or_an_earlier_or_a_later_one() {
        let file = |name| Migration { name, sql: "" };
        let (one, two, far) = (file("1_one"), file("2_two"), file("3_far"));
        let compared = |done: &[&str]| {
            let done = done.iter().map(|name| (*name).to_owned()).collect();
            let Migrations { pending, later, .. } =
                Migrations::new(&[&one, &two], &[&one, &two, &far], done, Naming::Plain);
            (pending, later)
        };
        assert_eq!(compared(&[]), (vec!["1_one", "2_two"], vec![]));
        assert_eq!(compared(&["1_one"]), (vec!["2_two"], vec![]));
        assert_eq!(compared(&["2_two", "1_one", "3_far"]), (vec![], vec![]));
        assert_eq!(compared(&["1_one", "2_two", "4_later"]), (vec![], vec!["4_later".to_owned()]));
    }
}
