use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
async fn create_payment(tx: &mut PgTx, user: CurrentUser, Json(order): Json<NewPayment>) -> StatusCode {
    tx.write().await;
    drop((user, order));
    StatusCode::CREATED
}

#[test]
fn before_the_extractors() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (201, String::new()));
}
