use crate::support::*;
use crate::twice::{ORDER, json, send, twice};

#[derive(serde::Deserialize)]
struct Event {
    id: Option<String>,
    order: NewPayment,
}

#[idempotent(scope = "webhooks", axum, key = event.id, fingerprint = none, missing_key = run)]
async fn shipped(tx: &mut PgTx, Json(event): Json<Event>) -> StatusCode {
    tx.write().await;
    drop(event.order);
    StatusCode::OK
}

#[idempotent(scope = "webhooks", axum, key = event.order.customer_id.as_str(), fingerprint = (&event.order.customer_id, event.order.amount))]
async fn paid(tx: &mut PgTx, Json(event): Json<Event>) -> StatusCode {
    tx.write().await;
    drop(event.id);
    StatusCode::OK
}

#[test]
fn a_key_out_of_the_body() {
    let store = PgStore::default();
    let app = Router::new().route("/shipped", post(shipped)).route("/paid", post(paid)).with_state(store.clone());
    let event = |id: &str| format!(r#"{{"id": {id}, "order": {ORDER}}}"#);
    assert_eq!(twice(&store, &app, || json("/shipped", &event(r#""e1""#))), (200, String::new()));
    assert_eq!(twice(&store, &app, || json("/paid", &event("null"))), (200, String::new()));
    // Without a key, each request runs.
    let writes = store.writes();
    assert_eq!(send(&app, json("/shipped", &event("null"))), (200, String::new(), false));
    assert_eq!(send(&app, json("/shipped", &event("null"))), (200, String::new(), false));
    assert_eq!(store.writes(), writes + 2);
}
