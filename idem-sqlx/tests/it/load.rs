//! Everything at once: a small pool, clients that hang up, duplicates, and handlers that hang now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use idem_core::store::Context;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;

use crate::app::REPLY_LIMIT;
use crate::client::Call;
use crate::support::{Database, Postgres, Sqlite};

const DEADLINE: Duration = Duration::from_secs(1);

/// How long a request waits for a connection, and on SQLite for the write lock.
const PATIENCE: Duration = Duration::from_millis(100);

const CONNECTIONS: u32 = 4;
const CLIENTS: usize = 64;
const REQUESTS: usize = 5;

trait Loaded: Database {
    async fn loaded(&self) -> <Self::Tx as Context>::Store;
}

impl Loaded for Postgres {
    async fn loaded(&self) -> idem_sqlx::PgStore {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let pool = pool.connect_with(self.options()).await.expect("a pool");
        Postgres::builder_over(pool).reply_limit(REPLY_LIMIT).deadline(DEADLINE).build()
    }
}

impl Loaded for Sqlite {
    async fn loaded(&self) -> idem_sqlx::SqliteStore {
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let pool = pool.connect_with(self.options().busy_timeout(PATIENCE)).await.expect("a pool");
        idem_sqlx::SqliteStore::builder(pool).reply_limit(REPLY_LIMIT).deadline(DEADLINE).build()
    }
}

/// Different on every call: who hangs up when, and what hangs.
fn chance(seed: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(seed) as usize
}

/// What the clients saw that did not hang up.
#[derive(Debug, Clone, Default)]
struct Seen {
    slowest: Duration,
    answers: BTreeMap<u16, usize>,
}

/// Two clients send the same request, each until it has an answer that counts. One of the two hangs up at random.
async fn use_it(client: usize, app: Router, seen: Arc<Mutex<Seen>>) {
    for request in 0..REQUESTS {
        let call = Call::new(http::Method::POST, "/named").key(&format!("{}-{request}", client / 2));
        for _ in 0..20 {
            let hangs: &[u8] = if chance(client).is_multiple_of(32) { b"yes" } else { b"no" };
            let (call, began) = (call.clone().header("x-hangs", hangs), Instant::now());
            if client.is_multiple_of(2) && chance(request).is_multiple_of(2) {
                let patience = Duration::from_millis((chance(client) % 40) as u64);
                drop(tokio::time::timeout(patience, call.send(&app)).await);
                continue;
            }
            let answer = call.send(&app).await;
            let mut seen = seen.lock().expect("no panic");
            seen.slowest = began.elapsed().max(seen.slowest);
            *seen.answers.entry(answer.status.as_u16()).or_default() += 1;
            match answer.status.as_u16() {
                201 => break,
                409 | 503 => {}
                _ => panic!("{answer:?}"),
            }
        }
    }
}

both! {
    async fn r12a_under_load_nobody_waits_for_long_and_nothing_runs_twice(db) {
        let store = db.loaded().await;
        let (app, _) = db.app_over(store.clone());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let clients = (0..CLIENTS).map(|client| tokio::spawn(use_it(client, app.clone(), Arc::clone(&seen))));
        for client in futures_util::future::join_all(clients).await {
            client.expect("no panic");
        }
        let Seen { slowest, answers } = seen.lock().expect("no panic").clone();
        assert!(slowest <= DEADLINE * 3 / 2, "somebody waited {slowest:?}: {answers:?}");
        assert!(store.drain(DEADLINE * 3).await);
        assert!(answers[&201] > CLIENTS, "{answers:?}");
        let twice = "SELECT count(*) FROM (SELECT what FROM effects GROUP BY what HAVING count(*) > 1) AS twice";
        assert_eq!(db.number(twice).await, 0);
        assert_eq!(db.effects().await, db.records().await);
        assert!(D::is_idle(&store).await);
    }
}
