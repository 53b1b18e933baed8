#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = r#type, fingerprint = r#struct.amount)]
async fn r#move(r#type: CurrentUser, r#dyn: &mut PgTx, Json(r#struct): Json<NewPayment>) -> Json<Payment> {
    r#dyn.write().await;
    Json(Payment { id: r#type.id + r#struct.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(r#move));
}
