use crate::support::*;
use crate::twice::{json, send, twice};

trait Bank: Clone + Send + Sync + 'static {
    const FEE: u64;
}

#[derive(Clone)]
struct Savings;

impl Bank for Savings {
    const FEE: u64 = 1;
}

#[idempotent(scope = user)]
#[allow(clippy::needless_lifetimes)]
async fn create_payment<'tx, B, const LIMIT: u64>(
    State(_bank): State<B>,
    user: CurrentUser,
    tx: &'tx mut PgTx,
) -> Result<Json<Payment>, StatusCode>
where
    B: Bank,
{
    tx.write().await;
    if user.id > LIMIT {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(Json(Payment { id: user.id + B::FEE }))
}

#[idempotent(scope = user)]
async fn only_the_body_names_it<B: Bank>(tx: &mut PgTx, user: CurrentUser) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + B::FEE })
}

#[derive(Clone)]
struct App(PgStore, Savings);

impl axum::extract::FromRef<App> for PgStore {
    fn from_ref(app: &App) -> Self {
        app.0.clone()
    }
}

impl axum::extract::FromRef<App> for Savings {
    fn from_ref(app: &App) -> Self {
        app.1.clone()
    }
}

#[test]
fn types_constants_and_lifetimes() {
    let store = PgStore::default();
    let app = Router::new()
        .route("/payments", post(create_payment::<Savings, 10>))
        .route("/refused", post(create_payment::<Savings, 1>))
        .route("/others", post(only_the_body_names_it::<Savings>))
        .with_state(App(store.clone(), Savings));
    // What is refused is undone and not stored, so its key is free for whatever runs next.
    assert_eq!(send(&app, json("/refused", "")), (400, String::new(), false));
    assert_eq!(store.writes(), 0);
    assert_eq!(twice(&store, &app, || json("/payments", "")), (200, r#"{"id":8}"#.to_owned()));
    assert_eq!(twice(&store, &app, || json("/others", "")), (200, r#"{"id":8}"#.to_owned()));
}
