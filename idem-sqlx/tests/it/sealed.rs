//! Rule 35: what is stored can be encrypted.

use std::time::Duration;

use bytes::Bytes;
use idem_core::machine::{Expected, Retry};
use idem_core::operate::{Change, Operate, Reason};
use idem_core::seal::{Keyring, SealKey};
use idem_core::store::{
    Claimed, Context, Entry, EntryKind, Format, Input, Intent, Lease, LeaseTerms, Outcome, Recover, Rejected, Reply,
};
use idem_core::{Fingerprint, Identity, Kind, Request};
use idem_sqlx::{Distance, PgTx};

use crate::support::{Database, Postgres};

type Store<D> = <<D as Database>::Tx as Context>::Store;

fn key(id: u8) -> SealKey {
    SealKey::from_bytes([id; 32])
}

fn ring(id: u8) -> Keyring {
    Keyring::new(id.into(), key(id))
}

/// Before the switch to key 2, after it, and after key 1 was dropped.
fn rotation() -> [Keyring; 4] {
    let two = |writes, reads: u8| ring(writes).reads(reads.into(), key(reads)).expect("two ids");
    [ring(1), two(1, 2), two(2, 1), ring(2)]
}

fn request(scope: &str, key: &str) -> Request {
    let identity = Identity::new(scope, "pay", key).expect("an identity");
    Request::new(identity, Fingerprint::of_value("order").expect("a value"), Duration::from_secs(3600)).expect("a ttl")
}

const BODY: &[u8] = b"the-plain-body";
const HEADERS: &[u8] = b"the-plain-header";
const STEP: &[u8] = b"the-plain-result";
const INPUT: &[u8] = b"{\"card\":\"the-plain-input\"}";
const KEY: &[u8] = b"the-plain-key";
const REASON: &[u8] = b"the-plain-reason";

fn reply(body: &'static [u8]) -> Reply {
    let (headers, body) = (Bytes::from_static(HEADERS), Bytes::from_static(body));
    Reply { format: Format::HTTP, status: Some(201), headers, body }
}

/// What a store without a keyring writes. It has words of its own, because the log of writes is one for all databases.
fn clear() -> Reply {
    let (headers, body) = (Bytes::from_static(b"a-header-in-clear"), Bytes::from_static(b"a-body-in-clear"));
    Reply { format: Format::HTTP, status: Some(201), headers, body }
}

async fn pay_in_clear<D: Database>(db: &D, request: &Request) {
    let claimed = D::Tx::claim(&db.store(1).await, request).await.expect("claimed");
    let Claimed::Run(tx) = claimed else { panic!("it runs") };
    tx.complete(&Outcome::Reply(clear())).await.expect("completed");
}

/// What becomes of a request. A run is completed, so that a second run would leave a trace.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ran,
    Replayed(Reply),
    Refused(Kind),
}

async fn pay<D: Database>(store: &Store<D>, request: &Request) -> Answer {
    match D::Tx::claim(store, request).await {
        Ok(Claimed::Run(mut tx)) => {
            D::effect(&mut tx, "paid").await;
            tx.complete(&Outcome::Reply(reply(BODY))).await.expect("completed");
            Answer::Ran
        }
        Ok(Claimed::Replay(reply, _)) => Answer::Replayed(reply),
        Ok(Claimed::Refuse(kind)) => Answer::Refused(kind),
        Ok(Claimed::TooSoon(_)) => panic!("a transaction is not spaced"),
        Err(error) => Answer::Refused(error.kind()),
    }
}

const UNREADABLE: Answer = Answer::Refused(Kind::RecordUnreadable);

fn step(position: u32, name: &str) -> Entry {
    Entry::new(position, EntryKind::TRANSACTION, name).with_reply(reply(STEP))
}

/// A leased attempt records two steps after those that it finds, and is released. Returns what it has found.
async fn attempt<D: Database>(store: &Store<D>, request: &Request) -> Result<Vec<Entry>, Kind> {
    let claimed = D::Lease::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await;
    match claimed.map_err(|error| error.kind())? {
        Claimed::Run(attempt) => {
            if attempt.entries.is_empty() {
                for (position, name) in [(0, "reserve"), (1, "charge")] {
                    attempt.lease.record(None, &step(position, name)).await.expect("recorded");
                }
            }
            attempt.lease.release().await.expect("released");
            Ok(attempt.entries)
        }
        Claimed::Replay(..) => panic!("it is not over"),
        Claimed::Refuse(kind) => Err(kind),
        Claimed::TooSoon(_) => panic!("so few attempts are not spaced"),
    }
}

/// The same, and the run is completed.
async fn complete<D: Database>(store: &Store<D>, request: &Request) {
    let claimed = D::Lease::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await.expect("claimed");
    let Claimed::Run(attempt) = claimed else { panic!("it runs") };
    attempt.lease.complete(None, &Outcome::Reply(reply(BODY))).await.expect("completed");
}

both! {
    async fn r35_a_sealed_reply_is_replayed_and_a_rejection_too(db) {
        let store = db.sealed_store(ring(1)).await;
        assert_eq!(pay::<D>(&store, &request("u1", "k")).await, Answer::Ran);
        assert_eq!(pay::<D>(&store, &request("u1", "k")).await, Answer::Replayed(reply(BODY)));
        let claimed = <D as Database>::Tx::claim(&store, &request("u1", "no")).await;
        let Ok(Claimed::Run(tx)) = claimed else { panic!("it runs") };
        let rejected = tx.reject(&Outcome::Reply(reply(STEP))).await.expect("rejected");
        assert!(matches!(rejected, Rejected::Stored), "{rejected:?}");
        assert_eq!(pay::<D>(&store, &request("u1", "no")).await, Answer::Replayed(reply(STEP)));
        assert_eq!(db.effects().await, 1);
    }

    async fn r35_a_record_that_was_moved_or_changed_is_unreadable_and_does_not_run(db) {
        let store = db.sealed_store(ring(1)).await;
        for scope in ["u1", "u2"] {
            assert_eq!(pay::<D>(&store, &request(scope, "k")).await, Answer::Ran);
        }
        db.execute("UPDATE idem_records SET scope = 'u3' WHERE scope = 'u1'").await;
        assert_eq!(pay::<D>(&store, &request("u3", "k")).await, UNREADABLE, "another user's");
        db.execute("UPDATE idem_records SET scope = 'u1' WHERE scope = 'u3'").await;
        db.execute("UPDATE idem_records SET operation = 'refund' WHERE scope = 'u2'").await;
        db.execute(
            "UPDATE idem_records SET body = (SELECT body FROM idem_records WHERE operation = 'refund')
            WHERE operation = 'pay'",
        )
        .await;
        assert_eq!(pay::<D>(&store, &request("u1", "k")).await, UNREADABLE, "another record's body");
        // One change after the other to a whole record. A digit in the head, in the text and in its tag.
        let body = |digit| D::changed("body", digit);
        let changes = [
            ("body", body(1)), ("body", body(10)), ("body", body(30)), ("body", body(60)), ("body", body(100)),
            ("headers", "body".to_owned()), ("status", "202".to_owned()), ("status", "NULL".to_owned()),
            ("format", "258".to_owned()), ("format", "1".to_owned()), ("format", "513".to_owned()),
        ];
        for (at, (column, value)) in changes.into_iter().enumerate() {
            let request = request("u4", &at.to_string());
            assert_eq!(pay::<D>(&store, &request).await, Answer::Ran);
            db.execute(&format!("UPDATE idem_records SET {column} = {value} WHERE scope = 'u4'")).await;
            assert_eq!(pay::<D>(&store, &request).await, UNREADABLE, "{column} = {value}");
            db.execute("DELETE FROM idem_records WHERE scope = 'u4'").await;
        }
        assert_eq!(db.effects().await, 2 + 11);
    }

    async fn r35_each_phase_of_a_rotation_answers_the_phase_before_and_a_dropped_key_runs_nothing(db) {
        let mut stores = Vec::new();
        for ring in rotation() {
            stores.push(db.sealed_store(ring).await);
        }
        for (phase, pair) in stores.windows(2).enumerate() {
            for (first, then) in [(0, 1), (1, 0)] {
                let request = request("u1", &format!("{phase} {first}"));
                assert_eq!(pay::<D>(&pair[first], &request).await, Answer::Ran);
                // The key of phase 2's records is missing only where it was dropped before its time, and there, too,
                // nothing runs.
                assert_eq!(pay::<D>(&pair[then], &request).await, Answer::Replayed(reply(BODY)), "{phase} {first}");
            }
        }
        let request = request("u1", "0 0");
        assert_eq!(pay::<D>(&stores[3], &request).await, UNREADABLE, "its key is dropped");
        assert_eq!(pay::<D>(&db.store(8).await, &request).await, UNREADABLE, "no keyring at all");
        assert_eq!(db.effects().await, 6);
    }

    async fn r35_two_processes_of_two_phases_run_a_request_once(db) {
        let [_, before, after, _] = rotation();
        let (before, after) = (db.sealed_store(before).await, db.sealed_store(after).await);
        let request = request("u1", "k");
        let runs = (0..32).map(|at| pay::<D>(if at % 2 == 0 { &before } else { &after }, &request));
        let answers = futures_util::future::join_all(runs).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Answer::Ran).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|answer| *answer != UNREADABLE), "{answers:?}");
        assert_eq!(db.effects().await, 1);
    }

    async fn r35_plain_records_are_read_only_while_the_keyring_says_so(db) {
        let request = request("u1", "k");
        pay_in_clear(&db, &request).await;
        let switching = db.sealed_store(ring(1).reads_plain()).await;
        assert_eq!(pay::<D>(&switching, &request).await, Answer::Replayed(clear()));
        assert_eq!(pay::<D>(&db.sealed_store(ring(1)).await, &request).await, UNREADABLE);
        assert_eq!(db.effects().await, 0);
    }

    async fn r35_sealed_steps_and_the_input_survive_the_attempt_and_nothing_else(db) {
        let store = db.sealed_store(ring(1)).await;
        let request = request("u1", "k").with_input(Input(INPUT.into()));
        assert_eq!(attempt::<D>(&store, &request).await, Ok(vec![]));
        assert_eq!(attempt::<D>(&store, &request).await, Ok(vec![step(0, "reserve"), step(1, "charge")]));
        db.end_pauses().await;
        let input = async |store: &Store<D>| store.abandoned("pay", None).await.expect("a page")[0].input.clone();
        assert_eq!(input(&store).await, Input(INPUT.into()));
        let dropped = db.sealed_store(ring(2)).await;
        assert_eq!(input(&dropped).await, Input(Bytes::new()), "its key is dropped");
        assert_eq!(attempt::<D>(&dropped, &request).await, Err(Kind::RecordUnreadable));
        assert_eq!(attempt::<D>(&db.store(8).await, &request).await, Err(Kind::RecordUnreadable));
        let attempts = db.number("SELECT CAST(attempt AS bigint) FROM idem_records").await;
        for change in [
            "body = (SELECT other.body FROM idem_journal AS other WHERE other.position = 1)".to_owned(),
            "name = 'refund'".to_owned(),
            "position = 2".to_owned(),
            "kind = 2".to_owned(),
            "format = 1".to_owned(),
            format!("body = {}", D::changed("body", 50)),
        ] {
            db.execute("CREATE TABLE kept AS SELECT * FROM idem_journal").await;
            db.execute(&format!("UPDATE idem_journal SET {change} WHERE position = 0")).await;
            assert_eq!(attempt::<D>(&store, &request).await, Err(Kind::RecordUnreadable), "{change}");
            db.execute("DELETE FROM idem_journal; INSERT INTO idem_journal SELECT * FROM kept; DROP TABLE kept").await;
        }
        assert_eq!(db.number("SELECT CAST(attempt AS bigint) FROM idem_records").await, attempts, "no attempt was begun");
        complete::<D>(&store, &request).await;
        assert_eq!(pay::<D>(&store, &request).await, Answer::Replayed(reply(BODY)));
    }

    async fn r35_the_reason_of_an_operator_is_sealed_for_its_record(db) {
        let store = db.sealed_store(ring(1)).await;
        let reason = Reason::new("refunded by hand").expect("a reason");
        for scope in ["u1", "u2"] {
            assert_eq!(attempt::<D>(&store, &request(scope, "k")).await, Ok(vec![]));
            store.give_up(&request(scope, "k").identity, &reason).await.expect("given up");
        }
        let shown = async |store: &Store<D>, scope: &str| {
            let explained = store.explain(&request(scope, "k").identity, &Retry::default()).await.expect("explained");
            assert_eq!(explained.expected, Expected::Refuse(Kind::GivenUp));
            (explained.reason, explained.is_reason_sealed)
        };
        assert_eq!(shown(&store, "u1").await, (Some(reason.clone()), false));
        let hidden = (None, true);
        assert_eq!(shown(&db.sealed_store(ring(2)).await, "u1").await, hidden, "its key is dropped");
        assert_eq!(shown(&db.store(1).await, "u1").await, hidden, "no keyring at all");
        db.execute(
            "UPDATE idem_records SET reason = (SELECT reason FROM idem_records WHERE scope = 'u2') WHERE scope = 'u1'",
        )
        .await;
        assert_eq!(shown(&store, "u1").await, hidden, "another record's reason");
        db.execute("UPDATE idem_records SET reason = substr(reason, 1, 40) || 'xy' WHERE scope = 'u2'").await;
        assert_eq!(shown(&store, "u2").await, hidden, "a damaged one");
        // A tool without a key has written it.
        db.execute("UPDATE idem_records SET reason = 'in clear'").await;
        assert_eq!(shown(&store, "u1").await, (Reason::new("in clear"), false));
    }

    async fn r35_nothing_plain_is_in_the_files_of_the_database(db) {
        let store = db.sealed_store(ring(1)).await;
        let text = |bytes| std::str::from_utf8(bytes).expect("a text");
        assert_eq!(pay::<D>(&store, &request("u1", text(KEY))).await, Answer::Ran);
        let leased = request("u2", text(KEY)).with_input(Input(INPUT.into()));
        assert_eq!(attempt::<D>(&store, &leased).await, Ok(vec![]));
        for plain in [BODY, HEADERS, STEP, INPUT, KEY] {
            assert!(!db.is_in_files(plain).await, "{}", text(plain));
        }
        complete::<D>(&store, &leased).await;
        let given_up = request("u4", text(KEY));
        assert_eq!(attempt::<D>(&store, &given_up).await, Ok(vec![]));
        let reason = Reason::new(text(REASON)).expect("a reason");
        assert_eq!(store.give_up(&given_up.identity, &reason).await.expect("an answer"), Change::Made);
        for plain in [BODY, HEADERS, STEP, INPUT, KEY, REASON] {
            assert!(!db.is_in_files(plain).await, "{}", text(plain));
        }
        // The search finds what is there.
        assert!(db.is_in_files(b"u2").await);
        pay_in_clear(&db, &request("u3", "k")).await;
        assert!(db.is_in_files(b"a-body-in-clear").await);
    }
}

#[tokio::test]
async fn r35_nothing_plain_is_in_the_text_of_a_completion_from_far_away() {
    let db = Postgres::create().await;
    let store = db.builder(4).await.distance(Distance::Farthest).seal(ring(1)).build();
    store.migrate().await.expect("migrations");
    assert_eq!(pay::<Postgres>(&store, &request("u1", "k")).await, Answer::Ran);
    assert_eq!(pay::<Postgres>(&store, &request("u1", "k")).await, Answer::Replayed(reply(BODY)));
    // The reply was sealed before the text was made, so the row has the mark of a sealed reply.
    assert_eq!(db.number("SELECT format::bigint FROM idem_records").await, 0x101);
    assert!(!db.is_in_files(BODY).await);
    let Ok(Claimed::Run(tx)) = PgTx::claim(&store, &request("u1", "other")).await else { panic!("runs") };
    tx.release().await.expect("released");
}
