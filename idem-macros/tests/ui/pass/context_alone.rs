use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = global)]
async fn close_books(tx: &mut PgTx) {
    tx.write().await;
}

#[test]
fn no_other_parameter() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(close_books)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, String::new()));
}
