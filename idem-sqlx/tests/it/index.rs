//! Rule 35: the hashes of keys and the fingerprints are HMACs, and there is one arbiter all the same.

use std::time::Duration;

use futures_util::future::join_all;
use idem_core::machine::{Expected, Retry};
use idem_core::operate::{Change, Inspect, Operate, Query, Reason};
use idem_core::seal::{Keyring, Mark, SealKey, Sealer};
use idem_core::store::{Claimed, Context, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Fingerprint, Identity, Kind, Request};
use idem_sqlx::Distance;

use crate::client::eventually;
use crate::support::{Database, Postgres};

type Store<D> = <<D as Database>::Tx as Context>::Store;

fn key(byte: u8) -> SealKey {
    SealKey::from_bytes([byte; 32])
}

/// A keyring that seals by key 1 and has this index key.
fn ring(index: Option<u8>) -> Keyring {
    let ring = Keyring::new(1, key(1)).reads_plain();
    match index {
        Some(byte) => ring.index(key(byte)),
        None => ring,
    }
}

fn request(scope: &str, key: &str) -> Request {
    let identity = Identity::new(scope, "pay", key).expect("an identity");
    Request::new(identity, Fingerprint::of_value("order").expect("a value"), Duration::from_secs(3600)).expect("a ttl")
}

fn outcome() -> Outcome {
    Outcome::Reply(Reply { format: Format::HTTP, status: Some(201), headers: "".into(), body: "paid".into() })
}

/// What becomes of a request. A run leaves an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ran,
    Replayed,
    Refused(Kind),
}

/// The refusal of a process with another index key.
const OTHER: Answer = Answer::Refused(Kind::DeploymentBroken);

async fn pay<D: Database>(store: &Store<D>, request: &Request) -> Answer {
    match D::Tx::claim(store, request).await {
        Ok(Claimed::Run(mut tx)) => {
            D::effect(&mut tx, "paid").await;
            tx.complete(&outcome()).await.expect("completed");
            Answer::Ran
        }
        Ok(Claimed::Replay(..)) => Answer::Replayed,
        Ok(Claimed::Refuse(kind)) => Answer::Refused(kind),
        Ok(Claimed::TooSoon(_)) => panic!("a transaction is not spaced"),
        Err(error) => Answer::Refused(error.kind()),
    }
}

/// A leased run of one attempt, which is released if it is not completed.
async fn lease<D: Database>(store: &Store<D>, request: &Request, completes: bool) -> Answer {
    match D::Lease::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await {
        Ok(Claimed::Run(attempt)) if completes => {
            attempt.lease.complete(None, &outcome()).await.expect("completed");
            Answer::Ran
        }
        Ok(Claimed::Run(attempt)) => {
            attempt.lease.release().await.expect("released");
            Answer::Ran
        }
        Ok(Claimed::Replay(..)) => Answer::Replayed,
        Ok(Claimed::Refuse(kind)) => Answer::Refused(kind),
        Ok(Claimed::TooSoon(_)) => panic!("so few attempts are not spaced"),
        Err(error) => Answer::Refused(error.kind()),
    }
}

both! {
    async fn r35_two_index_keys_never_run_a_request_twice(db) {
        let indexes = [None, Some(7), Some(8)];
        for (at, first) in indexes.into_iter().enumerate() {
            let db = <D as Database>::create().await;
            let store = db.sealed_store(ring(first)).await;
            store.migrate().await.expect("a fresh database takes any index");
            let (paid, leased) = (request("u1", "paid"), request("u1", "leased"));
            assert_eq!(pay::<D>(&store, &paid).await, Answer::Ran);
            assert_eq!(lease::<D>(&store, &leased, true).await, Answer::Ran);
            for (_, other) in indexes.into_iter().enumerate().filter(|(other, _)| *other != at) {
                let store = db.sealed_store(ring(other)).await;
                let migrated = store.migrate().await.map_err(|error| error.kind());
                assert_eq!(migrated, Err(Kind::DeploymentBroken), "{first:?} {other:?}");
                for request in [&paid, &request("u1", "another")] {
                    assert_eq!(pay::<D>(&store, request).await, OTHER, "{first:?} {other:?}");
                }
                for request in [&leased, &request("u1", "another")] {
                    assert_eq!(lease::<D>(&store, request, true).await, OTHER, "{first:?} {other:?}");
                }
            }
            assert_eq!(pay::<D>(&store, &paid).await, Answer::Replayed);
            assert_eq!(lease::<D>(&store, &leased, true).await, Answer::Replayed);
            store.migrate().await.expect("nothing is to be done");
            assert_eq!((db.effects().await, db.records().await), (1, 2), "{first:?}");
        }
        drop(db);
    }

    async fn r35_a_process_that_runs_while_the_index_is_set_runs_nothing_twice(db) {
        for round in 0..8 {
            let db = <D as Database>::create().await;
            let (before, after) = (db.sealed_store(ring(None)).await, db.sealed_store(ring(Some(7))).await);
            let requests: Vec<_> = (0..6).map(|at| request("u1", &format!("{round} {at}"))).collect();
            let of = async |store: &Store<D>| {
                join_all(requests.iter().map(|request| pay::<D>(store, request))).await
            };
            let (old, new, migrated) =
                tokio::join!(of(&before), of(&after), async { after.migrate().await.map_err(|error| error.kind()) });
            // The database belongs to one of the two by now: the other has not run, and does not run.
            let (mine, others, who) = match migrated {
                Ok(()) => (new, old, &after),
                Err(kind) => {
                    // A record was in force, or the lock was not to be had.
                    assert!(matches!(kind, Kind::DeploymentBroken | Kind::RetryLater), "{kind:?}");
                    (old, new, &before)
                }
            };
            assert!(!others.contains(&Answer::Ran), "{mine:?} {others:?}");
            let again = of(who).await;
            assert!(again.iter().all(|answer| [Answer::Ran, Answer::Replayed].contains(answer)), "{again:?}");
            assert_eq!(db.effects().await, 6);
        }
        drop(db);
    }

    async fn r35_an_index_is_not_set_while_a_record_is_in_force(db) {
        let (before, after) = (db.sealed_store(ring(None)).await, db.sealed_store(ring(Some(7))).await);
        let (asked, leased) = (request("u1", "k"), request("u1", "leased"));
        assert_eq!(pay::<D>(&before, &asked).await, Answer::Ran);
        assert_eq!(lease::<D>(&before, &leased, true).await, Answer::Ran);
        let error = after.migrate().await.expect_err("a record is in force");
        assert_eq!(error.kind(), Kind::DeploymentBroken);
        assert!(error.to_string().contains("in force"), "{error}");
        assert_eq!(pay::<D>(&after, &asked).await, OTHER, "it is named without an index");
        assert_eq!(pay::<D>(&before, &asked).await, Answer::Replayed, "nothing has changed");
        db.expire().await;
        after.migrate().await.expect("what has expired counts no more");
        // Its own records, which have expired, are no way back.
        assert_eq!(pay::<D>(&before, &asked).await, OTHER);
        assert_eq!(lease::<D>(&before, &leased, true).await, OTHER);
        assert_eq!(pay::<D>(&after, &asked).await, Answer::Ran);
        assert_eq!(db.effects().await, 2);
    }

    async fn r35_a_holder_of_the_old_name_completes_nothing_once_the_index_is_set(db) {
        let (before, after) = (db.sealed_store(ring(None)).await, db.sealed_store(ring(Some(7))).await);
        let asked = request("u1", "k");
        let claim = async |store: &Store<D>| {
            let claimed = <D as Database>::Lease::claim(store, &asked, &LeaseTerms::DEFAULT, Intent::Run).await;
            let Ok(Claimed::Run(attempt)) = claimed else { panic!("it runs") };
            attempt.lease
        };
        let old = claim(&before).await;
        db.expire().await;
        after.migrate().await.expect("nothing is in force");
        let new = claim(&after).await;
        assert!(old.renew().await.is_err(), "it stood still, and has woken up");
        assert!(old.complete(None, &outcome()).await.is_err());
        new.complete(None, &outcome()).await.expect("completed");
        assert_eq!(lease::<D>(&after, &asked, true).await, Answer::Replayed);
    }

    async fn r35_a_live_run_keeps_its_claim_when_the_mark_is_noted_again(db) {
        let store = db.sealed_store(ring(Some(7))).await;
        store.migrate().await.expect("a fresh database");
        let asked = request("u1", "k");
        let claimed = <D as Database>::Lease::claim(&store, &asked, &LeaseTerms::DEFAULT, Intent::Run).await;
        let Ok(Claimed::Run(attempt)) = claimed else { panic!("it runs") };
        db.lose_mark().await;
        store.migrate().await.expect("the record in force has the same name");
        attempt.lease.complete(None, &outcome()).await.expect("it still holds its claim");
        assert_eq!(pay::<D>(&db.sealed_store(ring(None)).await, &asked).await, OTHER);
    }

    async fn r35_a_guess_of_a_key_or_of_a_request_is_not_confirmed(db) {
        // Of its own words: the log of writes is one for all databases.
        let of = |scope| {
            let identity = Identity::new(scope, "pay", "order-17").expect("an identity");
            let asked = Fingerprint::of_value("what can be guessed").expect("a value");
            Request::new(identity, asked, Duration::from_secs(3600)).expect("a ttl")
        };
        let guessed = of("u1");
        let sha = |request: &Request| {
            let Request { identity, fingerprint, .. } = request;
            [identity.key.hash().to_vec(), fingerprint.as_bytes()[1..].to_vec(), identity.digest().to_vec()]
        };
        let store = db.sealed_store(ring(Some(7))).await;
        store.migrate().await.expect("a fresh database");
        assert_eq!(pay::<D>(&store, &guessed).await, Answer::Ran);
        assert_eq!(pay::<D>(&store, &of("u2")).await, Answer::Ran);
        assert_eq!(lease::<D>(&store, &of("u3"), false).await, Answer::Ran);
        for digest in sha(&guessed) {
            assert!(!db.is_in_files(&digest).await, "a digest without a secret");
        }
        // One key of three users has three names, and one request of them three fingerprints.
        let names = "SELECT count(DISTINCT key_hash) + 10 * count(DISTINCT fingerprint) FROM idem_records";
        assert_eq!(db.number(names).await, 33);
        // The search finds what is there.
        let stored = Sealer::new(ring(Some(7))).request(&guessed).expect("sealed").into_owned();
        for digest in &sha(&stored)[..2] {
            assert!(db.is_in_files(digest).await);
        }
        assert!(stored.fingerprint.as_bytes().starts_with(store_mark().as_bytes()));
    }

    async fn r35_an_operator_meets_an_indexed_record_by_its_key_and_by_its_name(db) {
        let store = db.sealed_store(ring(Some(7))).await;
        store.migrate().await.expect("a fresh database");
        let (paid, other) = (request("u1", "paid"), Fingerprint::of_value("another").expect("a value"));
        assert_eq!(pay::<D>(&store, &paid).await, Answer::Ran);
        let expected = async |identity: &Identity, fingerprint| {
            let retry = Retry { fingerprint, ..Retry::default() };
            Inspect::explain(&store, identity, &retry).await.expect("explained").expected
        };
        assert_eq!(expected(&paid.identity, None).await, Expected::Replay);
        assert_eq!(expected(&paid.identity, Some(paid.fingerprint)).await, Expected::Replay);
        assert_eq!(expected(&paid.identity, Some(other)).await, Expected::Refuse(Kind::KeyReused));
        let listed = Inspect::list(&store, &Query::default()).await.expect("a page").records;
        let named = listed[0].at.identity().expect("an identity");
        assert_ne!(named.key.hash(), paid.identity.key.hash());
        assert_eq!(expected(&named, Some(paid.fingerprint)).await, Expected::Replay);
        // A process without the index key knows a record that it has listed, and no other.
        let without = db.store(2).await;
        let seen = Inspect::explain(&without, &named, &Retry::default()).await.expect("explained");
        assert!(seen.record.is_some());
        let refused = Inspect::explain(&without, &paid.identity, &Retry::default()).await.expect_err("another index");
        assert_eq!(refused.kind(), Kind::DeploymentBroken);

        let retried = request("u1", "retried");
        assert_eq!(lease::<D>(&store, &retried, false).await, Answer::Ran);
        assert_eq!(Operate::reset_attempts(&store, &retried.identity).await.expect("asked"), Change::Made);
        let reason = Reason::new("settled by hand").expect("a reason");
        let given_up = Operate::give_up(&store, &retried.identity, &reason).await.expect("asked");
        assert_eq!(given_up, Change::Made);
        assert_eq!(lease::<D>(&store, &retried, true).await, Answer::Refused(Kind::GivenUp));
    }

    async fn r35_each_attempt_of_an_indexed_run_has_the_same_fingerprint(db) {
        // The keys of foreign calls are made of it.
        let store = db.sealed_store(ring(Some(7))).await;
        store.migrate().await.expect("a fresh database");
        let (asked, mut fingerprints) = (request("u1", "k"), Vec::new());
        for _ in 0..2 {
            let claimed = <D as Database>::Lease::claim(&store, &asked, &LeaseTerms::DEFAULT, Intent::Run);
            let Ok(Claimed::Run(attempt)) = claimed.await else { panic!("it runs") };
            fingerprints.push(attempt.fingerprint);
            attempt.lease.release().await.expect("released");
        }
        assert_eq!(fingerprints[0], fingerprints[1]);
    }

    async fn r35_the_keys_that_seal_rotate_and_the_index_stays(db) {
        let two = |writes: u8, reads: u8| {
            let ring = Keyring::new(writes.into(), key(writes)).reads(reads.into(), key(reads)).expect("two ids");
            ring.index(key(7))
        };
        let (one, both) = (db.sealed_store(ring(Some(7))).await, db.sealed_store(two(2, 1)).await);
        one.migrate().await.expect("a fresh database");
        both.migrate().await.expect("the same index");
        let paid = request("u1", "k");
        let answers = join_all((0..32).map(|at| pay::<D>(if at % 2 == 0 { &one } else { &both }, &paid))).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Answer::Ran).count(), 1, "{answers:?}");
        assert_eq!(db.effects().await, 1);
        eventually("a replay", async || pay::<D>(&both, &paid).await == Answer::Replayed).await;
    }
}

fn store_mark() -> Mark {
    Sealer::new(ring(Some(7))).mark().expect("an index key")
}

#[tokio::test]
async fn r35_a_database_far_away_refuses_another_index_too() {
    for distance in [Distance::Near, Distance::Far, Distance::Farthest] {
        let db = Postgres::create().await;
        let of = async |index| db.builder(4).await.distance(distance).seal(ring(index)).build();
        let store = of(Some(7)).await;
        store.migrate().await.expect("a fresh database");
        let paid = request("u1", "k");
        assert_eq!(pay::<Postgres>(&store, &paid).await, Answer::Ran, "{distance:?}");
        for index in [None, Some(8)] {
            assert_eq!(pay::<Postgres>(&of(index).await, &paid).await, OTHER, "{distance:?} {index:?}");
        }
        assert_eq!(pay::<Postgres>(&store, &paid).await, Answer::Replayed, "{distance:?}");
        assert_eq!(db.effects().await, 1);
    }
}
