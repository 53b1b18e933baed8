/// Charges a customer.
pub async fn create_payment(
    __idem_0: CurrentUser,
    __idem_last: ::idem_core::__private::RecordedOf<PgTx, Json<NewPayment>>,
) -> ::idem_core::__private::Response {
    async fn create_payment(
        user: CurrentUser,
        tx: &mut PgTx,
        Json(order): Json<NewPayment>,
    ) -> Result<(StatusCode, Json<Payment>), ApiError> {
        let _ = &user;
        let payment = insert_payment(tx, &user, &order).await?;
        Ok((StatusCode::CREATED, Json(payment)))
    }
    static __IDEM_POLICY: ::idem_core::__private::Policy = ::idem_core::__private::Policy {
        operation: ::idem_core::__private::Operation::new(
            ::core::concat!(::core::module_path!(), "::create_payment"),
        ),
        ttl: ::core::time::Duration::from_secs(86400),
        then: ::idem_core::__private::Then::Run,
        first_sent: ::idem_core::__private::OnFirstSent::Ignore,
        in_flight: ::idem_core::__private::InFlight::Conflict,
        missing_key: ::idem_core::__private::MissingKey::Reject,
        deadline: ::core::option::Option::None,
        lease: ::idem_core::__private::LeaseTerms::DEFAULT,
    };
    let (__idem_call, __idem_1) = __idem_last.into_parts();
    let __idem_asked = ::idem_core::__private::asked(|| {
        let user = &__idem_0;
        let _ = &user;
        ::idem_core::__private::Asked {
            scope: ::idem_core::__private::scope(user),
            key: ::idem_core::__private::AskedKey::Header("idempotency-key"),
            fingerprint: ::idem_core::__private::AskedFingerprint::Request,
            input: ::core::option::Option::None,
        }
    });
    __idem_call
        .serve(
            &__IDEM_POLICY,
            __idem_asked,
            move |__idem_context| ::std::boxed::Box::pin(async move {
                ::idem_core::__private::reply(
                    create_payment(__idem_0, __idem_context, __idem_1).await,
                )
            }),
        )
        .await
}
