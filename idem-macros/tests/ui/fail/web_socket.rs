include!("../support.rs");

use axum::response::Response;

// Stands for `axum::extract::ws::WebSocketUpgrade`.
struct WebSocketUpgrade;

impl WebSocketUpgrade {
    fn on_upgrade(self) -> Response {
        StatusCode::SWITCHING_PROTOCOLS.into_response()
    }
}

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, socket: WebSocketUpgrade) -> Response {
    tx.write().await;
    drop(user);
    socket.on_upgrade()
}

fn main() {}
