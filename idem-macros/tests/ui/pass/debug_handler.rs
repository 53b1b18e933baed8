use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
#[axum::debug_handler(state = PgStore)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[test]
fn debug_handler_below() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":12}"#.to_owned()));
}
