#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = global)]
async fn close_books(tx: &mut PgTx) {
    tx.write().await;
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/books", post(close_books));
}
