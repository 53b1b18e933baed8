//! Servers that are killed while clients are under way: one that writes each command to its file before it answers, and a
//! master of a cluster that does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use idem_core::store::{Claimed, Intent, Lease, LeaseTerms};
use idem_core::{Fingerprint, Identity, Kind, Request};
use idem_redis::{RedisLease, RedisStore};
use idem_testkit::redis::{Cluster, Redis};
use tokio::time::sleep;

use crate::callee::{Callee, change};
use crate::support::{Fresh, Single};

/// How often the server is killed: `IDEM_TEST_REDIS_KILLS`.
fn kills() -> u32 {
    std::env::var("IDEM_TEST_REDIS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20)
}

/// Asks until there is an answer. An error of the store, or of another attempt, is what a retry is for.
async fn until_answered(store: &RedisStore, id: &str, callee: &Callee) -> (String, u64) {
    let began = Instant::now();
    loop {
        match change(store, id, callee).await {
            Ok(answer) => return answer,
            Err(error) => {
                let may_pass = matches!(
                    error.kind(),
                    Kind::StoreUnavailable
                        | Kind::OutcomeUnknown
                        | Kind::LeaseLost
                        | Kind::KeyInFlight
                        | Kind::AttemptTooSoon
                        | Kind::DataRefused
                );
                assert!(may_pass && began.elapsed() < Duration::from_secs(60), "{id}: {error:?}");
                sleep(
                    error.retry_after().map_or(Duration::from_millis(20), |wait| wait.min(Duration::from_millis(200))),
                )
                .await;
            }
        }
    }
}

/// An answer that was given stays as it is, and each call takes effect once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r40_redis_kills_lose_nothing_that_is_in_the_file() {
    let mut server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let store = RedisStore::builder(&server.url()).timeout(Duration::from_millis(500)).build().await.expect("a store");
    let (callee, is_over) = (Callee::default(), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (store, callee) = (store.clone(), callee.clone());
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for number in 0.. {
                    let id = format!("{client} {number}");
                    let answer = until_answered(&store, &id, &callee).await;
                    answers.push((id, answer));
                    answered.fetch_add(1, Ordering::SeqCst);
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                answers
            })
        })
        .collect();
    for kill in 0..kills() {
        // At another point of the clients' work each time, and not before some of them have been answered.
        let before = answered.load(Ordering::SeqCst);
        let began = Instant::now();
        while answered.load(Ordering::SeqCst) < before + 5 + kill % 7 {
            assert!(began.elapsed() < Duration::from_secs(30), "nobody is answered");
            sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        server.start_again().await;
    }
    is_over.store(true, Ordering::SeqCst);
    let mut requests = 0;
    for client in clients {
        for (id, answer) in client.await.expect("no panic") {
            assert_eq!(change(&store, &id, &callee).await.expect("a replay"), answer, "{id}");
            requests += 1;
        }
    }
    let effects = callee.effects();
    assert_eq!(effects.len(), 2 * requests, "each of the two calls has one key");
    assert!(effects.iter().all(|effects| *effects == 1));
    eprintln!("{} kills, {requests} requests, {} calls came again", kills(), callee.repeated());
}

/// The process of the first holder stands still until its lease is over and another attempt has called.
#[tokio::test]
async fn r40_redis_a_late_holder_is_refused_by_a_callee_that_compares_fences() {
    let fresh = Fresh::on::<Single>().await;
    let identity = Identity::new("callee", "callee.change", "late").expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(3600)).expect("a request");
    let terms = LeaseTerms::DEFAULT.lasting(Duration::from_secs(1));
    let claim = async || match RedisLease::claim(&fresh.store, &request, &terms, Intent::Run).await {
        Ok(Claimed::Run(attempt)) => attempt,
        other => panic!("{other:?}"),
    };
    let callee = Callee::default();
    let late = claim().await;
    fresh.pass(Duration::from_secs(2)).await;
    let current = claim().await;
    let (early, later) = (late.lease.fence().expect("a number"), current.lease.fence().expect("a number"));
    callee.change("account", "key", later).expect("the holder");
    let refused = callee.change("account", "another key", early).expect_err("it is late");
    assert_eq!((refused.kind(), callee.refused()), (Kind::DataRefused, 1));
    assert_eq!(late.lease.renew().await.expect_err("lost").kind(), Kind::LeaseLost);
    // And so it is if the other attempt was of a new record.
    current.lease.complete(None, &idem_core::store::Outcome::Oversized).await.expect("held");
    fresh.pass(Duration::from_secs(7200)).await;
    let anew = claim().await;
    callee.change("account", "a later key", anew.lease.fence().expect("a number")).expect("the holder");
    callee.change("account", "key", later).expect_err("it is late");
}

/// Without `WAIT`, a failover loses what the replica had not received. Nothing older is lost, no answer changes its words,
/// and no call takes effect twice at a callee that honours its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r40_redis_cluster_kills_of_a_master_lose_what_its_replica_had_not_received() {
    let mut cluster = Cluster::start(&[]).await;
    let store = RedisStore::cluster(cluster.urls()).timeout(Duration::from_secs(2)).build().await.expect("a store");
    let (callee, is_over) = (Callee::default(), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (store, callee, is_over) = (store.clone(), callee.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for number in 0.. {
                    let id = format!("{client} {number}");
                    let answer = until_answered(&store, &id, &callee).await;
                    answers.push((id, answer, Instant::now()));
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                answers
            })
        })
        .collect();
    sleep(Duration::from_millis(700)).await;
    // The replica stands still and has no connection, for less than the cluster's patience. It receives nothing of what its
    // master acknowledges meanwhile.
    let stopped = Instant::now();
    cluster.nodes[3].signal("STOP");
    cluster.nodes[0].eventually("CLIENT KILL TYPE replica", ":1").await;
    sleep(Duration::from_millis(400)).await;
    cluster.nodes[0].kill();
    cluster.nodes[3].signal("CONT");
    cluster.nodes[3].eventually("INFO replication", "role:master").await;
    cluster.nodes[3].eventually("CLUSTER INFO", "cluster_state:ok").await;
    is_over.store(true, Ordering::SeqCst);
    let (mut lost, mut requests) = (0, 0);
    for client in clients {
        for (id, answer, answered) in client.await.expect("no panic") {
            requests += 1;
            // The run of a record that was lost answers with the same words and with another number.
            let again = until_answered(&store, &id, &callee).await;
            assert_eq!(again.0, answer.0, "{id}");
            if again.1 != answer.1 {
                lost += 1;
                assert!(again.1 > answer.1, "{id}: the number of a later attempt is greater");
                let margin = Duration::from_millis(200);
                assert!(answered + margin > stopped, "{id} was lost, and its replica had received it");
            }
        }
    }
    assert!(lost > 0, "the replica had received everything");
    let effects = callee.effects();
    assert_eq!(effects.len(), 2 * requests);
    assert!(effects.iter().all(|effects| *effects == 1), "the callee honours the keys");
    eprintln!("{requests} requests, {lost} of them lost, {} calls came again", callee.repeated());
}
