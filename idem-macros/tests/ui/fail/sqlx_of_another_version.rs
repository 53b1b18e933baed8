include!("../support.rs");

// Stands for sqlx 0.8.
mod sqlx {
    pub trait Executor<'c> {}
    pub struct Connection;
    impl<'c> Executor<'c> for &'c mut Connection {}

    pub fn execute<'c>(_: &str, _: impl Executor<'c>) -> std::future::Ready<()> {
        std::future::ready(())
    }
}

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    sqlx::execute("INSERT INTO payments DEFAULT VALUES", tx).await;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
