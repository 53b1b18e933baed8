//! Running the migrations.

use idem_core::seal::{Mark, other_index};
use idem_core::{Error, Kind};

use crate::accepted::Naming;
use crate::database::Database;
use crate::migrations::{Migration, pending};

/// Runs the pending migrations, and notes the mark of the store's index. Any number of processes may do this at once.
pub(crate) async fn migrate<D: Database>(store: &D, migrations: &[Migration]) -> Result<(), Error> {
    let mark = store.sealer().mark();
    // Even creating what already exists needs the right to create, so look first.
    if pending(migrations, &store.migrated().await?).is_empty() && store.naming().await? == Naming::from(mark) {
        return Ok(());
    }
    // Another process may have migrated meanwhile.
    let (mut session, migrated) = store.begin_migrations().await?;
    for migration in pending(migrations, &migrated) {
        store.run_migration(&mut session, migration).await?;
    }
    name_records(store, &mut session, mark).await?;
    store.commit(session).await.map_err(Error::from)
}

/// Notes the mark of the store's index in the database, which then refuses claims under another index.
///
/// The first index key is for ever. So a mark replaces no other mark, and comes before the first record: a request whose
/// record has a name without an index would run again.
async fn name_records<D: Database>(store: &D, session: &mut D::Session, mark: Option<Mark>) -> Result<(), Error> {
    match store.naming_in(session).await? {
        naming if naming == mark.into() => Ok(()),
        Naming::Indexed(_) => Err(other_index()),
        Naming::Plain | Naming::Unguarded => {
            if store.name_records(session, mark).await? {
                return Ok(());
            }
            Err(Error::new(Kind::DeploymentBroken).because(
                "an index key names records otherwise than the records that are in force here, so their requests would \
                 run again: it has to be there before the first request, or the tables have to be new",
            ))
        }
    }
}
