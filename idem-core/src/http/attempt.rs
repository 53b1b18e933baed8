//! The headers that say which attempt of a client or a proxy this is.

use http::HeaderMap;

/// The first is our own, the second is what Envoy sends to its upstreams.
const HEADERS: [&str; 2] = ["idempotency-attempt", "x-envoy-attempt-count"];

/// Whether a request says that it was sent before: its attempt is 2 or later. A wrong word costs a look-up in a
/// [hint](crate::hint), and decides nothing.
pub(super) fn is_retry(headers: &HeaderMap) -> bool {
    HEADERS.iter().filter_map(|name| headers.get(*name)?.to_str().ok()?.trim().parse::<u32>().ok()).any(|it| it > 1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn r38_a_client_or_a_proxy_says_that_it_is_a_retry() {
        let says = |name: &'static str, value: &'static str| {
            is_retry(&HeaderMap::from_iter([(name.parse().expect("a name"), HeaderValue::from_static(value))]))
        };
        assert!(says("idempotency-attempt", "2") && says("x-envoy-attempt-count", "3"));
        assert!(!says("idempotency-attempt", "1") && !says("idempotency-attempt", "again"));
        assert!(!is_retry(&HeaderMap::new()));
    }
}
