use crate::support::*;
use crate::twice::{ORDER, json, twice};

type U = CurrentUser;

#[idempotent(scope = (a, b, c))]
#[allow(clippy::too_many_arguments, clippy::many_single_char_names)]
async fn crowd(
    a: U,
    b: U,
    c: U,
    d: U,
    e: U,
    f: U,
    g: U,
    h: U,
    tx: &mut PgTx,
    i: U,
    j: U,
    k: U,
    l: U,
    m: U,
    n: U,
    o: U,
    Json(p): Json<NewPayment>,
) -> StatusCode {
    tx.write().await;
    drop((a, b, c, d, e, f, g, h));
    drop((i, j, k, l, m, n, o, p));
    StatusCode::OK
}

#[test]
fn as_many_as_axum_takes() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(crowd)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", ORDER)), (200, String::new()));
}
