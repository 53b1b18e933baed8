use crate::support::*;
use crate::twice::{json, twice};

#[cfg_attr(not(any()), idempotent(scope = user))]
#[cfg_attr(not(any()), tracing::instrument(skip_all), inline)]
async fn on_the_attribute(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

#[idempotent(scope = user)]
#[cfg_attr(any(), not_there)]
#[cfg_attr(not(any()), axum::debug_handler(state = PgStore))]
async fn below_the_attribute(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

#[cfg(any())]
#[idempotent(scope = user)]
async fn configured_out(user: NotThere, tx: &mut PgTx) {}

#[test]
fn attributes_under_a_condition() {
    let store = PgStore::default();
    let routes = Router::new().route("/on", post(on_the_attribute)).route("/below", post(below_the_attribute));
    let app = routes.with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/on", "")), (200, r#"{"id":7}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/below", "")), (200, r#"{"id":7}"#.to_owned()));
}
