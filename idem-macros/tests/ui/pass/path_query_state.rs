use crate::support::*;
use crate::twice::{ORDER, json, send, twice};

#[derive(serde::Deserialize)]
struct Options {
    notify: bool,
}

#[derive(Clone)]
struct App {
    store: PgStore,
    fee: u64,
}

impl axum::extract::FromRef<App> for PgStore {
    fn from_ref(app: &App) -> Self {
        app.store.clone()
    }
}

#[idempotent(scope = (tenant, user.name), ttl = "7d", fingerprint = (order.customer_id, options.notify))]
async fn create_payment(
    State(app): State<App>,
    Path((tenant, _year)): Path<(String, u16)>,
    Query(options): Query<Options>,
    user: CurrentUser,
    tx: &mut PgTx,
    Json(order): Json<NewPayment>,
) -> Json<Payment> {
    tx.write().await;
    drop((tenant, user, options));
    Json(Payment { id: app.fee + order.amount })
}

#[test]
fn path_query_and_state() {
    let store = PgStore::default();
    let app = Router::new()
        .route("/{tenant}/{year}/payments", post(create_payment))
        .with_state(App { store: store.clone(), fee: 2 });
    let at = |path| move || json(path, ORDER);
    assert_eq!(twice(&store, &app, at("/t/2026/payments?notify=true")), (200, r#"{"id":7}"#.to_owned()));
    // The fingerprint is what the attribute names, and where the request goes; the scope has the tenant.
    let another_amount = ORDER.replace(": 5", ": 6");
    assert_ne!(another_amount, ORDER);
    assert!(send(&app, json("/t/2026/payments?notify=true", &another_amount)).2);
    assert_eq!(send(&app, at("/t/2027/payments?notify=true")()).0, 422);
    assert_eq!(send(&app, at("/t/2026/payments?notify=false")()).0, 422);
    assert!(!send(&app, at("/other/2026/payments?notify=true")()).2);
}
