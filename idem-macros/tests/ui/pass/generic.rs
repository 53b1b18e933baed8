#![deny(warnings)]
include!("../support.rs");

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

fn main() {
    let _: Router<App> = Router::new()
        .route("/payments", post(create_payment::<Savings, 10>))
        .route("/others", post(only_the_body_names_it::<Savings>));
}
