include!("../support.rs");

// Stands for axum 0.7.
mod axum07 {
    pub struct Json<T>(pub T);
}

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> axum07::Json<Payment> {
    tx.write().await;
    axum07::Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
