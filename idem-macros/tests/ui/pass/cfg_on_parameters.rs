use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = user)]
async fn create_payment(
    #[cfg(any())] missing: NotThere,
    user: CurrentUser,
    #[cfg(not(any()))] Path(account): Path<u64>,
    tx: &mut PgTx,
) -> Json<Payment> {
    tx.write().await;
    #[cfg(any())]
    drop(missing);
    Json(Payment { id: user.id + account })
}

#[test]
fn a_parameter_that_is_configured_out() {
    let store = PgStore::default();
    let app = Router::new().route("/{account}", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/3", ORDER)), (200, r#"{"id":10}"#.to_owned()));
}
