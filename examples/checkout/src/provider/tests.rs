use super::*;

/// In one word.
fn word(status: u16, body: &Value) -> &'static str {
    match decision(StatusCode::from_u16(status).expect("a status"), body) {
        Ok(Charge::Paid { .. }) => "paid",
        Ok(Charge::Declined) => "declined",
        Ok(Charge::Refused) => "final",
        Err(NoDecision::Refused(_)) => "operator",
        Err(NoDecision::NoId) => "no id",
        Err(_) => "again",
    }
}

#[test]
fn what_is_final_is_told_from_what_is_asked_again() {
    assert_eq!(word(201, &json!({ "id": "ch_1" })), "paid");
    assert_eq!(word(201, &json!({})), "no id");
    assert_eq!(word(201, &Value::Null), "no id");
    assert_eq!(word(402, &Value::Null), "declined");
    assert_eq!(word(422, &json!({ "code": "card_unknown" })), "final");
    // An earlier request may have charged under this key.
    assert_eq!(word(422, &json!({ "code": "key_reused" })), "operator");
    for status in [301, 400, 401, 403, 404, 405, 410, 413, 415, 422] {
        assert_eq!(word(status, &Value::Null), "operator", "{status}");
    }
    for status in [200, 202, 204, 408, 409, 425, 429, 500, 502, 503, 504] {
        assert_eq!(word(status, &Value::Null), "again", "{status}");
    }
}

#[test]
fn what_is_no_url_is_an_error_at_the_start() {
    let new = |url| Provider::new(url, Duration::from_secs(1));
    for url in
        ["", "provider", "127.0.0.1:4000", "http://", "https://provider", "http://a b", "http://a/?b", "/charges"]
    {
        assert!(new(url).is_err(), "{url:?}");
    }
    for url in ["http://127.0.0.1:4000", "http://127.0.0.1:4000/", "http://provider"] {
        assert_eq!(new(url).expect("a URL").charges.path(), "/charges", "{url:?}");
    }
    assert_eq!(new("http://provider/v1/").expect("a URL").refunds.path(), "/v1/refunds");
}
