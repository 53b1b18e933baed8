use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user, ttl = "24h")]
async fn create_payment(
    user: CurrentUser,
    tx: &mut PgTx,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), StatusCode> {
    tx.write().await;
    let id = user.id.checked_add(order.amount).ok_or(StatusCode::BAD_REQUEST)?;
    if id == 0 {
        return Err(StatusCode::NOT_FOUND);
    }
    Ok((StatusCode::CREATED, Json(Payment { id })))
}

#[test]
fn between_the_extractors() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (201, r#"{"id":12}"#.to_owned()));
}
