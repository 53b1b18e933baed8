use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, Json(order): Json<NewPayment>, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[test]
fn behind_the_extractors() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":12}"#.to_owned()));
}
