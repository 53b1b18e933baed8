use crate::support::*;
use crate::twice::{block_on, json, twice};

mod facade {
    pub use idem_core::*;
}

use facade::idempotent as once;

#[once(scope = user, crate = facade)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

#[once(scope = "inventory", key = id, crate = facade)]
async fn on_shipped(tx: &mut PgTx, id: u64) -> Result<u64, facade::Error> {
    tx.write().await;
    Ok(id)
}

#[test]
fn all_of_the_crate_under_another_roof() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", "")), (200, r#"{"id":7}"#.to_owned()));
    assert_eq!(block_on(on_shipped(&store, 3)).unwrap(), 3);
    assert_eq!(block_on(on_shipped(&store, 3)).unwrap(), 3);
    assert_eq!(store.writes(), 2);
}
