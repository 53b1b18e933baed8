include!("../support.rs");

// Stands for sqlx.
mod sqlx {
    pub struct Postgres;
    pub struct Transaction<'c, DB>(std::marker::PhantomData<&'c mut DB>);
}

async fn insert(_: &mut sqlx::Transaction<'_, sqlx::Postgres>, order: &NewPayment) -> u64 {
    order.amount
}

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    let id = insert(tx, &order).await;
    Json(Payment { id: user.id + id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
