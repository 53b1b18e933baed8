::core::compile_error! {
    "no parameter named `usr`\nhelp: did you mean `user`?"
}
::core::compile_error! {
    "`24` has no unit\nhelp: write `\"24s\"`, `\"24m\"`, `\"24h\"`, `\"24d\"` or `\"24w\"`"
}
async fn create_payment(
    __idem_0: CurrentUser,
    __idem_1: Json<NewPayment>,
) -> ::core::convert::Infallible {
    async fn create_payment(
        user: CurrentUser,
        tx: &mut PgTx,
        Json(order): Json<NewPayment>,
    ) -> Reply {
        insert_payment(tx, &user, &order).await
    }
    ::core::unreachable!()
}
