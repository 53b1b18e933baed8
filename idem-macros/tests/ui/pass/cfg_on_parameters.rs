#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(
    #[cfg(any())] missing: NotThere,
    user: CurrentUser,
    #[cfg(not(any()))] Path(account): Path<u64>,
    tx: &mut PgTx,
) -> Json<Payment> {
    tx.write().await;
    #[cfg(any())]
    drop(missing);
    Json(Payment { id: user.id + account })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/{account}", post(create_payment));
}
