use crate::support::*;
use crate::twice::{ORDER, json, twice};

/// A documented module.
pub mod api {
    use super::*;

    /// Creates a payment.
    ///
    /// It charges.
    #[cfg(not(any()))]
    #[idempotent(scope = user)]
    #[expect(unused_variables)]
    #[cfg_attr(not(any()), allow(clippy::unused_async))]
    #[inline]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        #![allow(unused_mut)]
        let mut unused = 1;
        tx.write().await;
        Json(Payment { id: 1 })
    }
}

#[test]
fn attributes_stay() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(api::create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":1}"#.to_owned()));
}
