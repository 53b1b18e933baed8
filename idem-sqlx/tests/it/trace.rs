//! Rule 34: a replay names the trace of the run that it repeats.

use std::sync::Arc;

use idem_core::observer::{Outcome, TraceParent};
use idem_core::seal::{Keyring, SealKey};
use idem_sqlx::Distance;
use sqlx::ConnectOptions;
use sqlx::postgres::PgPoolOptions;

use crate::client::Call;
use crate::observer::Recorder;
use crate::script::Script;
use crate::support::{Database, Postgres};

const FIRST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ANOTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn traced(call: Call, by: &str) -> Call {
    call.header("traceparent", by.as_bytes())
}

both! {
    async fn r34_a_replay_names_the_trace_of_the_first_run(db) {
        for is_sealed in [false, true] {
            let recorder = Recorder::default();
            let keyring = is_sealed.then(|| Keyring::new(1, SealKey::from_bytes([1; 32])));
            let store = db.told_store(keyring, recorder.clone()).await;
            let (app, _) = db.app_over(store.clone());
            let leased = steps::app(store, Arc::new(Script::default()));
            let checkout = Call::to("/checkout", "order").header("x-caller", b"u1");
            for (at, (app, call, status)) in
                [(&app, Call::act("insert"), 201), (&app, Call::act("reject"), 402), (&leased, checkout, 201)]
                    .into_iter()
                    .enumerate()
            {
                let call = call.key(&format!("k{is_sealed}{at}"));
                let first = traced(call.clone(), FIRST).send(app).await;
                first.expect_fresh(status);
                traced(call.clone(), ANOTHER).send(app).await.expect_replay_of(&first);
                call.send(app).await.expect_replay_of(&first);
                let call = call.key(&format!("untraced{is_sealed}{at}"));
                let first = traced(call.clone(), "order-17").send(app).await;
                first.expect_fresh(status);
                traced(call, ANOTHER).send(app).await.expect_replay_of(&first);
            }
            let named: Vec<_> = recorder.settled(Outcome::Replay).iter().map(|it| it.first_traceparent).collect();
            let first = TraceParent::parse(FIRST);
            assert_eq!(named, [first, first, None].repeat(3));
            let others = [Outcome::Run, Outcome::Rejected].map(|outcome| recorder.settled(outcome));
            assert!(others.concat().iter().all(|settled| settled.first_traceparent.is_none()));
        }
    }
}

/// The completion is in the text of its message there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_postgres_a_far_replay_names_the_trace_of_the_first_run() {
    let db = Postgres::create().await;
    for distance in [Distance::Near, Distance::Far, Distance::Farthest] {
        let recorder = Recorder::default();
        // There the statement has the reply in it.
        let options = db.options().disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("a pool");
        let store = Postgres::builder_over(pool).distance(distance).observer(recorder.clone()).build();
        store.migrate().await.expect("its functions");
        let (app, _) = db.app_over(store);
        let call = Call::act("insert").key(&format!("{distance:?}"));
        let first = traced(call.clone(), FIRST).send(&app).await;
        first.expect_fresh(201);
        call.send(&app).await.expect_replay_of(&first);
        assert_eq!(recorder.only(Outcome::Replay).first_traceparent, TraceParent::parse(FIRST), "{distance:?}");
    }
}
