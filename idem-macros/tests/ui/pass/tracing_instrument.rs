use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
#[tracing::instrument(skip_all, fields(user = user.id))]
async fn below(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[tracing::instrument(skip_all)]
#[idempotent(scope = user)]
async fn above(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Result<Json<Payment>, StatusCode> {
    tx.write().await;
    Ok(Json(Payment { id: user.id + order.amount }))
}

#[test]
fn instrument_on_either_side() {
    let store = PgStore::default();
    let app = Router::new().route("/below", post(below)).route("/above", post(above)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/below", ORDER)), (200, r#"{"id":12}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/above", ORDER)), (200, r#"{"id":12}"#.to_owned()));
}
