//! Whether the file accepts the store's statements.

use idem_core::Error;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::session::Session;
use super::store::SqliteStore;
use super::{epoch, leases, operate, records, sweep};
use crate::accepted::RefusedStatement;
use crate::error::store_error;

impl SqliteStore {
    /// Has SQLite compile each statement of the store, and returns those that it refuses: a table or column is missing.
    /// No statement is executed.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::SqliteStore) -> Result<(), idem_core::Error> {
    /// for refused in store.refused_statements().await? {
    ///     println!("{}: {:?}", refused.name, refused.error);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The file cannot be opened.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn refused_statements(&self) -> Result<Vec<RefusedStatement>, Error> {
        let mut session = Session::begin_reading(self.pool()).await?;
        let mut refused = Vec::new();
        for (name, text) in texts() {
            if let Err(error) = session.connection().prepare(AssertSqlSafe(text).into_sql_str()).await {
                refused.push(RefusedStatement { name, error: store_error(error) });
            }
        }
        session.rollback().await;
        Ok(refused)
    }
}

/// The texts as they are sent.
fn texts() -> Vec<(&'static str, String)> {
    let fixed = [records::ALL, leases::ALL, epoch::ALL].concat();
    fixed.into_iter().map(|(name, text)| (name, text.to_owned())).chain(sweep::all()).chain(operate::all()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A statement that is in no list would not be checked.
    #[test]
    fn r37a_every_statement_is_in_a_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sqlite");
        let mut left_out = Vec::new();
        for file in ["records", "leases", "operate", "sweep", "epoch"] {
            let source = fs::read_to_string(format!("{folder}/{file}.rs")).expect("a source");
            // After the name of a constant, or of a text that is put together once.
            // What is in front of the first one is no constant.
            let constants = source.split("\nconst ").skip(1).chain(source.split("\nstatic ").skip(1));
            let names = constants.filter_map(|text| {
                let (name, rest) = text.split_once(": ")?;
                (rest.starts_with("&str") || rest.starts_with("LazyLock<String>")).then_some(name)
            });
            let listed = source.split("Every text with its name").nth(1).expect("a list");
            left_out.extend(names.filter(|name| !listed.contains(name)).map(|name| format!("{file}: {name}")));
        }
        left_out.sort();
        // Conditions of other statements.
        assert_eq!(left_out, ["operate: IN_BATCH"]);
    }

    #[test]
    fn r37a_each_text_is_a_statement_on_our_tables() {
        for (name, text) in texts() {
            assert!(text.contains("main.idem_"), "{name}: {text}");
        }
    }
}
