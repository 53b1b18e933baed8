use crate::support::*;
use crate::twice::{ORDER, block_on, json, twice};

#[no_implicit_prelude]
mod bare {
    use crate::support::{CurrentUser, Json, NewPayment, Payment, PgTx, idempotent};

    #[idempotent(scope = (user.id, user.name), fingerprint = order.amount, in_flight = accepted)]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id + order.amount })
    }

    #[idempotent(scope = "test", key = id)]
    pub async fn plain(tx: &mut PgTx, id: u64) -> ::std::result::Result<u64, ::idem_core::Error> {
        tx.write().await;
        ::std::result::Result::Ok(id)
    }
}

#[test]
fn without_a_prelude() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(bare::create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":12}"#.to_owned()));
    assert_eq!(block_on(bare::plain(&store, 1)).unwrap(), 1);
    assert_eq!(block_on(bare::plain(&store, 1)).unwrap(), 1);
    assert_eq!(store.writes(), 2);
}
