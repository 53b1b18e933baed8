use crate::support::*;
use crate::twice::{json, send, twice};

#[idempotent(scope = "invoices", key = header("X-Key"), operation = "invoices.create", in_flight = accepted)]
async fn create_invoice(tx: &mut PgTx) -> StatusCode {
    tx.write().await;
    StatusCode::CREATED
}

#[test]
fn a_header_of_another_name() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_invoice)).with_state(store.clone());
    let request = || {
        let mut request = json("/", "");
        request.headers_mut().insert("x-key", "k1".parse().unwrap());
        request
    };
    assert_eq!(twice(&store, &app, request), (201, String::new()));
    assert_eq!(send(&app, json("/", "")).0, 400);
}
