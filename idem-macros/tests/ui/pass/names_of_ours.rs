use crate::support::*;
use crate::twice::{ORDER, json, twice};

#[idempotent(scope = store, fingerprint = request.amount, in_flight = accepted)]
async fn response(store: CurrentUser, steps: &mut PgTx, Json(request): Json<NewPayment>) -> Json<Payment> {
    let tx = steps;
    tx.write().await;
    let (key, steps, call, policy) = (1, 2, 3, 4);
    let response = key + steps + call + policy;
    Json(Payment { id: store.id + request.amount + response })
}

#[idempotent(scope = response, axum, key = request)]
async fn key(
    State(store): State<PgStore>,
    Path((request, response)): Path<(String, u64)>,
    key: &mut PgTx,
    tx: CurrentUser,
) -> String {
    key.write().await;
    let (steps, _) = (key.writes, store);
    format!("{request} {response} {} {steps}", tx.id)
}

#[test]
fn parameters_and_locals_have_the_names_that_we_use() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(response)).route("/{a}/{b}", post(key)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, r#"{"id":22}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/r/3", "")), (200, "r 3 7 2".to_owned()));
}
