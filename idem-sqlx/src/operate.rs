//! What an operator asks and changes: the flows.

use std::borrow::Cow;
use std::time::Duration;

use idem_core::machine::{Details, Expected, Explanation, Retry, Seen, SeenStep};
use idem_core::operate::{Change, Condition, Counted, Counts, Cursor, Forgotten, Listed, Page, Query, Reason};
use idem_core::seal::other_index;
use idem_core::store::{Claim, EntryKind, Record, State, Timestamp};
use idem_core::{Error, Identity, Kind, Scope, machine};
use sqlx::FromRow;
use tokio::time::sleep;

use crate::accepted::Naming;
use crate::database::{Database, Sight};
use crate::error::store_error;
use crate::row;

/// Records that one statement lists.
const LISTED_AT_ONCE: u32 = 1000;

/// How often a batch is tried again whose records another transaction has locked.
const TRIES: u32 = 20;

/// Explains what a retry would get. The runs are looked at before the record: a run that ends in between has its record.
pub(crate) async fn explain<D: Database>(store: &D, identity: &Identity, retry: &Retry) -> Result<Explanation, Error> {
    let identity = &*named(store, identity, retry).await?;
    let fingerprint = retry.fingerprint.map(|fingerprint| store.sealer().fingerprint(identity, fingerprint));
    let retry = &Retry { fingerprint, ..*retry };
    let digest = identity.digest();
    let here = store.running().in_flight(&digest, retry.fingerprint);
    let is_here = store.running().runs(&digest);
    let Sight { in_flight, found: (record, now), details } = store.seen(identity, retry.fingerprint).await?;
    let explanation = machine::explain(record.as_ref(), here.or(in_flight), retry, now);
    let mut explanation = store.sealer().explanation(identity, explanation.with(Details { is_here, ..details }));
    match readable(store, identity, record, explanation.expected).await {
        Ok(()) => Ok(explanation),
        Err(error) if error.kind() == Kind::RecordUnreadable => {
            explanation.expected = Expected::Refuse(Kind::RecordUnreadable);
            Ok(explanation)
        }
        Err(error) => Err(error),
    }
}

/// The identity as it is stored. A name that was made here counts only if the database names its records in the same way,
/// since the next claim would be refused otherwise.
async fn named<'i, D: Database>(store: &D, identity: &'i Identity, retry: &Retry) -> Result<Cow<'i, Identity>, Error> {
    let is_read_from_a_record = identity.key.is_stored() && retry.fingerprint.is_none();
    if !is_read_from_a_record {
        let naming = store.naming().await?;
        if naming != Naming::Unguarded && naming != store.sealer().mark().into() {
            return Err(other_index());
        }
    }
    Ok(store.sealer().identity(identity))
}

/// Whether the contents can be read that a request would read: a key may be missing, or somebody may have changed them.
async fn readable<D: Database>(
    store: &D,
    identity: &Identity,
    record: Option<Record>,
    expected: Expected,
) -> Result<(), Error> {
    match (expected, record.map(|record| record.state)) {
        (Expected::Replay, Some(State::Completed(reply))) => store.sealer().reply(identity, reply).map(drop),
        (Expected::Resume(_), _) => {
            let sealed = store.read_entries(identity).await?;
            sealed.into_iter().try_for_each(|entry| store.sealer().open_entry(identity, entry).map(drop))
        }
        _ => Ok(()),
    }
}

/// A page of records. The statements are short, and choose nothing but a range of the primary key.
pub(crate) async fn list<D: Database>(store: &D, query: &Query) -> Result<Page, Error> {
    let mut after = query.after.clone().unwrap_or_else(|| beginning(query));
    let (mut records, mut looked_at) = (Vec::new(), 0);
    loop {
        let some = store.list_some(query.scope.as_ref(), &after, LISTED_AT_ONCE).await?;
        let is_last = (some.records.len() as u32) < LISTED_AT_ONCE;
        let now = some.now;
        looked_at += some.records.len() as u32;
        for record in some.records {
            if is_past(query, &record.at) {
                return Ok(Page::new(records, None, now));
            }
            if records.len() == query.page_size() {
                return Ok(Page::new(records, Some(after), now));
            }
            after = record.at.clone();
            if query.asks_for(&record, now) {
                records.push(record);
            }
        }
        if is_last {
            return Ok(Page::new(records, None, now));
        }
        if looked_at >= Query::MOST_LOOKED_AT {
            return Ok(Page::new(records, Some(after), now));
        }
    }
}

/// A place before all records that are asked for.
fn beginning(query: &Query) -> Cursor {
    let scope = query.scope.as_ref().map(|scope| scope.as_str().to_owned()).unwrap_or_default();
    // Without a scope, the operation bounds nothing.
    let operation = query.operation.clone().filter(|_| query.scope.is_some()).unwrap_or_default();
    Cursor { scope, operation, key_hash: Vec::new() }
}

/// Whether no later record is asked for.
fn is_past(query: &Query, at: &Cursor) -> bool {
    query.scope.is_some() && query.operation.as_ref().is_some_and(|operation| at.operation > *operation)
}

/// Removes the finished records of a scope, batch by batch.
pub(crate) async fn forget<D: Database>(store: &D, scope: &Scope, is_dry: bool) -> Result<Forgotten, Error> {
    let mut forgotten = Forgotten::default();
    let mut after = (String::new(), Vec::new());
    let mut tries = 0;
    loop {
        let batch = store.forget_batch(scope, &after, is_dry).await?;
        let Forgotten { removed, emptied, kept, .. } = batch.forgotten;
        forgotten += Forgotten::new(removed, emptied, 0);
        // A transaction that looks up what became of its COMMIT has locked a finished record, for a moment.
        if batch.busy > 0 {
            tries += 1;
            if tries == TRIES {
                return Err(Error::new(Kind::RetryLater).because(
                    "some finished records are locked by other transactions; the rest is forgotten, ask again",
                ));
            }
            sleep(Duration::from_millis(50)).await;
            continue;
        }
        tries = 0;
        forgotten += Forgotten::new(0, 0, kept);
        match batch.reached {
            // A damaged row can be behind every place that is named.
            Some(reached) if reached > after => after = reached,
            _ => return Ok(forgotten),
        }
    }
}

/// Resets the attempts of a run that is not over and that no process holds.
pub(crate) async fn reset_attempts<D: Database>(store: &D, identity: &Identity) -> Result<Change, Error> {
    let identity = &*named(store, identity, &Retry::default()).await?;
    let mut session = store.begin().await?;
    let change = match store.reset_attempts(&mut session, identity).await? {
        true => Change::Made,
        false => why_not(store, &mut session, identity).await?,
    };
    store.commit(session).await?;
    Ok(change)
}

/// Gives a run up that no process holds. The new claim is of no process: what an earlier attempt still writes is refused.
pub(crate) async fn give_up<D: Database>(store: &D, identity: &Identity, reason: &Reason) -> Result<Change, Error> {
    let identity = &*named(store, identity, &Retry::default()).await?;
    let nobodys = Claim::random()?;
    let reason = &*store.sealer().reason(identity, reason)?;
    let mut session = store.begin().await?;
    let change = match store.give_up(&mut session, identity, nobodys, reason).await? {
        true => Change::Made,
        false => why_not(store, &mut session, identity).await?,
    };
    store.commit(session).await?;
    Ok(change)
}

async fn why_not<D: Database>(store: &D, session: &mut D::Session, identity: &Identity) -> Result<Change, Error> {
    let (record, now) = store.find(session, identity).await?;
    Ok(match record.filter(|record| !record.has_expired(now)).map(|record| record.state) {
        // The lease may have ended since the change was refused.
        Some(State::Leased { until, .. }) => Change::Held(until),
        _ => Change::NoRun,
    })
}

/// The columns beside those of the record, in a row of a list.
#[derive(FromRow)]
pub(crate) struct ListedColumns {
    scope: String,
    operation: String,
    key_hash: Vec<u8>,
    created_at: Option<i64>,
    now: i64,
}

/// A row of a list, and when it was read. A row that is no record is one that cannot be read, and ends no list.
pub(crate) fn listed(
    read: Result<(Option<Record>, Timestamp), Error>,
    columns: sqlx::Result<ListedColumns>,
) -> Result<(Listed, Timestamp), Error> {
    let ListedColumns { scope, operation, key_hash, created_at, now } = columns.map_err(store_error)?;
    let now = Timestamp(now);
    let record = match read {
        Ok((Some(record), _)) => record,
        Err(error) if error.kind() != Kind::RecordUnreadable => return Err(error),
        _ => {
            let nobodys = Claim::from_bytes(&[0; 16]).ok_or_else(|| Error::new(Kind::RecordUnreadable))?;
            Record::new(None, State::Unreadable, nobodys, Timestamp(i64::MAX))
        }
    };
    let seen = Seen::of(&record, now).begun_at(created_at.map(Timestamp));
    Ok((Listed::new(Cursor { scope, operation, key_hash }, seen), now))
}

/// A group of records, as both dialects count them.
pub(crate) type Group = (
    String,       // operation
    Option<i16>,  // state
    bool,         // whether there is a reply
    Option<bool>, // whether the lease is held
    bool,         // whether the `ttl` is over
    bool,         // whether retries are refused after it
    i64,          // records
    i64,          // records that began today
    i64,          // now, by the database's clock
);

/// Counts from groups. The condition of a group is that of a record which is as all of them are.
pub(crate) fn counts(groups: Vec<Group>, now: Timestamp) -> Result<Counts, Error> {
    const NOW: i64 = 1;
    let counted = groups.into_iter().map(|group| {
        let (operation, state, has_reply, is_held, is_past, is_kept, records, today, _) = group;
        let later = |is_later: bool| if is_later { NOW + 1 } else { NOW };
        let reply = || has_reply.then(Vec::new);
        let format = has_reply.then_some(1);
        let expires_at = Some(later(!is_past));
        let kept_until = is_kept.then_some(NOW + 1);
        let lease_until = is_held.map(later);
        let columns = (
            None,
            state,
            Some(vec![0; 16]),
            format,
            None,
            reply(),
            reply(),
            expires_at,
            kept_until,
            None,
            lease_until,
            Some(1),
            Some(0),
            NOW,
        );
        let (record, at) = row::read(columns)?;
        let record = record.ok_or_else(|| Error::new(Kind::RecordUnreadable))?;
        let condition = Condition::of(&record, at);
        let (records, today) = (records.cast_unsigned(), today.cast_unsigned());
        Ok(Counted { operation, condition, records, today })
    });
    Ok(Counts::new(counted.collect::<Result<Vec<_>, Error>>()?, now))
}

/// Implements the traits for a store.
macro_rules! operate {
    ($store:ty) => {
        impl idem_core::operate::Inspect for $store {
            fn explain<'a>(&'a self, identity: &'a Identity, retry: &'a Retry) -> Answer<'a, Explanation> {
                Box::pin($crate::operate::explain(self, identity, retry))
            }

            fn list<'a>(&'a self, query: &'a idem_core::operate::Query) -> Answer<'a, Page> {
                Box::pin($crate::operate::list(self, query))
            }

            fn counts(&self) -> Answer<'_, Counts> {
                Box::pin(self.count_records())
            }

            fn backlog(&self) -> Answer<'_, Backlog> {
                Box::pin(self.count_backlog())
            }
        }

        impl idem_core::operate::Operate for $store {
            fn forget<'a>(&'a self, scope: &'a Scope, is_dry: bool) -> Answer<'a, Forgotten> {
                Box::pin($crate::operate::forget(self, scope, is_dry))
            }

            fn reset_attempts<'a>(&'a self, identity: &'a Identity) -> Answer<'a, Change> {
                Box::pin($crate::operate::reset_attempts(self, identity))
            }

            fn give_up<'a>(&'a self, identity: &'a Identity, reason: &'a Reason) -> Answer<'a, Change> {
                Box::pin($crate::operate::give_up(self, identity, reason))
            }

            fn new_epoch(&self) -> Answer<'_, ()> {
                Box::pin($crate::database::Database::new_epoch(self))
            }
        }
    };
}
pub(crate) use operate;

/// What is known of a record beyond what decides. No row: the record is another one by now.
pub(crate) fn details(rows: Vec<StepColumns>) -> Details {
    let mut details = Details::default();
    for (created_at, reason, position, kind, name, at) in rows {
        details.created_at = created_at.map(Timestamp);
        details.reason = reason.map(Reason::from_stored);
        if let (Some(position), Some(kind), Some(name)) = (position, kind, name) {
            let kind = EntryKind(kind);
            let position = u32::try_from(position).unwrap_or(0);
            details.steps.push(SeenStep { position, kind, name, at: at.map(Timestamp) });
        }
    }
    details
}

/// A record joined with one entry of its journal, as both dialects select them.
pub(crate) type StepColumns = (
    Option<i64>,    // created_at
    Option<String>, // reason
    Option<i32>,    // position
    Option<i16>,    // kind
    Option<String>, // name
    Option<i64>,    // created_at of the entry
);
