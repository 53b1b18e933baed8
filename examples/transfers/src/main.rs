//! Moves money once, and places an order once, however often it is asked.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p transfers
//! ```

#![allow(clippy::print_stdout, reason = "a program says what it does")]

use std::error::Error;

use idem_core::observe;
use idem_sqlx::SqliteStore;
use transfers::accounts::{Order, open_account, transfer};
use transfers::orders::{capture, place_order};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = transfers::open("sqlite://transfers.db".parse()?).await?;
    let store = SqliteStore::new(pool.clone());
    store.migrate().await?;

    let from = open_account(&store, "ada", "open-1", "savings", 1000).await?.id;
    let to = open_account(&store, "bob", "open-1", "wages", 0).await?.id;
    println!("ada's account is {from}, bob's is {to}; run this again, and they still are");

    let order = Order { from, to, amount: 300 };
    for attempt in 1..=3 {
        let seen = observe(transfer(&store, "ada", "rent-june", &order)).await;
        let how = if seen.replayed { "replayed" } else { "moved" };
        println!("attempt {attempt} of rent-june: {how}, {} left", seen.result?.left);
    }
    match transfer(&store, "ada", "yacht", &Order { amount: 1_000_000, ..order }).await {
        Ok(moved) => println!("ada has a yacht, and {} left", moved.left),
        Err(error) => println!("the yacht: {error}, and so it stays"),
    }

    let placed = place_order(&pool, "ada", "book-7", 25).await?;
    let again = place_order(&pool, "ada", "book-7", 25).await?;
    println!("book-7 is order {}, and still order {}", placed.id, again.id);
    println!("captured: {:?}, then: {:?}", capture(&pool, placed.id).await?, capture(&pool, placed.id).await?);
    Ok(())
}
