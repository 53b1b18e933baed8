//! Whether the file accepts the store's statements.

use idem_core::Error;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::session::Session;
use super::store::SqliteStore;
use super::{leases, records, sweep};
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
    let fixed = [records::ALL, leases::ALL].concat();
    fixed.into_iter().map(|(name, text)| (name, text.to_owned())).chain(sweep::all()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A statement that is written elsewhere would not be checked.
    #[test]
    fn r37a_every_statement_on_a_table_is_checked() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sqlite");
        let mut written = 0;
        for file in fs::read_dir(folder).expect("the sources") {
            let text = fs::read_to_string(file.expect("a file").path()).expect("a text");
            let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            written += text.matches(concat!("main", ".idem_")).count();
        }
        // `find` is written once and read twice. The sweep's condition is written once and read three times. The copy
        // into an archive and the list of migrations are not checked: the first has the archive's name in it.
        let checked: usize = texts().iter().map(|(_, text)| text.matches("main.idem_").count()).sum();
        assert_eq!(written - 2, checked - 1 - 2);
    }
}
