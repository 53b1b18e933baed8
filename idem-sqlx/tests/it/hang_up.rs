//! Rule 12 over sockets: clients that hang up, before their request is claimed and after it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::{Router, middleware};
use bytes::Bytes;
use http::Method;
use idem_core::store::{Claimed, Context, Intent, LeaseTerms, Store};
use idem_core::{Fingerprint, Identity, Kind, Request as Asked, Steps};
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::cancel::{GivenUp, polled};
use crate::client::{Answer, Call, eventually};
use crate::proxy::{Fault, Proxy};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};

/// The application behind a socket, for as long as the test runs.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A client that has sent its request. Dropped, it hangs up.
struct Client(TcpStream);

impl Client {
    async fn send(server: SocketAddr, call: &Call) -> Self {
        let mut stream = TcpStream::connect(server).await.expect("a connection");
        stream.write_all(&call.bytes()).await.expect("a request that is taken");
        Self(stream)
    }

    async fn send_all(server: SocketAddr, calls: impl IntoIterator<Item = Call>) -> Vec<Self> {
        let mut clients = Vec::new();
        for call in calls {
            clients.push(Self::send(server, &call).await);
        }
        clients
    }

    async fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        timeout(Duration::from_secs(60), read).await.expect("an answer in time").expect("an answer");
        Answer::read(&bytes)
    }
}

/// Counts the bodies of requests that somebody still has.
#[derive(Debug, Clone, Default)]
struct Bodies(Arc<()>);

/// A body that somebody has.
struct Counted {
    bytes: Bytes,
    _body: Arc<()>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    fn held(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// The application, which gets bodies that are counted.
    fn counted_by(&self, app: Router) -> Router {
        let body = Arc::downgrade(&self.0);
        app.layer(middleware::map_request(move |request: Request| {
            let body = body.clone();
            async move {
                let (parts, bytes) = request.into_parts();
                let bytes = to_bytes(bytes, usize::MAX).await.expect("a whole body");
                let counted = Counted { bytes, _body: body.upgrade().expect("the test runs") };
                Request::from_parts(parts, Body::from(Bytes::from_owner(counted)))
            }
        }))
    }
}

/// A call whose body is large, though little is left of it when it is read.
fn large(path: &str, act: &str) -> Call {
    Call::to(path, "").json(&format!(r#"{{"act":"{act}","padding":"{}"}}"#, "x".repeat(50_000)))
}

both! {
    async fn r12_who_hangs_up_while_it_waits_for_a_connection_is_not_run(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let server = serve(app).await;
        let first = Client::send(server, &Call::act("wait").key("first")).await;
        eventually("the first runs", async || gauge.waited() == 1).await;

        let gone = (0..20).map(|client| Call::act("insert").key(&format!("gone-{client}")));
        let gone = Client::send_all(server, gone).await;
        eventually("all wait", async || store.runs().count() == 21).await;
        drop(gone);
        soon("nobody waits for who has left", async || store.runs().count() == 1).await;

        // The next request to come is the next to run.
        let living = Client::send(server, &Call::act("insert").key("living")).await;
        eventually("it waits", async || store.runs().count() == 2).await;
        gauge.open(1);
        first.answer().await.expect_fresh(201);
        let living = living.answer().await;
        living.expect_fresh(201);
        assert_eq!(living.body, b"run 2 for u1");
        store.runs().drained().await;
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (2, 2, 2));
        // What was not claimed is nobody's: the retry runs.
        Client::send(server, &Call::act("insert").key("gone-7")).await.answer().await.expect_fresh(201);
    }

    async fn r12_who_hangs_up_while_it_waits_for_another_run_is_gone(db) {
        let store = db.store(2).await;
        let (app, gauge) = db.app_over(store.clone());
        let server = serve(app).await;
        let call = Call::to("/wait", "wait");
        let first = Client::send(server, &call).await;
        eventually("the first runs", async || gauge.waited() == 1).await;
        let mut duplicates = Client::send_all(server, (0..20).map(|_| call.clone())).await;
        eventually("all wait", async || store.runs().count() == 21).await;
        let living = duplicates.pop().expect("the last one");
        drop(duplicates);
        soon("one waits", async || store.runs().count() == 2).await;
        gauge.open(1);
        let first = first.answer().await;
        first.expect_fresh(201);
        let living = living.answer().await;
        assert!(living.replayed() && living.body == first.body, "{living:?}");
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
    }

    async fn r12_who_waits_does_not_hold_its_body(db) {
        let store = db.store(2).await;
        let bodies = Bodies::default();
        let (app, gauge) = db.app_over(store.clone());
        let server = serve(bodies.counted_by(app)).await;
        let call = large("/wait", "wait");
        let first = Client::send(server, &call).await;
        eventually("the first runs", async || gauge.waited() == 1).await;
        assert_eq!(bodies.held(), 0, "of the run itself");
        let duplicates = Client::send_all(server, (0..150).map(|_| call.clone())).await;
        eventually("all wait", async || store.runs().count() == 151).await;
        // A body is held until it is digested.
        eventually("no body of those that wait is held", async || bodies.held() == 0).await;
        drop(duplicates);
        soon("nobody waits", async || store.runs().count() == 1).await;

        // Nor does one that waits for a connection.
        let others = Client::send_all(server, (0..10).map(|other| large("/act", "insert").key(&format!("k{other}"))));
        let others = others.await;
        gauge.open(1);
        for other in others {
            other.answer().await.expect_fresh(201);
        }
        first.answer().await.expect_fresh(201);
        assert_eq!(bodies.held(), 0);
    }

    async fn r12_a_claimed_run_goes_on_when_its_client_hangs_up(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let server = serve(app).await;
        let call = Call::act("wait");
        let client = Client::send(server, &call).await;
        eventually("it runs", async || gauge.waited() == 1).await;
        drop(client);
        // The duplicate of a run that goes on. Its own client has hung up before it could be answered.
        let waits = Client::send(server, &Call::to("/wait", "wait").key("another")).await;
        eventually("another waits", async || store.runs().count() == 2).await;
        drop(waits);
        soon("only the run is left", async || store.runs().count() == 1).await;
        gauge.open(1);
        store.runs().drained().await;
        let retry = Client::send(server, &call).await.answer().await;
        assert!(retry.replayed() && retry.status == 201, "{retry:?}");
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (1, 1, 1));
    }

    async fn r12_an_unrecorded_run_ends_with_its_client(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let server = serve(app).await;
        let without_a_key = Call::to("/optional", "wait").without("idempotency-key");
        for (run, call) in [Call::act("wait").method(Method::GET), without_a_key].into_iter().enumerate() {
            let client = Client::send(server, &call).await;
            eventually("it runs", async || gauge.waited() == run + 1).await;
            drop(client);
            soon("it has ended", async || store.runs().count() == 0).await;
            // On the one connection, which is outside of any transaction again.
            assert!(D::is_idle(&store).await);
            assert_eq!((db.effects().await, db.records().await), (0, 0));
        }
        Client::send(server, &Call::act("insert")).await.answer().await.expect_fresh(201);
    }

    async fn r12_a_leased_run_goes_on_when_its_client_hangs_up(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("charge", Act::Wait);
        let server = serve(steps::app(store.clone(), Arc::clone(&script))).await;
        let call = Call::new(Method::POST, "/checkout").key("k").header("x-caller", b"u1");
        let client = Client::send(server, &call).await;
        script.until_entered("charge").await;
        drop(client);
        let duplicate = Client::send(server, &call).await.answer().await;
        duplicate.expect(409, "key_in_flight");
        assert_eq!(store.runs().count(), 1);
        script.open();
        store.runs().drained().await;
        let retry = Client::send(server, &call).await.answer().await;
        assert!(retry.replayed() && retry.status == 201, "{retry:?}");
        assert_eq!((script.attempts(), script.times("charge")), (vec![1], 1));
    }

    async fn r12_unrecorded_steps_go_on_when_their_client_hangs_up(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("charge", Act::Wait);
        let server = serve(steps::app(store.clone(), Arc::clone(&script))).await;
        let client = Client::send(server, &Call::new(Method::GET, "/checkout").header("x-caller", b"u1")).await;
        script.until_entered("charge").await;
        drop(client);
        // Its client is known to be gone when the server has closed the connection, and the run waits all the same.
        script.open();
        eventually("it is done", async || store.runs().count() == 0).await;
        assert_eq!((script.steps(), db.effects().await), (vec!["reserve".into(), "charge".into(), "confirm".into()], 2));
    }

    async fn r12_a_leased_claim_dropped_at_every_await_is_free_at_once(db) {
        let store = db.store(2).await;
        for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
            // What is ready at once one time is waited for another time, so it goes through all awaits many times.
            let (mut dropped, mut polls) = (0, 1);
            for claim in 0.. {
                let request = asked(&format!("{given_up:?}-{claim}"));
                let begun = Steps::<<D as Database>::Lease>::claim_leased(&store, &request, &AN_HOUR, Intent::Run);
                match polled(begun, polls, given_up).await {
                    None => (dropped, polls) = (dropped + 1, polls + 1),
                    Some(_) if dropped >= 40 => break,
                    Some(_) => {
                        polls = 1;
                        continue;
                    }
                }
                let how = format!("{given_up:?} after {} polls", polls - 1);
                assert_eq!(until_claimed::<D>(&store, &request).await, 1, "{how}: the attempt counts");
            }
        }
        store.runs().drained().await;
    }
}

/// Waits for less time than a request waits for a connection, or a duplicate for the first run: half a minute.
async fn soon(what: &str, condition: impl AsyncFn() -> bool) {
    timeout(Duration::from_secs(10), eventually(what, condition)).await.expect(what);
}

/// Longer than a test waits.
const AN_HOUR: LeaseTerms = LeaseTerms::DEFAULT.lasting(Duration::from_secs(3600));

fn asked(key: &str) -> Asked {
    Asked::new(
        Identity::new("u1", "hang_up", key).expect("an identity"),
        Fingerprint::none(),
        Duration::from_secs(3600),
    )
    .expect("a request")
}

/// Claims the request as a client's retries do, and says which attempt that was.
async fn until_claimed<D: Database>(store: &<D::Tx as Context>::Store, request: &Asked) -> u32 {
    let claimed = async {
        loop {
            match Steps::<D::Lease>::claim_leased(store, request, &AN_HOUR, Intent::Run).await.expect("an answer") {
                Claimed::Run(steps) => return steps.attempt(),
                Claimed::Refuse(Kind::KeyInFlight) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(30), claimed).await.expect("far less than the lease")
}

/// The COMMIT of a claim is under way, and has not reached the server when its caller leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_postgres_a_leased_claim_dropped_in_its_commit_is_free_at_once() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("a pool");
    let (store, direct) = (Postgres::builder_over(pool).build(), db.store(2).await);
    for round in 0..2 {
        let request = asked(&format!("k{round}"));
        proxy.at_next_commit(Fault::Hold);
        tokio::select! {
            begun = Steps::<idem_sqlx::PgLease>::claim_leased(&store, &request, &AN_HOUR, Intent::Run) => panic!("{begun:?}"),
            () = eventually("it commits", async || proxy.struck() == round + 1) => {}
        }
        // A second claim now sees no record, and cannot claim the key either.
        let begun = Steps::<idem_sqlx::PgLease>::claim_leased(&direct, &request, &AN_HOUR, Intent::Run)
            .await
            .expect("an answer");
        assert!(matches!(begun, Claimed::Refuse(Kind::KeyInFlight)), "{begun:?}");
        proxy.let_through();
        assert_eq!(until_claimed::<Postgres>(&direct, &request).await, 1);
    }
    assert!(store.drain(Duration::from_secs(30)).await);
}
