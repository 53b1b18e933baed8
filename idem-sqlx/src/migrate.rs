//! Running the migrations.

use idem_core::Error;

use crate::database::Database;
use crate::migrations::{Migration, pending};

/// Runs the pending migrations. Any number of processes may do this at once.
pub(crate) async fn migrate<D: Database>(store: &D, migrations: &[Migration]) -> Result<(), Error> {
    // Even creating what already exists needs the right to create, so look first.
    if pending(migrations, &store.migrated().await?).is_empty() {
        return Ok(());
    }
    // Another process may have migrated meanwhile.
    let (mut session, migrated) = store.begin_migrations().await?;
    for migration in pending(migrations, &migrated) {
        store.run_migration(&mut session, migration).await?;
    }
    store.commit(session).await.map_err(Error::from)
}
