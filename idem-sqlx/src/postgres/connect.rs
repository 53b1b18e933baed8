//! The way to a connection on which a transaction has begun.

use std::ops::ControlFlow;

use idem_core::{Error, Kind};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::time::{Instant, timeout_at};

use super::error::is_gone;
use super::records::Alone;
use super::session::{Begin, Session};
use super::store::PgStore;
use crate::database::Found;
use crate::error::not_begun;
use crate::running::Asked;

impl Session {
    /// A transaction of the store's own, or one of a run that is not recorded.
    pub(super) async fn begin(store: &PgStore, begin: &Begin) -> Result<Self, Error> {
        match Self::begin_somewhere(store, begin, None).await? {
            ControlFlow::Continue(session) => Ok(session),
            ControlFlow::Break(_) => unreachable!("only a request is answered by another run"),
        }
    }

    /// A transaction for a request, or what an active run of this process means for it.
    pub(super) async fn begin_for(
        store: &PgStore,
        begin: &Begin,
        asked: Asked<'_>,
    ) -> Result<ControlFlow<Kind, Self>, Error> {
        Self::begin_somewhere(store, begin, Some(asked)).await
    }

    /// The record of a request by one statement that stands alone, or what an active run of this process means for it.
    /// No record is known if an earlier user may have left a transaction open, or if the connection is gone. With the
    /// record comes the connection, for a claim, if there is one.
    ///
    /// It has no effect, so it is the sign of life of a connection that was not asked for one.
    pub(super) async fn find_alone(
        store: &PgStore,
        asked: Asked<'_>,
    ) -> Result<ControlFlow<Kind, (Option<Found>, Option<Self>)>, Error> {
        let inner = store.inner();
        if inner.unnamed_statements || !inner.knows_database() {
            // A pooler in transaction mode needs a transaction around the statement. So do the first questions of a
            // process, which would meet what an earlier user has left on the connection.
            let mut session = match Self::begin_for(store, &inner.begin_own, asked).await? {
                ControlFlow::Continue(session) => session,
                ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
            };
            let records = inner.records(&mut session.in_time()).await?;
            let found = records.find(&mut session.in_time(), &asked.request.identity).await?;
            return Ok(ControlFlow::Continue((Some(found), None)));
        }
        let mut session = match take(store, Some(asked)).await? {
            ControlFlow::Continue(connection) => Self::bare(connection, store),
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
        };
        let records = inner.records(&mut session.in_time()).await?;
        Ok(ControlFlow::Continue(match records.find_alone(&mut session.in_time(), &asked.request.identity).await? {
            Alone::Found(found) => (Some(found), Some(session)),
            Alone::Inherited => (None, Some(session)),
            Alone::Gone => {
                session.discard();
                (None, None)
            }
        }))
    }

    /// BEGIN is the sign of life of a connection that was not asked for one. It has no effect, so where it shows that the
    /// connection is gone, it is sent to the next.
    async fn begin_somewhere(
        store: &PgStore,
        begin: &Begin,
        asked: Option<Asked<'_>>,
    ) -> Result<ControlFlow<Kind, Self>, Error> {
        // sqlx counts an idle connection a moment late, so its number may be far too high for that moment.
        let idle = store.pool().num_idle().min(store.pool().size() as usize);
        let mut untested = if store.pings() { 0 } else { idle };
        let end = Instant::now() + store.pool().options().get_acquire_timeout();
        while untested > 0 {
            let begun = timeout_at(end, async {
                match take(store, asked).await? {
                    ControlFlow::Continue(connection) => {
                        let begun = Self::bare(connection, store).try_begin(begin).await;
                        Ok(ControlFlow::Continue(begun))
                    }
                    ControlFlow::Break(kind) => Ok(ControlFlow::Break(kind)),
                }
            });
            match begun.await.unwrap_or_else(|_elapsed| Err(not_begun(sqlx::Error::PoolTimedOut)))? {
                ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
                ControlFlow::Continue(Ok(session)) => return Ok(ControlFlow::Continue(session)),
                ControlFlow::Continue(Err(error)) if is_gone(&error) => untested -= 1,
                ControlFlow::Continue(Err(error)) => return Err(begin.failed(error)),
            }
        }
        let tested = timeout_at(end, take_tested(store, asked)).await;
        match tested.unwrap_or_else(|_elapsed| Err(not_begun(sqlx::Error::PoolTimedOut)))? {
            ControlFlow::Continue(connection) => {
                Self::begin_on(connection, store, begin).await.map(ControlFlow::Continue)
            }
            ControlFlow::Break(kind) => Ok(ControlFlow::Break(kind)),
        }
    }
}

/// A connection that may not have been asked for a sign of life, or what an active run of this process means for the
/// request.
async fn take(store: &PgStore, asked: Option<Asked<'_>>) -> Result<ControlFlow<Kind, PoolConnection<Postgres>>, Error> {
    if !store.inner().ping {
        if let Some(kind) = asked.and_then(|asked| store.inner().running.answer(store.pool(), asked)) {
            return Ok(ControlFlow::Break(kind));
        }
        if let Some(connection) = store.pool().try_acquire() {
            return Ok(ControlFlow::Continue(connection));
        }
    }
    take_tested(store, asked).await
}

async fn take_tested(
    store: &PgStore,
    asked: Option<Asked<'_>>,
) -> Result<ControlFlow<Kind, PoolConnection<Postgres>>, Error> {
    match asked {
        Some(asked) => store.inner().running.acquire(store.pool(), asked).await,
        // Boxed: otherwise every future around it, up to that of a request, has its size.
        None => Box::pin(store.pool().acquire()).await.map(ControlFlow::Continue).map_err(not_begun),
    }
}

impl PgStore {
    /// Whether a connection of the pool has been asked for a sign of life when it is taken.
    fn pings(&self) -> bool {
        self.inner().ping && self.pool().options().get_test_before_acquire()
    }
}
