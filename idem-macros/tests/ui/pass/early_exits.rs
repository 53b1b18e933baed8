use crate::support::*;
use crate::twice::{json, send, twice};

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, amount: String) -> Result<Json<Payment>, StatusCode> {
    tx.write().await;
    let amount: u64 = amount.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    if amount == 0 {
        return Ok(Json(Payment { id: 0 }));
    }
    let id = 'found: loop {
        for id in user.id.. {
            if id % amount == 0 {
                break 'found id;
            }
        }
    };
    Ok(Json(Payment { id }))
}

#[test]
fn a_question_mark_a_return_and_a_break_with_a_value() {
    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(send(&app, json("/", "x")), (400, String::new(), false));
    assert_eq!(store.writes(), 0, "what failed is undone, and its key is free");
    assert_eq!(twice(&store, &app, || json("/", "5")), (200, r#"{"id":10}"#.to_owned()));

    let store = PgStore::default();
    let app = Router::new().route("/", post(create_payment)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/", "0")), (200, r#"{"id":0}"#.to_owned()));
}
