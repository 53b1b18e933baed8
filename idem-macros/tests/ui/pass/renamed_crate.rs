use crate::support::*;
use crate::twice::{ORDER, json, twice};

mod framework {
    pub use ::idem_core as idempotency;
}

#[framework::idempotency::idempotent(crate = framework::idempotency, scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

#[test]
fn a_crate_of_another_name() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":7}"#.to_owned()));
}
