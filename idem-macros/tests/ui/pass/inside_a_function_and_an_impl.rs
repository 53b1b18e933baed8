use crate::support::*;
use crate::twice::{json, twice};

struct Api;

impl Api {
    #[idempotent(scope = user)]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id })
    }
}

#[test]
fn inside_a_function_and_an_impl() {
    #[idempotent(scope = user)]
    async fn local(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id })
    }

    let store = PgStore::default();
    let app =
        Router::new().route("/", post(Api::create_payment)).route("/local", post(local)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", "")), (200, r#"{"id":7}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/local", "")), (200, r#"{"id":7}"#.to_owned()));
}
