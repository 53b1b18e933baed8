use crate::support::*;
use crate::twice::{ORDER, block_on, json, twice};

#[idempotent(scope = r#type, fingerprint = r#struct.amount)]
async fn r#move(r#type: CurrentUser, r#dyn: &mut PgTx, Json(r#struct): Json<NewPayment>) -> Json<Payment> {
    r#dyn.write().await;
    Json(Payment { id: r#type.id + r#struct.amount })
}

/// The names of the arguments are raw, too, and one is named by another spelling of it.
#[idempotent(r#scope = user.id, r#axum, r#key = r#order.r#customer_id, r#operation = "raw", r#ttl = "1h", r#fingerprint = order.amount)]
async fn raw_arguments(r#user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[idempotent(r#scope = r#id, r#key = id, r#rejects = is_final, r#in_flight = conflict)]
async fn raw_arguments_of_a_function(tx: &mut PgTx, r#id: u64) -> Result<u64, Failed> {
    tx.write().await;
    Ok(id)
}

#[derive(serde::Serialize, serde::Deserialize, Debug)]
struct Failed;

impl From<idem_core::Error> for Failed {
    fn from(_: idem_core::Error) -> Self {
        Self
    }
}

const fn is_final(_: &Failed) -> bool {
    true
}

#[test]
fn raw_identifiers() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(r#move)).route("/raw", post(raw_arguments)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":12}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/raw", ORDER)), (200, r#"{"id":12}"#.to_owned()));
    for _ in 0..2 {
        assert_eq!(block_on(raw_arguments_of_a_function(&store, 1)).unwrap(), 1);
    }
    assert_eq!(store.writes(), 3);
}
