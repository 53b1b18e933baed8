use crate::support::*;
use crate::twice::{ORDER, json, twice};

macro_rules! handler {
    ($name:ident, $scope:expr, $ttl:literal, $user:ident: $ty:ty, $tx:ident: $context:ty, $body:block) => {
        #[idempotent(scope = $scope, ttl = $ttl)]
        async fn $name($user: $ty, $tx: $context, Json(order): Json<NewPayment>) -> Json<Payment> {
            $tx.write().await;
            let id: u64 = $body;
            Json(Payment { id: id + order.amount })
        }
    };
}

handler!(first, user.id + 1, "24h", user: CurrentUser, tx: &mut PgTx, { user.id });
handler!(second, (&user.name, user.id), "7d", user: CurrentUser, tx: &mut PgTx, { user.id });

#[test]
fn written_by_a_macro() {
    let store = PgStore::default();
    let app = Router::new().route("/1", post(first)).route("/2", post(second)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/1", ORDER)), (200, r#"{"id":12}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/2", ORDER)), (200, r#"{"id":12}"#.to_owned()));
}
