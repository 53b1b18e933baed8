include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(
    user: CurrentUser,
    tx: &mut PgTx,
    #[cfg(windows)] _a: StatusCode,
    #[cfg(target_os = "none")] _b: StatusCode,
    #[cfg(target_os = "uefi")] _c: StatusCode,
    #[cfg(target_env = "sgx")] _d: StatusCode,
    #[cfg(unix)] _e: CurrentUser,
    #[cfg(not(unix))] _f: StatusCode,
    Json(order): Json<NewPayment>,
) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
