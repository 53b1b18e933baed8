//! What an operator asks and changes, and the runs that are left to resume.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use idem_core::machine::{Details, Expected, Explanation, Retry, Seen, SeenStep, explain};
use idem_core::observer::Backlog;
use idem_core::operate::{
    Answer, Change, Condition, Counted, Counts, Cursor, Forgotten, Inspect, Listed, Operate, Page, Query, Reason,
};
use idem_core::store::{Abandoned, Claim, Place, State, Timestamp};
use idem_core::{Error, Identity, Kind, Scope};

use crate::connection::{Node, arguments};
use crate::failure::Failed;
use crate::keys::{self, Keys, SHARDS};
use crate::record::{self, Found, Looked};
use crate::scripts;
use crate::store::RedisStore;

/// Questions that are asked at a time.
const AT_ONCE: usize = 64;

/// Runs of a page.
const PAGE: usize = 100;

/// What to read of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What a list shows.
    Head,
    /// Its journal and contents, too.
    Whole,
}

impl RedisStore {
    /// Reads a record. If it is over, it leaves the index.
    async fn look(&self, keys: &Keys, depth: Depth) -> Result<Looked, Error> {
        let flag = if depth == Depth::Whole { "1" } else { "0" };
        let arguments = arguments![flag, &keys.member, flag];
        let answer = self.connection().read(&scripts::LOOK, keys, &arguments).await;
        match answer.and_then(|answer| record::looked(answer, depth == Depth::Whole)) {
            Ok(looked) => Ok(looked),
            Err(Failed::NotDone(Kind::RecordUnreadable, _)) => self.look_at_a_stranger().await,
            Err(failed) => Err(failed.harmless()),
        }
    }

    /// Another program's value under our name.
    async fn look_at_a_stranger(&self) -> Result<Looked, Error> {
        let time = self.connection().ask(None, &redis::cmd("TIME")).await.map_err(Failed::harmless)?;
        let (seconds, rest): (i64, i64) =
            redis::from_redis_value(time).map_err(|error| Failed::from(redis::RedisError::from(error)).harmless())?;
        let found = Found { record: record::unreadable(), at: None, created_at: None, reason: None };
        Ok(Looked { found: Some(found), now: Timestamp(seconds * 1_000_000 + rest), entries: None, input: None })
    }
}

/// A page of the abandoned runs of an operation. The indexes of all shards are read together, since a page is in the order
/// of places.
pub(crate) async fn abandoned(
    store: &RedisStore,
    operation: &str,
    after: Option<Place>,
) -> Result<Vec<Abandoned>, Error> {
    let mut after = after
        .map(|Place { scope, key_hash }| keys::member(&Cursor { scope, operation: operation.to_owned(), key_hash }));
    let mut page = Vec::new();
    loop {
        let (members, is_last) = members(store, operation.as_bytes(), after.as_deref()).await?;
        after = members.last().cloned().or(after);
        let runs = stream::iter(members).map(|member| async move {
            let Some((operation, place)) = keys::place(&member) else { return Ok(None) };
            let at = Cursor { scope: place.scope.clone(), operation, key_hash: place.key_hash.clone() };
            let Some(identity) = at.identity() else { return Ok(None) };
            let looked = store.look(&store.keys(&identity), Depth::Head).await?;
            let is_abandoned = looked.found.map(|found| found.of(&identity).record).is_some_and(|record| {
                let is_free = matches!(record.state, State::Leased { until, .. } if until <= looked.now);
                is_free && !record.has_expired(looked.now)
            });
            Ok::<_, Error>(looked.input.filter(|_| is_abandoned).map(|input| Abandoned { place, input }))
        });
        let runs: Vec<_> = runs.buffered(AT_ONCE).try_collect().await?;
        page.extend(runs.into_iter().flatten());
        if is_last || page.len() >= PAGE {
            page.truncate(PAGE);
            return Ok(page);
        }
    }
}

/// Members of all indexes after a place, in their order, and whether there are no more of them.
async fn members(store: &RedisStore, operation: &[u8], after: Option<&[u8]>) -> Result<(Vec<Vec<u8>>, bool), Error> {
    let first = match after {
        Some(after) => [b"(", after].concat(),
        None => [b"[", operation, b"\0"].concat(),
    };
    let last = [b"(", operation, b"\x01"].concat();
    let (first, last) = (first.as_slice(), last.as_slice());
    let pages = stream::iter(0..SHARDS).map(|shard| async move {
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(keys::index(store.prefix(), shard)).arg(first).arg(last).arg("LIMIT").arg(0).arg(PAGE);
        let answer = store.connection().ask_by_key(&command).await?;
        Ok::<Vec<Vec<u8>>, Failed>(redis::from_redis_value(answer).map_err(redis::RedisError::from)?)
    });
    let pages: Vec<_> = pages.buffer_unordered(AT_ONCE).try_collect().await.map_err(Failed::harmless)?;
    // A full page hides members that come after it: only those up to the end of the first full page are known to be all.
    let horizon = pages.iter().filter(|page| page.len() == PAGE).filter_map(|page| page.last().cloned()).min();
    let mut members: Vec<_> = pages.into_iter().flatten().collect();
    members.sort_unstable();
    if let Some(horizon) = &horizon {
        members.retain(|member| member <= horizon);
    }
    Ok((members, horizon.is_none()))
}

/// The names of the records that `SCAN` finds, page by page, on every master.
struct Names<'s> {
    store: &'s RedisStore,
    nodes: Vec<Option<Node>>,
    cursor: Option<u64>,
    pattern: String,
}

impl<'s> Names<'s> {
    async fn of(store: &'s RedisStore) -> Result<Self, Error> {
        let masters = store.connection().ask_masters(&redis::cmd("PING")).await.map_err(Failed::harmless)?;
        let nodes = masters.into_iter().map(|(node, _)| node).collect();
        Ok(Self { store, nodes, cursor: Some(0), pattern: keys::pattern(store.prefix()) })
    }

    /// The next names, or `None` after the last. A name may come twice.
    async fn next(&mut self) -> Result<Option<Vec<String>>, Error> {
        let Some(node) = self.nodes.last() else { return Ok(None) };
        let cursor = self.cursor.unwrap_or(0);
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(1000);
        let answer = self.store.connection().ask(node.as_ref(), &command).await.map_err(Failed::harmless)?;
        let answer =
            redis::from_redis_value(answer).map_err(|error| Failed::from(redis::RedisError::from(error)).harmless());
        let (next, names): (u64, Vec<String>) = answer?;
        self.cursor = Some(next);
        if next == 0 {
            self.nodes.pop();
        }
        Ok(Some(names))
    }

    /// The records of the next names, without their contents.
    async fn next_records(&mut self) -> Result<Option<Vec<(Keys, Looked)>>, Error> {
        let Some(names) = self.next().await? else { return Ok(None) };
        let store = self.store;
        let looked =
            stream::iter(names.into_iter().filter_map(keys::of_record)).map(|[record, reply, index]| async move {
                let keys = Keys { record, reply, index, member: Vec::new() };
                let looked = store.look(&keys, Depth::Head).await?;
                Ok::<_, Error>((keys, looked))
            });
        looked.buffer_unordered(AT_ONCE).try_collect().await.map(Some)
    }
}

/// A record as a list shows it. One that does not say where it is cannot be named in a list.
fn listed(looked: &Looked) -> Option<Listed> {
    let found = looked.found.as_ref()?;
    let mut seen = Seen::of(&found.record, looked.now);
    if let Some(created_at) = found.created_at {
        seen = seen.begun_at(Some(created_at));
    }
    Some(Listed::new(found.at.clone()?, seen))
}

impl Inspect for RedisStore {
    fn explain<'a>(&'a self, identity: &'a Identity, retry: &'a Retry) -> Answer<'a, Explanation> {
        Box::pin(async move {
            let identity = &*self.sealer().identity(identity);
            let fingerprint = retry.fingerprint.map(|asked| self.sealer().fingerprint(identity, asked));
            let retry = &Retry { fingerprint, ..*retry };
            let looked = self.look(&self.keys(identity), Depth::Whole).await?;
            let found = looked.found.map(|found| found.of(identity));
            let record = found.as_ref().map(|found| &found.record);
            let entries = looked.entries;
            let steps = entries.iter().flatten().map(|(entry, at)| SeenStep {
                position: entry.position,
                kind: entry.kind,
                name: entry.name.clone(),
                at: *at,
            });
            let details = Details {
                created_at: found.as_ref().and_then(|found| found.created_at),
                steps: steps.collect(),
                reason: found.as_ref().and_then(|found| found.reason.clone()),
                is_here: self.running().runs(&identity.digest()),
                session: None,
            };
            let explanation = explain(record, None, retry, looked.now).with(details);
            let mut explanation = self.sealer().explanation(identity, explanation);
            let is_readable = match (explanation.expected, record.map(|record| &record.state)) {
                (Expected::Replay, Some(State::Completed(reply))) => {
                    self.sealer().reply(identity, reply.clone()).map(drop)
                }
                (Expected::Resume(_), _) => match entries {
                    Some(entries) => entries
                        .into_iter()
                        .try_for_each(|(entry, _)| self.sealer().open_entry(identity, entry).map(drop)),
                    None => Err(Error::new(Kind::RecordUnreadable)),
                },
                _ => Ok(()),
            };
            match is_readable {
                Err(error) if error.kind() == Kind::RecordUnreadable => {
                    explanation.expected = Expected::Refuse(Kind::RecordUnreadable);
                    Ok(explanation)
                }
                readable => readable.map(|()| explanation),
            }
        })
    }

    /// Redis has no order of keys: each page looks at every record, and keeps the first ones.
    fn list<'a>(&'a self, query: &'a Query) -> Answer<'a, Page> {
        Box::pin(async move {
            let (mut first, mut now) = (BTreeMap::new(), Timestamp(0));
            let (mut names, size) = (Names::of(self).await?, query.page_size());
            while let Some(records) = names.next_records().await? {
                for (_, looked) in &records {
                    now = now.max(looked.now);
                    let Some(listed) = listed(looked) else { continue };
                    let is_later = query.after.as_ref().is_none_or(|after| listed.at > *after);
                    if is_later && query.asks_for(&listed, looked.now) {
                        first.insert(listed.at.clone(), listed);
                    }
                    // One more than a page tells whether another page follows.
                    while first.len() > size + 1 {
                        first.pop_last();
                    }
                }
            }
            let has_more = first.len() > size;
            let mut records: Vec<_> = first.into_values().collect();
            records.truncate(size);
            let next = records.last().filter(|_| has_more).map(|last| last.at.clone());
            Ok(Page::new(records, next, now))
        })
    }

    fn counts(&self) -> Answer<'_, Counts> {
        Box::pin(async move {
            const DAY: i64 = 24 * 60 * 60 * 1_000_000;
            let (mut counted, mut now) = (BTreeMap::new(), Timestamp(0));
            let mut names = Names::of(self).await?;
            while let Some(records) = names.next_records().await? {
                for listed in records.iter().filter_map(|(_, looked)| {
                    now = now.max(looked.now);
                    listed(looked)
                }) {
                    counted.insert(listed.at.clone(), listed);
                }
                if counted.len() >= Counts::MOST as usize {
                    break;
                }
            }
            let groups = counted.into_values().take(Counts::MOST as usize).map(|listed| Counted {
                operation: listed.at.operation,
                condition: listed.seen.condition,
                records: 1,
                today: u64::from(listed.seen.created_at.is_some_and(|at| at.0 > now.0.saturating_sub(DAY))),
            });
            Ok(Counts::new(groups.collect::<Vec<_>>(), now))
        })
    }

    /// Redis removes what has expired, so that nothing of that is left to do.
    fn backlog(&self) -> Answer<'_, Backlog> {
        Box::pin(async move {
            let pages = stream::iter(0..SHARDS).map(|shard| async move {
                let mut command = redis::cmd("ZRANGE");
                command.arg(keys::index(self.prefix(), shard)).arg(0).arg(-1);
                let answer = self.connection().ask_by_key(&command).await?;
                Ok::<Vec<Vec<u8>>, Failed>(redis::from_redis_value(answer).map_err(redis::RedisError::from)?)
            });
            let pages: Vec<_> = pages.buffer_unordered(AT_ONCE).try_collect().await.map_err(Failed::harmless)?;
            let members = pages.into_iter().flatten().take(Backlog::MOST as usize);
            let abandoned = stream::iter(members).map(|member| async move {
                let at = keys::place(&member).map(|(operation, Place { scope, key_hash })| Cursor {
                    scope,
                    operation,
                    key_hash,
                });
                let Some(identity) = at.and_then(|at| at.identity()) else { return Ok(false) };
                let looked = self.look(&self.keys(&identity), Depth::Head).await?;
                Ok::<_, Error>(looked.found.is_some_and(|found| {
                    matches!(Condition::of(&found.record, looked.now), Condition::Abandoned | Condition::Undoing)
                }))
            });
            let abandoned: Vec<bool> = abandoned.buffer_unordered(AT_ONCE).try_collect().await?;
            let abandoned = abandoned.into_iter().filter(|is_abandoned| *is_abandoned).count();
            Ok(Backlog::new(0, Duration::ZERO, abandoned as u64))
        })
    }
}

impl Operate for RedisStore {
    /// Looks at every record.
    fn forget<'a>(&'a self, scope: &'a Scope, is_dry: bool) -> Answer<'a, Forgotten> {
        Box::pin(async move {
            let (mut forgotten, mut seen) = (Forgotten::default(), std::collections::BTreeSet::new());
            let mut names = Names::of(self).await?;
            while let Some(records) = names.next_records().await? {
                for (keys, looked) in records {
                    let is_asked = listed(&looked).is_some_and(|listed| listed.at.scope == scope.as_str());
                    if !is_asked || !seen.insert(keys.record.clone()) {
                        continue;
                    }
                    let arguments = arguments![scope.as_str(), if is_dry { "1" } else { "0" }];
                    let answer = self.connection().write(&scripts::FORGET, &keys, &arguments).await;
                    match redis::from_redis_value::<String>(answer.map_err(Failed::harmless)?).as_deref() {
                        Ok("removed") => forgotten += Forgotten::new(1, 0, 0),
                        Ok("emptied") => forgotten += Forgotten::new(0, 1, 0),
                        Ok("kept") => forgotten += Forgotten::new(0, 0, 1),
                        Ok("none") => {}
                        _ => return Err(Failed::strange().harmless()),
                    }
                }
            }
            Ok(forgotten)
        })
    }

    fn reset_attempts<'a>(&'a self, identity: &'a Identity) -> Answer<'a, Change> {
        Box::pin(change(self, identity, "reset", ""))
    }

    fn give_up<'a>(&'a self, identity: &'a Identity, reason: &'a Reason) -> Answer<'a, Change> {
        Box::pin(async move {
            let identity = &*self.sealer().identity(identity);
            let reason = self.sealer().reason(identity, reason)?;
            change(self, identity, "give_up", reason.as_str()).await
        })
    }
}

async fn change(store: &RedisStore, identity: &Identity, what: &str, reason: &str) -> Result<Change, Error> {
    let identity = &*store.sealer().identity(identity);
    let (keys, nobodys) = (store.keys(identity), Claim::random()?);
    let arguments = arguments![what, nobodys.as_bytes(), reason, &keys.member];
    let answer = store.connection().write(&scripts::CHANGE, &keys, &arguments).await.map_err(Failed::in_doubt)?;
    match redis::from_redis_value::<(String, i64)>(answer) {
        Ok((made, _)) if made == "made" => Ok(Change::Made),
        Ok((held, until)) if held == "held" => Ok(Change::Held(Timestamp(until))),
        Ok((no_run, _)) if no_run == "no_run" => Ok(Change::NoRun),
        _ => Err(Failed::strange().harmless()),
    }
}
