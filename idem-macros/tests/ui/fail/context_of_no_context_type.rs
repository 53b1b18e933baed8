include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut Vec<u8>) -> Json<Payment> {
    tx.push(1);
    Json(Payment { id: user.id })
}
fn main() {}
