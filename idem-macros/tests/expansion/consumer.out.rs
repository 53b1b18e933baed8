/// Takes what was shipped out of the stock.
pub async fn on_shipped(
    tx: &<PgTx as ::idem_core::__private::Context>::Store,
    event: &Shipped,
) -> Result<Stock, StockError> {
    static __IDEM_POLICY: ::idem_core::__private::Policy = ::idem_core::__private::Policy {
        operation: ::idem_core::__private::Operation::new(
            ::core::concat!(::core::module_path!(), "::on_shipped"),
        ),
        ttl: ::core::time::Duration::from_secs(604800),
        then: ::idem_core::__private::Then::Run,
        first_sent: ::idem_core::__private::OnFirstSent::Ignore,
        in_flight: ::idem_core::__private::InFlight::Conflict,
        missing_key: ::idem_core::__private::MissingKey::Reject,
        deadline: ::core::option::Option::None,
        lease: ::idem_core::__private::LeaseTerms::DEFAULT,
    };
    let __idem_codec = ::idem_core::__private::codec_with_errors_of::<
        Stock,
        StockError,
    >();
    let __idem_asked = {
        let event = &event;
        let _ = &event;
        ::idem_core::__private::Asked {
            scope: ::idem_core::__private::scope("inventory"),
            key: ::idem_core::__private::key(&event.id),
            fingerprint: ::idem_core::__private::arguments([
                ::idem_core::__private::argument(&event),
            ]),
            input: ::core::option::Option::None,
        }
    };
    match ::idem_core::__private::enter::<
        PgTx,
        _,
    >(tx, &__IDEM_POLICY, __idem_asked, &__idem_codec)
        .await
    {
        ::idem_core::__private::Entered::Over(__idem_answer) => __idem_answer,
        ::idem_core::__private::Entered::Run(mut __idem_run) => {
            let mut __idem_body = async move |
                tx: &mut PgTx,
            | -> Result<Stock, StockError> {
                {
                    let stock = take_out(tx, event).await?;
                    Ok(stock)
                }
            };
            let __idem_cut = ::idem_core::__private::cut(&__idem_run);
            let __idem_body = __idem_body(&mut *__idem_run);
            let __idem_answer = ::idem_core::__private::answer(__idem_cut, __idem_body)
                .await;
            let __idem_is_final = ::idem_core::__private::is_final(
                &__idem_answer,
                StockError::is_final,
            );
            ::idem_core::__private::settle(
                    __idem_run,
                    __idem_answer,
                    __idem_is_final,
                    &__idem_codec,
                )
                .await
        }
    }
}
