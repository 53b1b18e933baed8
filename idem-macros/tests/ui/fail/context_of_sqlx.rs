include!("../support.rs");

// Stand for those of sqlx.
struct Postgres;
struct Transaction<'c, D>(&'c D);

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut Transaction<'_, Postgres>) -> Json<Payment> {
    let _ = tx.0;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
