//! Rule 13: a run that is dropped at any await.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context as Polled, Poll};
use std::time::Duration;

use bytes::Bytes;
use idem_core::store::{Claimed, Context, Format, Outcome, Rejected, Reply};
use idem_core::{Disposition, Error, Fingerprint, Identity, Key, Kind, Operation, Request, Scope};

use crate::client::Call;
use crate::support::Database;

/// When a future is given up that was polled often enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GivenUp {
    /// While what it waits for is still under way, as by a timeout.
    AtOnce,
    /// When it is woken, so that what it waited for has come.
    Woken,
}

/// Polls a future this often, and then gives it up.
struct Polls<F> {
    future: Pin<Box<F>>,
    left: usize,
    given_up: GivenUp,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Polled<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let polled = self.future.as_mut().poll(context).map(Some);
        if polled.is_pending() && self.left == 0 && self.given_up == GivenUp::AtOnce {
            return Poll::Ready(None);
        }
        polled
    }
}

pub async fn polled<F: Future>(future: F, polls: usize, given_up: GivenUp) -> Option<F::Output> {
    Polls { future: Box::pin(future), left: polls, given_up }.await
}

fn request(key: &str) -> Request {
    Request::new(
        Identity {
            scope: Scope::of("u1").expect("a scope"),
            operation: Operation::new("cancelled"),
            key: Key::of(key).expect("valid").expect("a key"),
        },
        Fingerprint::none(),
        Duration::from_secs(3600),
    )
    .expect("a request")
}

fn outcome() -> Outcome {
    let (headers, body) = (Bytes::new(), Bytes::from_static(b"done"));
    Outcome::Reply(Reply { format: Format::HTTP, status: Some(200), headers, body })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Complete,
    Reject,
    Release,
    /// The handler's error, so to say: its own future ends without settling.
    Drop,
}

/// Whether it ran, replayed, or must come again.
#[derive(Debug, PartialEq)]
enum Came {
    Ran,
    Replayed,
    Again,
}

async fn run<D: Database>(store: &<D::Tx as Context>::Store, key: &str, end: End) -> Result<Came, Error> {
    match D::Tx::claim(store, &request(key)).await? {
        Claimed::Run(mut tx) => {
            D::effect(&mut tx, key).await;
            D::effect(&mut tx, key).await;
            match end {
                End::Complete => tx.complete(&outcome()).await?,
                End::Reject => {
                    let rejected = tx.reject(&outcome()).await?;
                    assert!(matches!(rejected, Rejected::Stored), "{rejected:?}");
                }
                End::Release => tx.release().await?,
                End::Drop => drop(tx),
            }
            Ok(Came::Ran)
        }
        Claimed::Replay(..) => Ok(Came::Replayed),
        Claimed::Refuse(Kind::KeyInFlight) => Ok(Came::Again),
        Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
        Claimed::TooSoon(rest) => panic!("one transaction is never spaced: {rest:?}"),
    }
}

/// Retries as a client would. The dropped run's rollback goes on behind it, so it may be told to come again.
async fn retry<D: Database>(store: &<D::Tx as Context>::Store, key: &str, end: End) -> Came {
    let retried = async {
        loop {
            match run::<D>(store, key, end).await.expect("an answer") {
                Came::Again => tokio::task::yield_now().await,
                came => return came,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), retried).await.expect("an answer in time")
}

/// How many runs are dropped: many times all awaits, since what is ready at once one time is waited for another time.
const DROPS: usize = 120;

/// Drops a run after every number of polls it takes, and retries each time on the same single connection.
async fn drop_everywhere<D: Database>(db: D, end: End, kept: i64) {
    for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
        let store = db.store(1).await;
        let (mut dropped, mut polls) = (0, 0);
        for run in 0.. {
            let key = format!("{end:?}-{given_up:?}-{run}-{polls}");
            let ran = polled(self::run::<D>(&store, &key, end), polls, given_up).await;
            let how = format!("{end:?} dropped {given_up:?} after {polls} polls");
            assert!(D::is_idle(&store).await, "{how} left a transaction open");
            let came = retry::<D>(&store, &key, end).await;
            let effects = db.number(&format!("SELECT count(*) FROM effects WHERE what = '{key}'")).await;
            assert_eq!(effects, kept, "{how}: {ran:?}, then {came:?}");
            match ran {
                None => (dropped, polls) = (dropped + 1, polls + 1),
                Some(_) if dropped >= DROPS => break,
                Some(_) => polls = 0,
            }
        }
    }
}

both! {
    async fn r13_completed_runs_dropped_at_every_await(db) {
        drop_everywhere::<D>(db, End::Complete, 2).await;
    }

    async fn r13_rejected_runs_dropped_at_every_await(db) {
        drop_everywhere::<D>(db, End::Reject, 0).await;
    }

    async fn r13_released_runs_dropped_at_every_await(db) {
        drop_everywhere::<D>(db, End::Release, 0).await;
    }

    async fn r13_abandoned_runs_dropped_at_every_await(db) {
        drop_everywhere::<D>(db, End::Drop, 0).await;
    }

    async fn r13_unrecorded_runs_dropped_at_every_await(db) {
        let store = db.store(1).await;
        for (polls, given_up) in (0..).flat_map(|polls| [(polls, GivenUp::AtOnce), (polls, GivenUp::Woken)]) {
            let run = async {
                let mut tx = <D as Database>::Tx::begin_unrecorded(&store).await.expect("a transaction");
                D::effect(&mut tx, "dropped").await;
                tx.finish_unrecorded(Disposition::Commit).await.expect("a commit");
            };
            let before = db.effects().await;
            let ran = polled(run, polls, given_up).await;
            // The one connection comes back in order: this run is not inside the dropped one's transaction.
            let mut tx = <D as Database>::Tx::begin_unrecorded(&store).await.expect("a transaction");
            D::effect(&mut tx, "after").await;
            tx.finish_unrecorded(Disposition::Commit).await.expect("a commit");
            let written = db.effects().await - before;
            assert!(written == 1 || written == 2, "{written} after {polls} polls");
            if ran.is_some() {
                assert_eq!(written, 2);
                return;
            }
        }
    }

    async fn r12_a_request_dropped_at_every_await_runs_once(db) {
        let (app, gauge) = db.app_over(db.store(2).await);
        for (polls, given_up) in (0..).flat_map(|polls| [(polls, GivenUp::AtOnce), (polls, GivenUp::Woken)]) {
            let key = format!("k{polls}-{given_up:?}");
            let call = Call::to("/wait", "insert").key(&key);
            let (before, effects) = (gauge.entered(), db.effects().await);
            let answered = {
                let sent = pin!(polled(call.send(&app), polls, given_up));
                sent.await.is_some()
            };
            assert_eq!(call.send(&app).await.status, 201);
            assert_eq!((gauge.entered() - before, db.effects().await - effects), (1, 1), "{polls} polls");
            if answered {
                return;
            }
        }
    }
}
