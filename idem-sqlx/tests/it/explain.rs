//! Rule 37: what `explain` says is what the next request gets.

use std::time::{Duration, SystemTime};

use idem_core::machine::{Expected, Retry, Sent, Stage};
use idem_core::store::{Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Error, Fingerprint, FirstSent, Identity, Kind, Request};
use idem_sqlx::Locks;

use crate::support::{Database, locks};

fn request(fingerprint: u8) -> Request {
    let identity = Identity::new("u1", "explain", "k").expect("an identity");
    let fingerprint = Fingerprint::of_value(&fingerprint).expect("a fingerprint");
    Request::new(identity, fingerprint, Duration::from_secs(60)).expect("a request")
}

/// What a claim got, in the words of an explanation.
fn got<T>(claimed: &Claimed<T>, attempt: impl FnOnce(&T) -> u32) -> Expected {
    match claimed {
        Claimed::Run(run) if attempt(run) > 1 => Expected::Resume(2),
        Claimed::Run(_) => Expected::Run,
        Claimed::Replay(..) => Expected::Replay,
        Claimed::Refuse(kind) => Expected::Refuse(*kind),
        Claimed::TooSoon(rest) => Expected::TooSoon(*rest),
    }
}

fn reply() -> Outcome {
    let body = bytes::Bytes::from_static(b"done");
    Outcome::Reply(Reply { format: Format::HTTP, status: Some(201), headers: bytes::Bytes::new(), body })
}

both! {
    async fn r37_explain_agrees_with_the_next_request_in_a_transaction(db) {
        type Tx = <D as Database>::Tx;
        let (store, elsewhere) = (db.store(4).await, db.store(4).await);
        let explain = async |fingerprint: u8| {
            let fingerprint = Some(request(fingerprint).fingerprint);
            let retry = Retry { fingerprint, ..Retry::default() };
            store.explain(&request(1).identity, &retry).await.expect("an explanation")
        };
        assert_eq!(explain(1).await.expected, Expected::Run);
        let claim = async |fingerprint| <Tx as Context>::claim(&store, &request(fingerprint)).await.expect("an answer");
        for outcome in [reply(), Outcome::Oversized] {
            let first = claim(1).await;
            let Claimed::Run(run) = first else { panic!("a free key") };
            let while_it_runs = [explain(1).await, explain(2).await];
            assert_eq!(while_it_runs.map(|explained| explained.expected), [
                Expected::Refuse(Kind::KeyInFlight),
                Expected::Refuse(Kind::KeyReused),
            ]);
            for fingerprint in [1, 2] {
                assert_eq!(explain(fingerprint).await.expected, got(&claim(fingerprint).await, |_| 1));
            }
            let here = elsewhere.explain(&request(1).identity, &Retry::default()).await.expect("an explanation");
            let is_seen = D::WRITERS > 1 && locks() == Locks::Advisory;
            assert_eq!(here.expected, if is_seen { Expected::Refuse(Kind::KeyInFlight) } else { Expected::Run });
            run.complete(&outcome).await.expect("completed");
            for fingerprint in [1, 2] {
                let explained = explain(fingerprint).await;
                assert_eq!(explained.expected, got(&claim(fingerprint).await, |_| 1));
                let stage = match &outcome {
                    Outcome::Reply(_) => Stage::Completed(Some(201)),
                    Outcome::Oversized => Stage::Oversized,
                };
                assert_eq!(explained.record.map(|record| record.stage), Some(stage));
            }
            let again = Retry::default();
            let same = store.explain(&request(1).identity, &again).await.expect("an explanation");
            assert_eq!(same.expected, explain(1).await.expected, "without a fingerprint the same is asked");
            db.execute(&format!("UPDATE idem_records SET fingerprint = CAST('other' AS {})", D::BYTES)).await;
            assert_eq!(explain(1).await.expected, Expected::Refuse(Kind::RecordUnreadable));
            assert_eq!(got(&claim(1).await, |_| 1), Expected::Refuse(Kind::RecordUnreadable));
            db.expire().await;
            let expired = explain(2).await;
            assert_eq!((expired.expected, expired.record.map(|record| record.has_expired)), (Expected::Run, Some(true)));
        }
    }

    async fn r37_explain_agrees_with_the_next_request_on_a_leased_run(db) {
        type L = <D as Database>::Lease;
        let store = db.store(4).await;
        let terms = LeaseTerms::DEFAULT.attempts(1);
        let explain = async |fingerprint: u8, terms: Option<LeaseTerms>| -> Result<Expected, Error> {
            let retry = Retry { fingerprint: Some(request(fingerprint).fingerprint), terms, ..Retry::default() };
            Ok(store.explain(&request(1).identity, &retry).await?.expected)
        };
        let claim = async |fingerprint| {
            <L as Lease>::claim(&store, &request(fingerprint), &terms, Intent::Run).await.expect("an answer")
        };
        let agrees = async |fingerprint, what: &str, expected: Expected| {
            let explained = explain(fingerprint, Some(terms)).await.expect("an explanation");
            assert_eq!(explained, expected, "{what}");
            let claimed = claim(fingerprint).await;
            assert_eq!(got(&claimed, |attempt| attempt.number), expected, "{what}");
            claimed
        };
        let Claimed::Run(first) = agrees(1, "free", Expected::Run).await else { panic!("a free key") };
        agrees(1, "held", Expected::Refuse(Kind::KeyInFlight)).await;
        agrees(2, "held by another request", Expected::Refuse(Kind::KeyReused)).await;
        first.lease.release().await.expect("released");
        assert_eq!(explain(1, None).await.expect("explained"), Expected::Refuse(Kind::StepMismatch));
        let Claimed::Run(second) = agrees(1, "released", Expected::Resume(2)).await else { panic!("a free lease") };
        db.execute("UPDATE idem_records SET lease_until = created_at").await;
        agrees(1, "crashed", Expected::Refuse(Kind::AttemptsExhausted)).await;
        let rejection = Entry::new(0, EntryKind::REJECTION, "").with_reply(match reply() {
            Outcome::Reply(reply) => reply,
            Outcome::Oversized => unreachable!("it is a reply"),
        });
        second.lease.record(None, &rejection).await.expect("recorded");
        agrees(1, "undoing", Expected::Refuse(Kind::KeyInFlight)).await;
        second.lease.complete(None, &reply()).await.expect("completed");
        agrees(1, "completed", Expected::Replay).await;
    }

    async fn r37_explain_agrees_with_the_next_request_on_when_it_was_first_sent(db) {
        let (store, elsewhere) = (db.store(4).await, db.store(4).await);
        let request = |seconds_ago: i64| {
            let by = Duration::from_secs(seconds_ago.unsigned_abs());
            let time = if seconds_ago < 0 { SystemTime::now() + by } else { SystemTime::now() - by };
            request(1).with_first_sent(Some(FirstSent::at(time)))
        };
        let agrees = async |store: &<<D as Database>::Tx as Context>::Store, seconds_ago: i64, terms: Option<LeaseTerms>, expected: Expected| {
            let request = request(seconds_ago);
            let first = request.first_sent.expect("a time");
            let sent = Some(Sent { first, ttl: request.ttl });
            let retry = Retry { fingerprint: Some(request.fingerprint), terms, sent };
            let explained = store.explain(&request.identity, &retry).await.expect("an explanation");
            assert_eq!(explained.expected, expected, "{seconds_ago} s ago");
            assert_eq!(explained.may_begin, Some(request.may_begin()));
            let Some(terms) = terms else {
                let claimed = <D as Database>::Tx::claim(store, &request).await.expect("an answer");
                assert_eq!(got(&claimed, |_| 1), expected, "{seconds_ago} s ago");
                return Some(claimed);
            };
            let claimed = <D as Database>::Lease::claim(store, &request, &terms, Intent::Run).await.expect("an answer");
            assert_eq!(got(&claimed, |attempt| attempt.number), expected, "{seconds_ago} s ago");
            None
        };
        let too_old = Expected::Refuse(Kind::FirstSentTooOld);
        let of_the_future = Expected::Refuse(Kind::FirstSentInvalid);
        let in_flight = Expected::Refuse(Kind::KeyInFlight);
        for terms in [None, Some(LeaseTerms::DEFAULT)] {
            agrees(&store, 70, terms, too_old).await;
            agrees(&store, -400, terms, of_the_future).await;
        }
        let Some(Claimed::Run(run)) = agrees(&store, 50, None, Expected::Run).await else { panic!("a free key") };
        // It runs since a time at which it could begin.
        agrees(&store, 70, None, in_flight).await;
        agrees(&store, -400, None, in_flight).await;
        if D::WRITERS > 1 && locks() == Locks::Advisory {
            agrees(&elsewhere, 70, None, in_flight).await;
        }
        run.complete(&reply()).await.expect("completed");
        agrees(&elsewhere, 70, None, Expected::Replay).await;
        agrees(&store, -400, Some(LeaseTerms::DEFAULT), Expected::Replay).await;
        db.expire().await;
        agrees(&store, 70, None, too_old).await;
        let Some(Claimed::Run(run)) = agrees(&store, 0, None, Expected::Run).await else { panic!("it has expired") };
        run.release().await.expect("released");
        agrees(&store, -290, Some(LeaseTerms::DEFAULT), Expected::Run).await;
        agrees(&store, 70, Some(LeaseTerms::DEFAULT), in_flight).await;
    }
}
