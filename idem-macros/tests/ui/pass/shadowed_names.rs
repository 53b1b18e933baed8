#![deny(warnings)]
include!("../support.rs");

#[allow(dead_code)]
mod shadows {
    pub struct Result;
    pub struct Ok;
    pub struct Err;
    pub struct Some;
    pub struct None;
    pub struct String;
    pub struct Box;
    pub struct Option;
    pub trait Send {}
    pub mod core {}
    pub mod std {}
    pub mod idem_core {}
    pub mod axum {}
}
#[allow(unused_imports)]
use shadows::{Box, Err, None, Ok, Option, Result, Send, Some, String, core, idem_core, std};

#[idempotent(scope = key, fingerprint = store.amount, in_flight = wait("5s"), missing_key = run)]
async fn run(
    key: CurrentUser,
    context: &mut PgTx,
    support::Json(store): support::Json<NewPayment>,
) -> support::StatusCode {
    let (request, response, call, asked) = (1, 2, 3, 4);
    let steps = request + response + call + asked;
    context.write().await;
    drop((key, store, steps));
    support::StatusCode::CREATED
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(run));
}
