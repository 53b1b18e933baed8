use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> impl IntoResponse {
    tx.write().await;
    let id = loop {
        if user.id != 0 {
            break user.id;
        }
    };
    ([("x-payment", "1")], Json(Payment { id }))
}

#[test]
fn a_loop_with_a_value_behind_impl_into_response() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":7}"#.to_owned()));
}
