#![deny(warnings)]
include!("../support.rs");

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

fn main() {
    let _: Router<App> = Router::new().route("/{tenant}/{year}/payments", post(create_payment));
}
