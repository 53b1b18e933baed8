//! What a retry would get now.

use idem_core::machine::{Explanation, Retry};
use idem_core::{Error, Identity, machine};

use crate::database::Database;

/// Explains what a retry would get. The runs are looked at before the record: a run that ends in between has its record.
pub(crate) async fn explain<D: Database>(store: &D, identity: &Identity, retry: &Retry) -> Result<Explanation, Error> {
    let here = store.running().in_flight(&identity.digest(), retry.fingerprint);
    let (elsewhere, (record, now)) = store.seen(identity, retry.fingerprint).await?;
    Ok(machine::explain(record.as_ref(), here.or(elsewhere), retry, now))
}
