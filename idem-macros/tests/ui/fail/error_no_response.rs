include!("../support.rs");

struct Declined;

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Result<Json<Payment>, Declined> {
    tx.write().await;
    if order.amount == 0 {
        return Err(Declined);
    }
    Ok(Json(Payment { id: user.id }))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
