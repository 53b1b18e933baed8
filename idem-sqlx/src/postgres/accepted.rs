//! Whether the server accepts the store's statements.

use idem_core::Error;
use sqlx::{AssertSqlSafe, Executor};

use super::session::Session;
use super::statements::Statements;
use super::store::{Isolation, PgStore};
use super::sweep::limited;
use super::sweeps::COUNTED;
use crate::accepted::RefusedStatement;
use crate::error::store_error;

impl PgStore {
    /// Has the server prepare each statement of the store, and returns those that it refuses: a table or column is
    /// missing, or the server lacks a feature. No statement is executed.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::PgStore) -> Result<(), idem_core::Error> {
    /// for refused in store.refused_statements().await? {
    ///     println!("{}: {:?}", refused.name, refused.error);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// # Limitations
    /// Rights are checked when a statement is executed, so a missing right is not found. Nor is a refusal by another
    /// node of a distributed Postgres.
    pub async fn refused_statements(&self) -> Result<Vec<RefusedStatement>, Error> {
        let mut session = Session::begin(self, &Isolation::ReadCommitted.begin()).await?;
        let statements = self.inner().statements(&mut session.in_time()).await?;
        let mut refused = Vec::new();
        for (name, text) in texts(statements) {
            // By `PREPARE`, because what sqlx prepares stays in its cache, and behind a pooler in the server's session.
            let prepare = format!("SAVEPOINT idem_check; PREPARE idem_check AS {text}; DEALLOCATE idem_check");
            let answer = session.in_time().execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await;
            if let Err(error) = answer {
                session.in_time().execute("ROLLBACK TO SAVEPOINT idem_check").await.map_err(store_error)?;
                refused.push(RefusedStatement { name, error: store_error(error) });
            }
        }
        session.rollback().await;
        Ok(refused)
    }
}

/// The texts as they are sent.
fn texts(statements: &Statements) -> Vec<(&'static str, String)> {
    let sent = |(name, text): (&'static str, &str)| match name {
        "sweep" | "sweep_to_archive" => (name, limited(text, 1) + COUNTED),
        "sweep_scope" => (name, text.to_owned() + COUNTED),
        _ => (name, text.to_owned()),
    };
    statements.all().into_iter().map(sent).collect()
}
