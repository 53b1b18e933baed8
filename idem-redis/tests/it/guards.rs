//! What each script asks before it changes something, asked as a process asks whose decision is out of date.

use idem_core::store::{Attempt, Claim, Claimed, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Fingerprint, Identity, Request, Then};
use idem_redis::RedisLease;
use redis::Value;
use std::time::Duration;

use crate::support::{Fresh, Single};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const TERMS: LeaseTerms = LeaseTerms::DEFAULT.lasting(MINUTE);

const COMMON: &str =
    concat!(include_str!("../../src/scripts/common.lua"), "\n", include_str!("../../src/scripts/seen.lua"));
const CLAIM: &str = include_str!("../../src/scripts/claim.lua");
const COMPLETE: &str = include_str!("../../src/scripts/complete.lua");
const CHANGE: &str = include_str!("../../src/scripts/change.lua");
const FORGET: &str = include_str!("../../src/scripts/forget.lua");
const RECORD: &str = include_str!("../../src/scripts/record.lua");

fn request() -> Request {
    let identity = Identity::new("u1", "guards", "k").expect("an identity");
    Request::new(identity, Fingerprint::none(), HOUR).expect("a request")
}

async fn claimed(fresh: &Fresh, request: &Request) -> Attempt<RedisLease> {
    match RedisLease::claim(&fresh.store, request, &TERMS, Intent::Run).await.expect("an answer") {
        Claimed::Run(attempt) => attempt,
        _ => panic!("it runs"),
    }
}

fn reply() -> Outcome {
    let reply = Reply { format: Format::VALUE, status: None, headers: "tag".into(), body: "1".into() };
    Outcome::Reply(reply)
}

/// Runs a script on the only record, and returns the first word of its answer.
async fn run(fresh: &Fresh, script: &str, arguments: &[&[u8]]) -> redis::RedisResult<String> {
    let (mut connection, record) = fresh.record().await;
    let shard = record.rsplit_once(':').expect("a shard").0;
    let mut evaluate = redis::cmd("EVAL");
    evaluate.arg(format!("{COMMON}\n{script}")).arg(3).arg(&record).arg(format!("{record}:reply"));
    evaluate.arg(format!("{shard}:runs"));
    for argument in arguments {
        evaluate.arg(*argument);
    }
    Ok(match evaluate.query_async::<Value>(&mut connection).await? {
        Value::Array(mut values) => redis::from_redis_value(values.remove(0)).expect("a word"),
        value => redis::from_redis_value(value).expect("a word"),
    })
}

async fn field(fresh: &Fresh, field: &str) -> Vec<u8> {
    let (mut connection, record) = fresh.record().await;
    redis::cmd("HGET").arg(record).arg(field).query_async(&mut connection).await.expect("a field")
}

/// A claim in the place of a record that was seen under this claim.
async fn claim_over(fresh: &Fresh, seen: &[u8], what: &str) -> String {
    let claim = Claim::random().expect("a claim");
    let arguments: [&[u8]; 13] = [
        claim.as_bytes(),
        b"0",
        b"0",
        b"9e15",
        seen,
        what.as_bytes(),
        b"60000000",
        b"3660000000",
        &[1; 33],
        b"u1",
        b"guards",
        b"h",
        b"m",
    ];
    run(fresh, CLAIM, &arguments).await.expect("an answer")
}

#[tokio::test]
async fn r40_redis_a_lease_that_was_renewed_is_not_taken_over() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let seen = field(&fresh, "claim").await;
    fresh.pass(2 * MINUTE).await;
    // Another process has seen the lease at its end. Meanwhile it is renewed.
    attempt.lease.renew().await.expect("held");
    assert_eq!(claim_over(&fresh, &seen, "attempt").await, "seen");
    fresh.pass(2 * MINUTE).await;
    assert_eq!(claim_over(&fresh, b"0123456789abcdef", "attempt").await, "seen", "another attempt was seen");
    assert_eq!(claim_over(&fresh, &seen, "attempt").await, "claimed");
    assert_eq!(claim_over(&fresh, &seen, "attempt").await, "seen", "another process has taken it over");
}

#[tokio::test]
async fn r40_redis_a_run_that_is_over_or_expired_is_not_taken_over() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let seen = field(&fresh, "claim").await;
    attempt.lease.complete(None, &reply()).await.expect("held");
    assert_eq!(claim_over(&fresh, &seen, "attempt").await, "seen");

    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let seen = field(&fresh, "claim").await;
    expire(&fresh).await;
    assert_eq!(claim_over(&fresh, &seen, "attempt").await, "seen");
    drop(attempt);
}

#[tokio::test]
async fn r40_redis_a_record_that_lives_is_not_replaced() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let seen = field(&fresh, "claim").await;
    fresh.pass(2 * MINUTE).await;
    assert_eq!(claim_over(&fresh, &seen, "expired").await, "seen");
    attempt.lease.complete(None, &reply()).await.expect("held");
    assert_eq!(claim_over(&fresh, &seen, "expired").await, "seen");
    expire(&fresh).await;
    assert_eq!(claim_over(&fresh, &seen, "expired").await, "claimed");

    // One that refuses retries after its `ttl` lives on.
    let fresh = Fresh::on::<Single>().await;
    let kept = request().then(Then::Refuse(HOUR)).expect("an hour");
    claimed(&fresh, &kept).await.lease.complete(None, &reply()).await.expect("held");
    let seen = field(&fresh, "claim").await;
    expire(&fresh).await;
    assert_eq!(claim_over(&fresh, &seen, "expired").await, "seen");
}

/// Redis removes a key a moment after its time. What begins in that moment has nothing of the record before.
#[tokio::test]
async fn r32_redis_a_run_in_the_place_of_an_expired_one_begins_anew() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    attempt.lease.record(None, &Entry::new(0, EntryKind::CALL_STARTED, "send")).await.expect("held");
    expire(&fresh).await;
    let anew = claimed(&fresh, &request()).await;
    assert_eq!((anew.number, anew.entries.len()), (1, 0));
    anew.lease.release().await.expect("held");
    let next = claimed(&fresh, &request()).await;
    assert_eq!((next.number, next.entries.len()), (2, 0), "nor has the next attempt");
    next.lease.complete(None, &reply()).await.expect("held");
    expire(&fresh).await;
    claimed(&fresh, &request()).await;
    let (mut connection, record) = fresh.record().await;
    for field in ["format", "body", "completed_at", "completion"] {
        let there: bool =
            redis::cmd("HEXISTS").arg(&record).arg(field).query_async(&mut connection).await.expect("asked");
        assert!(!there, "{field}");
    }
}

/// Lets the record expire by its own field, and not be removed by Redis yet.
async fn expire(fresh: &Fresh) {
    let (mut connection, record) = fresh.record().await;
    let past = redis::cmd("HSET").arg(record).arg("expires_at").arg(1).query_async(&mut connection).await;
    let _: i32 = past.expect("a field");
}

#[tokio::test]
async fn r40_redis_a_message_that_comes_twice_is_carried_out_once() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let (claim, fence) = (field(&fresh, "claim").await, field(&fresh, "fence").await);
    // The claim once more: the same attempt.
    let arguments: [&[u8]; 13] =
        [&claim, b"1", b"0", b"9e15", b"", b"", b"60000000", b"3660000000", &[1; 33], b"u1", b"guards", b"h", b"m"];
    assert_eq!(run(&fresh, CLAIM, &arguments).await.expect("an answer"), "claimed");
    assert_eq!((field(&fresh, "attempt").await, field(&fresh, "fence").await), (b"1".to_vec(), fence));

    // The completion once more, and another one.
    let complete = |number: &'static [u8]| {
        let (fresh, claim) = (&fresh, &claim);
        async move {
            let arguments: [&[u8]; 10] = [claim, number, b"2", b"2", b"", b"tag", b"1", b"3600000000", b"", b"m"];
            run(fresh, COMPLETE, &arguments).await.expect("an answer")
        }
    };
    assert_eq!([complete(b"one").await, complete(b"one").await, complete(b"two").await], ["kept", "kept", "lost"]);
    drop(attempt);
}

#[tokio::test]
async fn r40_redis_a_change_waits_for_the_end_of_the_lease() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    for what in ["give_up", "reset"] {
        let arguments: [&[u8]; 4] = [what.as_bytes(), b"nobody", b"why", b"m"];
        assert_eq!(run(&fresh, CHANGE, &arguments).await.expect("an answer"), "held");
    }
    attempt.lease.complete(None, &reply()).await.expect("held");
    for what in ["give_up", "reset"] {
        let arguments: [&[u8]; 4] = [what.as_bytes(), b"nobody", b"why", b"m"];
        assert_eq!(run(&fresh, CHANGE, &arguments).await.expect("an answer"), "no_run");
    }
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    fresh.pass(2 * MINUTE).await;
    expire(&fresh).await;
    for what in ["give_up", "reset"] {
        let arguments: [&[u8]; 4] = [what.as_bytes(), b"nobody", b"why", b"m"];
        assert_eq!(run(&fresh, CHANGE, &arguments).await.expect("an answer"), "no_run", "expired");
    }
    drop(attempt);
}

#[tokio::test]
async fn r40_redis_only_the_finished_record_of_the_scope_is_forgotten() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let forget = async |scope: &'static [u8], is_asked: &'static [u8]| {
        run(&fresh, FORGET, &[scope, is_asked]).await.expect("an answer")
    };
    assert_eq!(forget(b"u1", b"0").await, "kept");
    attempt.lease.complete(None, &reply()).await.expect("held");
    assert_eq!([forget(b"u2", b"0").await, forget(b"u1", b"1").await], ["none", "removed"]);
    assert_eq!(forget(b"u1", b"0").await, "removed", "it was only asked before");
    assert!(fresh.names().await.is_empty());
}

/// Between the look and the change, somebody has put another value there.
#[tokio::test]
async fn r40_redis_no_script_writes_to_what_it_does_not_know() {
    for (suffix, is_record) in [("", true), (":reply", false)] {
        let fresh = Fresh::on::<Single>().await;
        let attempt = claimed(&fresh, &request()).await;
        let claim = field(&fresh, "claim").await;
        let (mut connection, record) = fresh.record().await;
        let name = format!("{record}{suffix}");
        let _: () = redis::cmd("SET").arg(&name).arg("other").query_async(&mut connection).await.expect("set");
        let keys = [
            record.clone(),
            format!("{record}:reply"),
            format!("{}:runs", record.rsplit_once(':').expect("a shard").0),
        ];
        let complete: [&[u8]; 10] = [&claim, b"n", b"2", b"2", b"", b"tag", b"1", b"3600000000", b"", b"m"];
        let forget: [&[u8]; 2] = [b"u1", b"0"];
        let entry: [&[u8]; 11] = [&claim, b"1", b"1", b"0", b"2", b"n", b"", b"", b"", b"", b""];
        for (script, arguments) in [(COMPLETE, &complete[..]), (FORGET, &forget[..]), (RECORD, &entry[..])] {
            let mut evaluate = redis::cmd("EVAL");
            evaluate.arg(format!("{COMMON}\n{script}")).arg(3).arg(&keys);
            for argument in arguments {
                evaluate.arg(*argument);
            }
            let refused = evaluate.query_async::<Value>(&mut connection).await.expect_err("refused");
            assert_eq!(refused.code(), Some("WRONGTYPE"), "{refused}");
        }
        let there: String = redis::cmd("GET").arg(&name).query_async(&mut connection).await.expect("it is there");
        assert_eq!(there, "other");
        if !is_record {
            assert_eq!(field(&fresh, "state").await, b"4");
        }
        drop(attempt);
    }
}

#[tokio::test]
async fn r40_redis_fence_numbers_grow_over_releases_crashes_and_records() {
    let fresh = Fresh::on::<Single>().await;
    let mut last = 0;
    let mut next = async |what: &str| {
        let attempt = claimed(&fresh, &request()).await;
        let fence = attempt.lease.fence().expect("a number");
        assert!(fence > last, "{what}: {fence} after {last}");
        last = fence;
        attempt
    };
    next("the first").await.lease.release().await.expect("held");
    let attempt = next("after a release").await;
    fresh.pass(2 * MINUTE).await;
    drop(attempt);
    let attempt = next("after a crash").await;
    attempt.lease.complete(None, &reply()).await.expect("held");
    fresh.pass(2 * HOUR).await;
    let attempt = next("after the record has expired").await;
    for mut connection in fresh.connections().await {
        let (_, record) = fresh.record().await;
        let _: i32 = redis::cmd("DEL").arg(record).query_async(&mut connection).await.expect("deleted");
    }
    next("after Redis has lost the record").await;
    drop(attempt);

    // The clock of the server was set back: by what is remembered, the number grows nevertheless.
    let (mut connection, record) = fresh.record().await;
    let ahead = 9_000_000_000_000_000_i64 - 10;
    let set = redis::cmd("HSET").arg(&record).arg("fence").arg(ahead).query_async(&mut connection).await;
    let _: i32 = set.expect("a field");
    fresh.pass(2 * MINUTE).await;
    let attempt = claimed(&fresh, &request()).await;
    assert_eq!(attempt.lease.fence(), Some(ahead as u64 + 1));
}

#[tokio::test]
async fn r40_redis_a_started_call_and_its_time_are_seen_before_it_is_made() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    attempt.lease.record(None, &Entry::new(0, EntryKind::CALL_STARTED, "send")).await.expect("held");
    assert_eq!(field(&fresh, "0.kind").await, b"6");
}

/// A later release has written the record: this one does not write to it.
#[tokio::test]
async fn r40_redis_a_record_of_a_later_release_is_left_alone() {
    let fresh = Fresh::on::<Single>().await;
    let attempt = claimed(&fresh, &request()).await;
    let (mut connection, record) = fresh.record().await;
    let set = redis::cmd("HSET").arg(&record).arg("version").arg("2").query_async(&mut connection).await;
    let _: i32 = set.expect("a field");
    attempt.lease.renew().await.expect_err("not ours to write");
    attempt.lease.complete(None, &reply()).await.expect_err("not ours to write");
    assert_eq!(field(&fresh, "state").await, b"4");
}
