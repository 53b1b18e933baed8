//! Sends each notification once, however often its request is sent.

mod caller;
mod error;
mod mailer;
mod notifications;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::post;
use idem_redis::RedisStore;
pub use mailer::Mailer;

/// The router's state.
#[derive(Clone)]
struct App {
    store: RedisStore,
    mailer: Mailer,
}

/// Lets the attribute find the store. Without it, a route to an idempotent handler does not compile.
impl FromRef<App> for RedisStore {
    fn from_ref(app: &App) -> Self {
        app.store.clone()
    }
}

/// The routes.
pub fn app(store: RedisStore, mailer: Mailer) -> Router {
    Router::new().route("/notifications", post(notifications::create)).with_state(App { store, mailer })
}
