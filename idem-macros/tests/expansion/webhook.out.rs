async fn shipped<C: Carrier>(
    __idem_0: State<C>,
    __idem_1: Shop,
    __idem_last: app::idempotency::__private::RecordedOf<SqliteTx, Json<Shipped>>,
) -> app::idempotency::__private::Response {
    #[tracing::instrument(skip_all)]
    async fn shipped<'tx, C: Carrier>(
        tx: &'tx mut SqliteTx,
        State(mut carrier): State<C>,
        shop: Shop,
        Json(event): Json<Shipped>,
    ) -> impl IntoResponse {
        let _ = &shop;
        let _ = &event;
        note(tx, &mut carrier, event).await
    }
    const _: () = {
        #[axum::debug_handler(state = App)]
        async fn shipped<C: Carrier>(
            __idem_0: State<C>,
            __idem_1: Shop,
            __idem_2: Json<Shipped>,
        ) -> app::idempotency::__private::Response {
            ::core::unreachable!()
        }
    };
    static __IDEM_POLICY: app::idempotency::__private::Policy = app::idempotency::__private::Policy {
        operation: app::idempotency::__private::Operation::new("shipments.note"),
        ttl: ::core::time::Duration::from_secs(604800),
        then: app::idempotency::__private::Then::Run,
        first_sent: app::idempotency::__private::OnFirstSent::Ignore,
        in_flight: app::idempotency::__private::InFlight::Wait(
            ::core::time::Duration::from_millis(500),
        ),
        missing_key: app::idempotency::__private::MissingKey::Run,
        deadline: ::core::option::Option::None,
        lease: app::idempotency::__private::LeaseTerms::DEFAULT,
    };
    let (__idem_call, __idem_2) = __idem_last.into_parts();
    let __idem_asked = app::idempotency::__private::asked(|| {
        let shop = &__idem_1;
        let _ = &shop;
        let Json(event) = &__idem_2;
        let _ = &event;
        app::idempotency::__private::Asked {
            scope: app::idempotency::__private::scope(&("webhooks", &shop.id)),
            key: app::idempotency::__private::AskedKey::Value(
                app::idempotency::__private::key(&event.id),
            ),
            fingerprint: app::idempotency::__private::AskedFingerprint::Value(
                app::idempotency::__private::fingerprint(&(&event.order, &event.at)),
            ),
            input: ::core::option::Option::None,
        }
    });
    __idem_call
        .serve(
            &__IDEM_POLICY,
            __idem_asked,
            move |__idem_context| ::std::boxed::Box::pin(async move {
                app::idempotency::__private::reply(
                    shipped::<C>(__idem_context, __idem_0, __idem_1, __idem_2).await,
                )
            }),
        )
        .await
}
