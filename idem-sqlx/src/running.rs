//! The runs of this process, by identity.

use std::collections::HashMap;
use std::collections::hash_map::Entry::Occupied;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idem_core::{Error, Fingerprint, Kind, Request};
use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::time::timeout;

use crate::error::not_begun;

/// How often a request that waits for a connection looks whether another request has begun to run for it.
const LOOK: Duration = Duration::from_millis(20);

/// Answers duplicates without a connection, which the run that they duplicate may hold, and on SQLite without the write
/// lock (rule 30a).
///
/// This table only spares that wait. The primary key decides which request runs, as it must for other processes.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    places: HashMap<Digest, Place>,
    entered: u64,
}

/// The digest of an identity. A claim makes it once.
pub(crate) type Digest = [u8; 32];

/// A request that needs a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Request,
    pub(crate) digest: &'a Digest,
    /// False for a process that only resumes a run: its fingerprint does not count.
    pub(crate) is_compared: bool,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    fingerprint: Fingerprint,
    state: State,
    began: Instant,
    /// Until when the lease is surely held, where somebody says so.
    held_until: Option<Instant>,
    /// Tells the entry of this place from a later one of the same identity.
    number: u64,
}

/// What is known of an entered request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is about to ask the primary key. Another process may be running the key.
    Claiming,
    /// It runs in one transaction. No other run can begin before that transaction has ended.
    Transaction,
    /// It runs leased. Another process takes over once the lease has ended, and only the database knows when.
    Leased,
}

impl Running {
    /// Enters the request until the returned entry is dropped, or returns what the entered request means for it. A
    /// leased run means nothing: its lease may have ended, and its record expired.
    #[cfg(feature = "sqlite")]
    pub(crate) fn enter_claiming(&self, request: &Request, digest: Digest) -> Result<Entered, Kind> {
        let mut table = self.table();
        match table.places.get(&digest).filter(|place| place.state != State::Leased) {
            Some(place) => Err(place.means(request)),
            None => Ok(self.entry(&mut table, digest, request.fingerprint, State::Claiming)),
        }
    }

    /// Enters a request that the primary key has let run, until the returned entry is dropped.
    ///
    /// The fingerprint is that of the record: a process that resumes a run may have another one.
    pub(crate) fn enter(&self, digest: Digest, fingerprint: Fingerprint, state: State) -> Entered {
        self.entry(&mut self.table(), digest, fingerprint, state)
    }

    fn entry(&self, table: &mut Table, digest: Digest, fingerprint: Fingerprint, state: State) -> Entered {
        table.entered += 1;
        let number = table.entered;
        table.places.insert(digest, Place { fingerprint, state, began: Instant::now(), held_until: None, number });
        Entered { running: self.clone(), digest, number }
    }

    /// Notes that the lease of the identity is held until then. It was renewed, or claimed, after the request for it was
    /// sent, and the database measures from there.
    pub(crate) fn hold(&self, digest: &Digest, until: Instant) {
        if let Some(place) = self.table().places.get_mut(digest) {
            place.held_until = place.held_until.max(Some(until));
        }
    }

    fn place(&self, digest: &Digest) -> Option<Place> {
        self.table().places.get(digest).copied()
    }

    /// The refusal by a transaction of this process that runs the identity. `asked` is what the retry asks: `None` if it
    /// asks the same.
    pub(crate) fn in_flight(&self, digest: &Digest, asked: Option<Fingerprint>) -> Option<Kind> {
        let place = self.place(digest).filter(|place| place.state == State::Transaction)?;
        let is_same = asked.is_none_or(|asked| asked == place.fingerprint);
        Some(if is_same { Kind::KeyInFlight } else { Kind::KeyReused })
    }

    /// The runs of this process: the identity and the fingerprint of each, and when it was entered.
    pub(crate) fn all(&self) -> Vec<(Digest, Fingerprint, Instant)> {
        let table = self.table();
        let runs = table.places.iter().filter(|(_, place)| place.state != State::Claiming);
        runs.map(|(digest, place)| (*digest, place.fingerprint, place.began)).collect()
    }

    /// Whether this process runs the identity, or an attempt of its run.
    pub(crate) fn runs(&self, digest: &Digest) -> bool {
        self.place(digest).is_some_and(|place| place.state != State::Claiming)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics half way through a change of the table.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an active run of this process means for the request, if the primary key has confirmed that run.
    ///
    /// A leased run answers while its lease is known to be [held](Self::hold), or if the pool is exhausted. Otherwise
    /// the database does, which alone knows whether the lease has ended.
    pub(crate) fn answer<DB: sqlx::Database>(&self, pool: &Pool<DB>, asked: Asked<'_>) -> Option<Kind> {
        let place = self.place(asked.digest)?;
        let answers = match place.state {
            State::Claiming => false,
            State::Transaction => true,
            State::Leased if place.held_until.is_some_and(|end| Instant::now() < end) => true,
            State::Leased => pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections(),
        };
        answers.then(|| if asked.is_compared { place.means(asked.request) } else { Kind::KeyInFlight })
    }

    /// A connection for the request, or what an active run of this process means for it.
    pub(crate) async fn acquire<DB: sqlx::Database>(
        &self,
        pool: &Pool<DB>,
        asked: Asked<'_>,
    ) -> Result<ControlFlow<Kind, PoolConnection<DB>>, Error> {
        // Boxed: it is most of the future of a claim otherwise, and a future is moved before it runs.
        let mut acquiring = Box::pin(pool.acquire());
        loop {
            if let Some(kind) = self.answer(pool, asked) {
                return Ok(ControlFlow::Break(kind));
            }
            // A run of this request may begin while this one waits.
            if let Ok(acquired) = timeout(LOOK, &mut acquiring).await {
                return acquired.map(ControlFlow::Continue).map_err(not_begun);
            }
        }
    }
}

impl Place {
    fn means(&self, request: &Request) -> Kind {
        // A request that is claiming may be about to lose to a record with this request's own reply.
        let is_confirmed = self.state != State::Claiming;
        if is_confirmed && self.fingerprint != request.fingerprint { Kind::KeyReused } else { Kind::KeyInFlight }
    }
}

/// The run is active until the entry is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    running: Running,
    digest: Digest,
    number: u64,
}

impl Entered {
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether no other request claims, or runs in one transaction.
    #[cfg(feature = "sqlite")]
    pub(crate) fn is_alone(&self) -> bool {
        let table = self.running.table();
        table.places.values().all(|place| place.state == State::Leased || place.number == self.number)
    }

    /// Notes that the primary key has let this request run.
    #[cfg(feature = "sqlite")]
    pub(crate) fn won(&self) {
        if let Some(place) = self.running.table().places.get_mut(&self.digest) {
            place.state = State::Transaction;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Occupied(place) = self.running.table().places.entry(self.digest)
            && place.get().number == self.number
        {
            place.remove();
        }
    }
}
