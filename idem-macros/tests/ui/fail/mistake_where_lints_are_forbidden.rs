include!("../support.rs");

#[forbid(unused_variables, unused_mut, dead_code)]
mod handlers {
    use super::*;

    #[idempotent(scope = usr)]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id + order.amount })
    }
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(handlers::create_payment));
}
