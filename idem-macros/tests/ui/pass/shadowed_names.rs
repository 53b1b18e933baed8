use crate::support::*;
use crate::twice::{ORDER, block_on, json, twice};

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
async fn run(key: CurrentUser, context: &mut PgTx, Json(store): Json<NewPayment>) -> StatusCode {
    let (request, response, call, asked) = (1, 2, 3, 4);
    let steps = request + response + call + asked;
    context.write().await;
    drop((key, store, steps));
    StatusCode::CREATED
}

#[idempotent(scope = "test", key = id, rejects = is_final)]
async fn plain(tx: &mut PgTx, id: u64) -> ::core::result::Result<u64, Final> {
    tx.write().await;
    ::core::result::Result::Ok(id)
}

#[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
struct Final;

impl From<::idem_core::Error> for Final {
    fn from(_: ::idem_core::Error) -> Self {
        Self
    }
}

fn is_final(_: &Final) -> bool {
    true
}

#[test]
fn names_of_the_prelude_mean_something_else() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(run)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (201, ::std::string::String::new()));
    assert_eq!(block_on(plain(&store, 1)), ::core::result::Result::Ok(1));
    assert_eq!(block_on(plain(&store, 1)), ::core::result::Result::Ok(1));
    assert_eq!(store.writes(), 2);
}
