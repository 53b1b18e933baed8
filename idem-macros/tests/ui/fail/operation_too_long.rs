include!("../support.rs");

#[idempotent(
    scope = user,
    operation = "a.name.that.says.everything.there.is.to.say.about.the.handler.and.then.some.more.\
        a.name.that.says.everything.there.is.to.say.about.the.handler.and.then.some.more.\
        a.name.that.says.everything.there.is.to.say.about.the.handler.and.then.some.more.\
        a.name.that.says.everything.there.is.to.say.about.the.handler.and.then.some.more."
)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
