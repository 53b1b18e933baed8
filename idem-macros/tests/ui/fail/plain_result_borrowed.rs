include!("../support.rs");

#[idempotent(key = name, scope = "test")]
async fn greet<'a>(tx: &mut PgTx, name: &'a str) -> Result<&'a str, idem_core::Error> {
    tx.write().await;
    Ok(name.trim())
}

fn main() {
    let _ = async |store: &PgStore| greet(store, "ada").await.map(str::len);
}
