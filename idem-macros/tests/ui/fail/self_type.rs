include!("../support.rs");

#[derive(Clone)]
struct Api;

impl Api {
    #[idempotent(scope = global)]
    async fn create_payment(State(api): State<Self>, tx: &mut PgTx) {
        tx.write().await;
        drop(api);
    }
}

fn main() {}
