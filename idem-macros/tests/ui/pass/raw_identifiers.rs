use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = r#type, fingerprint = r#struct.amount)]
async fn r#move(r#type: CurrentUser, r#dyn: &mut PgTx, Json(r#struct): Json<NewPayment>) -> Json<Payment> {
    r#dyn.write().await;
    Json(Payment { id: r#type.id + r#struct.amount })
}

#[test]
fn raw_identifiers() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(r#move)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":12}"#.to_owned()));
}
