//! The console over a store in memory that has a record in most conditions.
//!
//! ```not_rust
//! cargo run -p idem-core --example console --features console,memory
//! ```
//!
//! An application nests the routes behind its own authentication. This program listens on 127.0.0.1 alone. With `CHANGES=1`
//! in its environment, the console makes changes, too.

// A program prints its address on its standard output.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
use idem_core::operate::{Operate, Reason};
use idem_core::store::{Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Fingerprint, Identity, Request, Then, console};

const HOUR: Duration = Duration::from_secs(3600);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let store = MemoryStore::<()>::default();
    filled(&store).await?;
    let console = match std::env::var_os("CHANGES") {
        Some(_) => console::router_with_changes(Arc::new(store)),
        None => console::router(Arc::new(store)),
    };
    let app: Router = Router::new().nest("/operators/idempotency", console);
    let port = std::env::var("PORT").ok().map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/operators/idempotency", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn filled(store: &MemoryStore) -> Result<(), Failure> {
    for (scope, key) in [("ada", "order-1"), ("ada", "order-2"), ("grace", "order-1")] {
        run(store, &request(scope, "payments.create", key)?.then(Then::Refuse(24 * HOUR))?).await?;
    }
    store.advance(HOUR * 2);
    for key in ["order-3", "order-4", "order-5"] {
        run(store, &request("ada", "payments.create", key)?).await?;
    }
    // Its answer is owed, and nobody asks for it again.
    let refund = request("ada", "refunds.create", "refund-8")?;
    begin(store, &refund, &[(EntryKind::TRANSACTION, "reserve"), (EntryKind::CALL_STARTED, "refund")]).await?;
    let rejected = request("grace", "orders.create", "order-9")?;
    begin(store, &rejected, &[(EntryKind::CALL, "charge"), (EntryKind::REJECTION, "")]).await?;
    let settled = request("grace", "orders.create", "order-7")?;
    begin(store, &settled, &[(EntryKind::CALL_STARTED, "charge")]).await?;
    store.advance(Duration::from_secs(40));
    let reason = Reason::new("refunded by hand, see TICKET-12").ok_or("a reason")?;
    store.give_up(&settled.identity, &reason).await?;
    begin(store, &request("ada", "orders.create", "order-10")?, &[(EntryKind::TRANSACTION, "reserve")]).await
}

fn request(scope: &str, operation: &'static str, key: &str) -> Result<Request, idem_core::Error> {
    Request::new(Identity::new(scope, operation, key)?, Fingerprint::of_value(key)?, HOUR)
}

async fn run(store: &MemoryStore, request: &Request) -> Result<(), Failure> {
    let Claimed::Run(tx) = <MemoryTx<()> as Context>::claim(store, request).await? else { return Err("taken".into()) };
    let body = bytes::Bytes::from_static(b"{}");
    let reply = Reply { format: Format::HTTP, status: Some(201), headers: bytes::Bytes::new(), body };
    Ok(tx.complete(&Outcome::Reply(reply)).await?)
}

/// A leased run with these entries. The process that began it says nothing more.
async fn begin(store: &MemoryStore, request: &Request, entries: &[(EntryKind, &str)]) -> Result<(), Failure> {
    let claimed = MemoryLease::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await?;
    let Claimed::Run(attempt) = claimed else { return Err("taken".into()) };
    for (position, (kind, name)) in (0..).zip(entries) {
        attempt.lease.record(None, &Entry::new(position, *kind, *name)).await?;
    }
    Ok(())
}
