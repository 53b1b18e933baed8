//! Whether a browser sends a form from a page of the console itself, or from another site's.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};

use super::{Place, Trouble};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a form of another site. The browser of an operator would send it with the operator's cookies.
pub(super) async fn required(place: Place, request: Request, next: Next) -> Response {
    if is_of_own_page(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    let words = "This form was not sent from a page of this console, as far as the browser says. Nothing has changed.";
    Trouble::new(&place, StatusCode::FORBIDDEN, words).into_response()
}

/// A browser sets both headers itself: no page and no form can change them. `Sec-Fetch-Site` is missing where the
/// connection is not encrypted, and in browsers from before 2023. A request without either says nothing, and is refused.
fn is_of_own_page(headers: &HeaderMap, uri: &Uri) -> bool {
    match (said(headers, &SEC_FETCH_SITE), said(headers, &ORIGIN)) {
        (Said::Once(site), _) => site == "same-origin",
        (Said::Nothing, Said::Once(origin)) => is_origin_of(origin, headers, uri),
        _ => false,
    }
}

/// Whether the origin is that of the host that was asked. Its scheme is not compared: a proxy may end the encryption.
fn is_origin_of(origin: &str, headers: &HeaderMap, uri: &Uri) -> bool {
    let Some((_, origin)) = origin.split_once("://") else { return false };
    let host = match said(headers, &HOST) {
        Said::Once(host) => Some(host),
        // HTTP/2 has it in the address.
        Said::Nothing => uri.authority().map(http::uri::Authority::as_str),
        Said::Unclear => None,
    };
    host.is_some_and(|host| !host.is_empty() && host.eq_ignore_ascii_case(origin))
}

enum Said<'h> {
    Nothing,
    Once(&'h str),
    /// Several times, or no text.
    Unclear,
}

fn said<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Said<'h> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Said::Nothing,
        (Some(line), None) => line.to_str().map_or(Said::Unclear, Said::Once),
        (Some(_), Some(_)) => Said::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn is_own(uri: &'static str, lines: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, HeaderValue::from_static(line));
        }
        is_of_own_page(&headers, &Uri::from_static(uri))
    }

    #[test]
    fn r37_only_a_browser_that_says_same_origin_sends_a_form_of_the_console() {
        let host = ("host", "ops.example:8443");
        assert!(is_own("/", &[host, ("sec-fetch-site", "same-origin")]));
        assert!(
            is_own("/", &[host, ("sec-fetch-site", "same-origin"), ("origin", "https://outer.example")]),
            "a proxy"
        );
        assert!(is_own("/", &[host, ("origin", "https://ops.example:8443")]));
        assert!(is_own("/", &[("host", "OPS.example"), ("origin", "http://ops.example")]));
        assert!(is_own("https://ops.example/", &[("origin", "https://ops.example")]), "HTTP/2");
        for other in ["cross-site", "same-site", "none", "", "same-origin, same-origin"] {
            assert!(
                !is_own("/", &[host, ("sec-fetch-site", other), ("origin", "https://ops.example:8443")]),
                "{other}"
            );
        }
        for other in [
            "null",
            "",
            "https://",
            "https://evil.example",
            "https://ops.example",
            "https://ops.example:8443.evil.example",
            "https://ops.example:8443@evil.example",
            "https://evil.example/ops.example:8443",
            "ops.example:8443",
        ] {
            assert!(!is_own("/", &[host, ("origin", other)]), "{other}");
        }
        assert!(!is_own("/", &[host]), "nothing is said");
        assert!(!is_own("/", &[("origin", "https://ops.example")]), "no host");
        assert!(!is_own("/", &[("host", ""), ("origin", "https://")]), "an empty host");
        let twice = ("sec-fetch-site", "same-origin");
        assert!(!is_own("/", &[host, twice, twice]));
        assert!(!is_own("/", &[host, host, ("origin", "https://ops.example:8443")]));
    }
}
