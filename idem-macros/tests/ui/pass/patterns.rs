use crate::support::*;
use crate::twice::{ORDER, json, twice};

fn again(tx: &mut PgTx) -> &mut PgTx {
    tx
}

#[idempotent(scope = (name, amount), fingerprint = (&customer_id, *ids))]
async fn create_payment(
    CurrentUser { mut id, ref name }: CurrentUser,
    Path(ids @ (_, mut second)): Path<(u64, u64)>,
    State(_): State<PgStore>,
    mut tx: &mut PgTx,
    Json(NewPayment { amount, mut customer_id }): Json<NewPayment>,
) -> Json<Payment> {
    tx = again(tx);
    tx.write().await;
    id += amount + ids.0;
    second += 1;
    customer_id.push_str(name);
    Json(Payment { id: id + second })
}

#[test]
fn patterns_bind_what_they_say() {
    let store = PgStore::default();
    let app = Router::new().route("/{a}/{b}", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/1/2", ORDER)), (200, r#"{"id":16}"#.to_owned()));
}
