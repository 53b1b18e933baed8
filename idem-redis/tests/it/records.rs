//! Records that are damaged, of somebody else or of a later release; and servers that cannot be used.

use std::time::Duration;

use axum::response::IntoResponse;
use idem_core::machine::{Expected, Retry};
use idem_core::operate::{Condition, Inspect, Query};
use idem_core::seal::{Keyring, SealKey};
use idem_core::store::LeaseTerms;
use idem_core::{Error, Identity, Kind, idempotent};
use idem_redis::{ConnectError, RedisSteps, RedisStore};
use idem_testkit::redis::Redis;

use crate::support::{Clustered, Fresh, Server, Single};

#[idempotent(key = id, scope = "records", operation = "records.say", ttl = "1h", fingerprint = id)]
async fn say(steps: &mut RedisSteps, id: &str, what: &str) -> Result<String, Error> {
    steps.call("say", async |_key| Ok::<_, Error>(what.to_owned())).await
}

fn identity(id: &str) -> Identity {
    Identity::new("records", "records.say", id).expect("an identity")
}

async fn is_unreadable(fresh: &Fresh, id: &str, what: &str) {
    let refused = say(&fresh.store, id, "again").await.expect_err(what);
    assert_eq!(refused.kind(), Kind::RecordUnreadable, "{what}");
    let retry = Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() };
    let explained = fresh.store.explain(&identity(id), &retry).await.expect(what);
    assert_eq!(explained.expected, Expected::Refuse(Kind::RecordUnreadable), "{what}");
}

async fn on<S: Server>() {
    // Each field that a finished record needs, taken away.
    for field in [
        "version",
        "scope",
        "operation",
        "key_hash",
        "state",
        "claim",
        "fingerprint",
        "expires_at",
        "format",
        "headers",
        "body",
    ] {
        let fresh = Fresh::on::<S>().await;
        assert_eq!(say(&fresh.store, "k", "once").await.expect("said"), "once");
        let (mut connection, record) = fresh.record().await;
        let gone: i32 = redis::cmd("HDEL").arg(record).arg(field).query_async(&mut connection).await.expect("gone");
        assert_eq!(gone, 1, "{field}");
        is_unreadable(&fresh, "k", field).await;
    }
    // And each that is no value of it.
    for (field, value) in [
        ("version", "2"),
        ("state", "9"),
        ("state", "x"),
        ("claim", "short"),
        ("fingerprint", "short"),
        ("expires_at", "soon"),
        ("format", "99999999"),
        ("status", "-1"),
        ("scope", "other"),
    ] {
        let fresh = Fresh::on::<S>().await;
        assert_eq!(say(&fresh.store, "k", "once").await.expect("said"), "once");
        let (mut connection, record) = fresh.record().await;
        let set = redis::cmd("HSET").arg(record).arg(field).arg(value).query_async(&mut connection).await;
        let _: i32 = set.expect("set");
        is_unreadable(&fresh, "k", field).await;
    }
    // Another program's value.
    for command in ["SET", "LPUSH", "SADD"] {
        let fresh = Fresh::on::<S>().await;
        assert_eq!(say(&fresh.store, "k", "once").await.expect("said"), "once");
        let (mut connection, record) = fresh.record().await;
        let _: i32 = redis::cmd("DEL").arg(&record).query_async(&mut connection).await.expect("gone");
        let _: redis::Value =
            redis::cmd(command).arg(&record).arg("other").query_async(&mut connection).await.expect("set");
        is_unreadable(&fresh, "k", command).await;
        let page = fresh.store.list(&Query::default()).await.expect("a page");
        assert!(page.records.is_empty(), "it says nothing of itself");
    }
    // A record of another request, copied under this name.
    let fresh = Fresh::on::<S>().await;
    assert_eq!(say(&fresh.store, "mine", "mine").await.expect("said"), "mine");
    let (mut connection, mine) = fresh.record().await;
    let fields: Vec<Vec<u8>> = redis::cmd("HGETALL").arg(&mine).query_async(&mut connection).await.expect("fields");
    let _: i32 = redis::cmd("DEL").arg(&mine).query_async(&mut connection).await.expect("gone");
    assert_eq!(say(&fresh.store, "theirs", "theirs").await.expect("said"), "theirs");
    let (mut connection, theirs) = fresh.record().await;
    let _: i32 = redis::cmd("DEL").arg(&theirs).query_async(&mut connection).await.expect("gone");
    let _: i32 = redis::cmd("HSET").arg(&theirs).arg(fields).query_async(&mut connection).await.expect("copied");
    is_unreadable(&fresh, "theirs", "a copy").await;
}

#[tokio::test]
async fn r40_redis_single_what_is_no_record_is_refused_and_never_runs() {
    on::<Single>().await;
}

#[tokio::test]
async fn r40_redis_cluster_what_is_no_record_is_refused_and_never_runs() {
    on::<Clustered>().await;
}

/// A journal without a field is not resumed: a step could be taken for another, or run again.
#[tokio::test]
async fn r40_redis_a_damaged_journal_is_not_resumed() {
    #[idempotent(key = id, scope = "records", operation = "records.fail", ttl = "1h")]
    async fn fail(steps: &mut RedisSteps, id: &str) -> Result<u32, Error> {
        let one = steps.call("one", async |_key| Ok::<_, Error>(1)).await?;
        steps.call("two", async |_key| Err::<u32, _>(Error::new(Kind::DataRefused))).await.map(|two| one + two)
    }

    for field in ["0.name", "0.format", "0.body", "0.undoes", "attempt", "lease_until", "released"] {
        let fresh = Fresh::on::<Single>().await;
        assert_eq!(fail(&fresh.store, "k").await.expect_err("told").kind(), Kind::DataRefused);
        let (mut connection, record) = fresh.record().await;
        let gone: i32 = redis::cmd("HDEL").arg(record).arg(field).query_async(&mut connection).await.expect("gone");
        assert_eq!(gone, 1, "{field}");
        assert_eq!(fail(&fresh.store, "k").await.expect_err(field).kind(), Kind::RecordUnreadable, "{field}");
    }
}

#[tokio::test]
async fn r30_redis_that_cannot_be_reached_is_503_and_nothing_runs() {
    let mut server = Redis::start(&[]).await;
    let store = RedisStore::connect(&server.url()).await.expect("a store");
    assert_eq!(say(&store, "k", "once").await.expect("said"), "once");
    server.kill();
    for _ in 0..3 {
        let refused = say(&store, "k2", "twice").await.expect_err("no server");
        assert_eq!(refused.kind(), Kind::StoreUnavailable);
        assert_eq!(refused.into_response().status(), 503);
    }
    let Err(ConnectError::Unavailable(refused)) = RedisStore::connect(&server.url()).await else { panic!("no server") };
    assert_eq!(refused.kind(), Kind::StoreUnavailable);
    // It is back, without what it had.
    server.start_again().await;
    assert_eq!(say(&store, "k2", "twice").await.expect("said"), "twice");

    // It is there, and says nothing.
    let store = RedisStore::builder(&server.url()).timeout(Duration::from_millis(200)).build().await.expect("a store");
    server.signal("STOP");
    assert_eq!(say(&store, "k3", "thrice").await.expect_err("silent").kind(), Kind::StoreUnavailable);
    server.signal("CONT");
    // The claim may have come through, and was handed back behind itself.
    let said = async {
        loop {
            match say(&store, "k3", "thrice").await {
                Ok(said) => break said,
                Err(error) if error.kind() == Kind::KeyInFlight => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), said).await.expect("long before the lease ends"), "thrice");
}

#[tokio::test]
async fn r40_redis_that_removes_records_is_refused_at_the_start() {
    for policy in ["allkeys-lru", "volatile-ttl", "allkeys-random"] {
        let server = Redis::start(&["--maxmemory-policy", policy]).await;
        match RedisStore::connect(&server.url()).await {
            Err(ConnectError::Evicts(named)) => assert_eq!(named, policy),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(RedisStore::connect("no url").await, Err(ConnectError::Url)));
    let url = Single::masters().await.remove(0);
    for bad in ["", "a{b", "a b", &"x".repeat(65)] {
        assert!(matches!(RedisStore::builder(&url).prefix(bad).build().await, Err(ConnectError::Prefix)), "{bad}");
    }
}

/// A full memory refuses what is new, and removes nothing.
#[tokio::test]
async fn r30_redis_without_memory_is_503_and_keeps_what_it_has() {
    let server = Redis::start(&[]).await;
    let store = RedisStore::connect(&server.url()).await.expect("a store");
    assert_eq!(say(&store, "k", "once").await.expect("said"), "once");
    server.eventually("CONFIG SET maxmemory 1", "+OK").await;
    assert_eq!(say(&store, "k", "again").await.expect("a replay"), "once");
    assert_eq!(say(&store, "k2", "new").await.expect_err("full").kind(), Kind::StoreUnavailable);
    server.eventually("CONFIG SET maxmemory 0", "+OK").await;
    assert_eq!(say(&store, "k2", "new").await.expect("said"), "new");
}

/// A write that too few replicas have does not count.
#[tokio::test]
async fn r40_redis_a_claim_that_no_replica_has_is_refused_and_handed_back() {
    let fresh = Fresh::with::<Single>(|builder| builder.wait(1, Duration::from_millis(20))).await;
    assert_eq!(say(&fresh.store, "k", "once").await.expect_err("no replica").kind(), Kind::StoreUnavailable);
    let alone = RedisStore::builder(&Single::masters().await[0]).prefix(&fresh.prefix).build().await.expect("a store");
    let said = async {
        loop {
            match say(&alone, "k", "once").await {
                Ok(said) => break said,
                Err(error) if error.kind() == Kind::KeyInFlight => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), said).await.expect("it was handed back"), "once");
}

/// A caller that goes away while it claims leaves the key free.
#[tokio::test]
async fn r14_redis_a_claim_whose_caller_has_gone_is_handed_back() {
    let fresh = Fresh::on::<Single>().await;
    for round in 0..50 {
        let id = format!("k{round}");
        let (store, gone) = (fresh.store.clone(), id.clone());
        let caller = tokio::spawn(async move { say(&store, &gone, "gone").await });
        for _ in 0..round % 5 {
            tokio::task::yield_now().await;
        }
        caller.abort();
        _ = caller.await;
        let said = async {
            loop {
                match say(&fresh.store, &id, "here").await {
                    Ok(said) => break said,
                    Err(error) if matches!(error.kind(), Kind::KeyInFlight | Kind::AttemptTooSoon) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(5), said).await.expect("long before the lease ends");
        assert!(["here", "gone"].contains(&said.as_str()));
    }
}

#[tokio::test]
async fn r40_redis_a_record_is_found_by_the_list_until_it_is_damaged() {
    let fresh = Fresh::on::<Single>().await;
    assert_eq!(say(&fresh.store, "k", "once").await.expect("said"), "once");
    let (mut connection, record) = fresh.record().await;
    let set = redis::cmd("HSET").arg(record).arg("state").arg("9").query_async(&mut connection).await;
    let _: i32 = set.expect("set");
    let page = fresh.store.list(&Query::default()).await.expect("a page");
    assert_eq!(page.records[0].seen.condition, Condition::Unreadable);
}

/// The rights that the page names are enough, and no other key can be touched with them.
#[tokio::test]
async fn r40_redis_the_rights_on_the_page_are_enough() {
    let page = include_str!("../../docs/redis.md");
    let (_, rights) = page.split_once("An ACL for the store: `").expect("a line");
    let rights = rights.split_once('`').expect("its end").0;
    let server = Redis::start(&[]).await;
    // Older servers do not know every command.
    let knows = server.ask("WAITAOF 0 0 1").await.starts_with('*');
    let rights = if knows { rights.to_owned() } else { rights.replace(" +waitaof", "") };
    server.eventually(&format!("ACL SETUSER app on >secret {rights}"), "+OK").await;
    let url = format!("redis://app:secret@127.0.0.1:{}/", server.port);
    let store = RedisStore::connect(&url).await.expect("a store");
    assert_eq!(say(&store, "k", "once").await.expect("said"), "once");
    assert_eq!(say(&store, "k", "once").await.expect("a replay"), "once");
    assert_eq!(store.list(&Query::default()).await.expect("a page").records.len(), 1);
    Inspect::backlog(&store).await.expect("an answer");
    let refused = RedisStore::builder(&url).prefix("other").build().await.map(|_| ()).expect_err("another prefix");
    assert_eq!(Error::from(refused).kind(), Kind::DeploymentBroken);
    let wrong = RedisStore::connect(&url.replace("secret", "wrong")).await.map(|_| ()).expect_err("another password");
    assert!(!format!("{wrong:?} {wrong}").contains("wrong"), "{wrong:?}");
}

/// A store without an index key, or with another one than the first, would name the same request otherwise.
async fn index<S: Server>() {
    let sealed = |index: Option<u8>| {
        let ring = Keyring::new(1, SealKey::from_bytes([1; 32]));
        match index {
            Some(byte) => ring.index(SealKey::from_bytes([byte; 32])),
            None => ring,
        }
    };
    let indexes = [None, Some(7), Some(8)];
    for first in indexes {
        let fresh = Fresh::with::<S>(|builder| builder.seal(sealed(first))).await;
        assert_eq!(say(&fresh.store, "k", "once").await.expect("said"), "once");
        let masters = S::masters().await;
        for index in indexes {
            let built = S::builder(&masters).prefix(&fresh.prefix).seal(sealed(index)).build().await;
            match built {
                Ok(store) => {
                    assert_eq!(index, first);
                    assert_eq!(say(&store, "k", "again").await.expect("a replay"), "once");
                    let retry = Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() };
                    let explained = store.explain(&identity("k"), &retry).await.expect("explained");
                    assert_eq!(explained.expected, Expected::Replay);
                }
                Err(refused) => assert!(matches!(refused, ConnectError::OtherIndex) && index != first, "{refused}"),
            }
        }
        assert_eq!(fresh.names().await.len(), 1, "one record");
    }
}

#[tokio::test]
async fn r35_redis_two_index_keys_never_run_a_request_twice() {
    index::<Single>().await;
    index::<Clustered>().await;
}

#[tokio::test]
async fn r40_redis_writes_wait_for_the_file() {
    let wait =
        async |server: &Redis| RedisStore::builder(&server.url()).wait_aof(0, Duration::from_secs(5)).build().await;
    let without = Redis::start(&[]).await;
    assert!(matches!(wait(&without).await, Err(ConnectError::NoWaitAof)));
    let server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    if !server.ask("WAITAOF 0 0 1").await.starts_with('*') {
        assert!(matches!(wait(&server).await, Err(ConnectError::NoWaitAof)), "an older server");
        return;
    }
    let store = wait(&server).await.expect("a store");
    assert_eq!(say(&store, "k", "once").await.expect("said"), "once");
    assert_eq!(say(&store, "k", "once").await.expect("a replay"), "once");
}

/// What a handler's future takes is taken by every request.
#[tokio::test]
async fn r40_redis_a_handlers_future_is_small() {
    let fresh = Fresh::on::<Single>().await;
    let size = size_of_val(&say(&fresh.store, "k", "once"));
    assert!(size < 14_000, "{size} bytes");
}
