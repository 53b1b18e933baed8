async fn checkout(
    __idem_0: CurrentUser,
    __idem_last: ::idem_core::__private::RecordedOf<PgSteps, Json<NewOrder>>,
) -> ::idem_core::__private::Response {
    async fn checkout(
        user: CurrentUser,
        steps: &mut PgSteps,
        Json(order): Json<NewOrder>,
    ) -> Result<Json<Receipt>, ApiError> {
        let _ = &user;
        steps.transaction("reserve", async |tx| reserve(tx, &order).await).await?;
        let charge = steps
            .call("charge", async |key| charge(&user, &order, key).await)
            .await?;
        steps.finish(async |tx| confirm(tx, &order, &charge).await).await?;
        Ok(Json(Receipt::of(order, charge)))
    }
    static __IDEM_POLICY: ::idem_core::__private::Policy = ::idem_core::__private::Policy {
        operation: ::idem_core::__private::Operation::new(
            ::core::concat!(::core::module_path!(), "::checkout"),
        ),
        ttl: ::core::time::Duration::from_secs(86400),
        then: ::idem_core::__private::Then::Run,
        first_sent: ::idem_core::__private::OnFirstSent::Ignore,
        in_flight: ::idem_core::__private::InFlight::Conflict,
        missing_key: ::idem_core::__private::MissingKey::Reject,
        deadline: ::core::option::Option::None,
        lease: ::idem_core::__private::lease::<
            PgSteps,
        >(
            ::idem_core::__private::LeaseTerms::DEFAULT
                .lasting(::core::time::Duration::from_secs(30))
                .attempts(5),
        ),
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
                    checkout(__idem_0, __idem_context, __idem_1).await,
                )
            }),
        )
        .await
}
