use crate::support::*;
use crate::twice::{ORDER, json, send, twice};

fn tenant_of(user: &CurrentUser) -> u64 {
    user.id / 1000
}

const REGION: &str = "eu";

#[idempotent(scope = (REGION, (tenant_of(user), user.name)))]
async fn tuple(user: CurrentUser, tx: &mut PgTx) {
    tx.write().await;
    drop(user);
}

#[idempotent(scope = format!("{}-{user}", user.len()))]
async fn text(Path(user): Path<String>, tx: &mut PgTx) {
    tx.write().await;
    drop(user);
}

#[idempotent(scope = match user { Some(CurrentUser { id, .. }) => *id, None => 0 })]
async fn chosen(State(user): State<Option<CurrentUser>>, tx: &mut PgTx) {
    tx.write().await;
    drop(user);
}

#[idempotent(scope = ids.iter().map(|id| id + 1).sum::<u64>())]
async fn summed(tx: &mut PgTx, Json(ids): Json<Vec<u64>>) {
    tx.write().await;
    drop(ids);
}

/// A field of a parameter's name, and a word in a string, are no parameters.
#[idempotent(scope = user.id, fingerprint = (order.amount, "webhooks"))]
async fn alike(
    user: CurrentUser,
    Path((id, amount)): Path<(u64, u64)>,
    webhook: axum::http::Method,
    tx: &mut PgTx,
    Json(order): Json<NewPayment>,
) {
    tx.write().await;
    assert!((user.id, order.amount) != (id, amount) && webhook == "POST");
}

#[idempotent(scope = "users", fingerprint = (order.amount, "x"))]
async fn alike_and_alone(Path(amount): Path<u64>, user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) {
    tx.write().await;
    assert!(user.id + order.amount != amount);
}

#[derive(Clone)]
struct App(PgStore, Option<CurrentUser>);

impl axum::extract::FromRef<App> for PgStore {
    fn from_ref(app: &App) -> Self {
        app.0.clone()
    }
}

impl axum::extract::FromRef<App> for Option<CurrentUser> {
    fn from_ref(app: &App) -> Self {
        app.1.clone()
    }
}

#[test]
fn a_scope_is_any_expression() {
    let store = PgStore::default();
    let user = CurrentUser { id: 7, name: "ada".to_owned() };
    let app = Router::new()
        .route("/tuple", post(tuple))
        .route("/text/{user}", post(text))
        .route("/chosen", post(chosen))
        .route("/summed", post(summed))
        .route("/alike/{id}/{amount}", post(alike))
        .route("/alike/{amount}", post(alike_and_alone))
        .with_state(App(store.clone(), Some(user)));
    for (path, body) in [
        ("/tuple", ""),
        ("/text/ada", ""),
        ("/chosen", ""),
        ("/summed", "[1, 2]"),
        ("/alike/1/2", ORDER),
        ("/alike/1", ORDER),
    ] {
        assert_eq!(twice(&store, &app, || json(path, body)), (200, String::new()), "{path}");
    }
    // Another owner's key is another key.
    assert!(!send(&app, json("/summed", "[1, 2, 3]")).2);
}
