use crate::support::*;
use crate::twice::{block_on, json, twice};

use idem_core::Error;

/// What a crate that is not Axum's may have.
mod types {
    #[derive(serde::Serialize, Clone)]
    pub struct Json<T>(pub T);
}

#[idempotent(key = id.0, scope = "path")]
async fn by_its_path(tx: &mut PgTx, id: types::Json<String>) -> Result<String, Error> {
    tx.write().await;
    Ok(id.0)
}

mod by_its_name {
    use super::types::Json;
    use crate::support::{PgSteps, PgTx, idempotent};

    use idem_core::Error;

    pub struct Shelf(pub String);

    impl Shelf {
        #[idempotent(key = id.0, scope = self.0, operation = "shelf.name")]
        pub async fn name(&self, tx: &mut PgTx, id: Json<String>) -> Result<String, Error> {
            tx.write().await;
            Ok(id.0 + &self.0)
        }
    }

    #[derive(serde::Serialize, serde::Deserialize, Debug)]
    pub struct Text(String);

    impl From<Error> for Text {
        fn from(error: Error) -> Self {
            Self(error.to_string())
        }
    }

    fn is_final(error: &Text) -> bool {
        error.0.is_empty()
    }

    #[idempotent(key = id.0, scope = "rejects", rejects = is_final)]
    pub async fn rejects(tx: &mut PgTx, id: Json<String>) -> Result<String, Text> {
        tx.write().await;
        Ok(id.0)
    }

    #[idempotent(key = id.0, scope = "record_input", record_input = id)]
    pub async fn records(steps: &mut PgSteps, id: Json<String>) -> Result<String, Error> {
        let written = steps.transaction("write", async |tx| {
            tx.write().await;
            Ok::<_, Error>(())
        });
        written.await?;
        Ok(id.0)
    }
}

/// Inside another type, it is no reply.
#[derive(serde::Serialize)]
struct Sse {
    id: u64,
}

#[derive(serde::Deserialize)]
struct WebSocketUpgrade {
    amount: u64,
}

#[idempotent(scope = user)]
async fn streams(user: CurrentUser, tx: &mut PgTx, Json(order): Json<WebSocketUpgrade>) -> Json<Sse> {
    tx.write().await;
    Json(Sse { id: user.id + order.amount })
}

#[test]
fn another_type_of_the_name_is_not_axums() {
    let store = PgStore::default();
    let id = || types::Json("a".to_owned());
    let shelf = by_its_name::Shelf("b".to_owned());
    for _ in 0..2 {
        assert_eq!(block_on(by_its_path(&store, id())).unwrap(), "a");
        assert_eq!(block_on(shelf.name(&store, id())).unwrap(), "ab");
        assert_eq!(block_on(by_its_name::rejects(&store, id())).unwrap(), "a");
        assert_eq!(block_on(by_its_name::records(&store, id())).unwrap(), "a");
        assert_eq!(store.writes(), 4);
    }
    let app = Router::new().route("/", post(streams)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", r#"{"amount": 5}"#)), (200, r#"{"id":12}"#.to_owned()));
}
