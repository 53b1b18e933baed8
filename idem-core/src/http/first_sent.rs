//! The headers that say when a request was first sent.

use http::HeaderMap;

use crate::error::{Error, Kind};
use crate::first_sent::FirstSent;
use crate::identity::Key;

/// The second name is of OASIS Repeatable Requests 1.0.
const HEADERS: [&str; 2] = ["idempotency-first-sent", "repeatability-first-sent"];

/// When a request says that it was first sent: by `Idempotency-First-Sent`, by `Repeatability-First-Sent`, or by a key
/// that is a UUID of version 7. `first_sent = refuse` reads the same.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use idem_core::ToKey;
/// use idem_core::http::first_sent;
///
/// let key = "order-17".to_key()?.expect("a key");
/// let mut headers = HeaderMap::new();
/// assert_eq!(first_sent(&headers, &key)?, None);
/// headers.insert("idempotency-first-sent", HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
/// assert!(first_sent(&headers, &key)?.is_some());
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// # Rules
/// - If several of the three say a time, the earliest counts: no header makes a request younger than its key.
/// - A header has the form of `Date` (RFC 9110, `IMF-fixdate`), and is there once.
///
/// # Errors
/// [`Kind::FirstSentInvalid`] if a header cannot be read.
pub fn first_sent(headers: &HeaderMap, key: &Key) -> Result<Option<FirstSent>, Error> {
    let mut earliest = FirstSent::of_key(key);
    for name in HEADERS {
        let mut lines = headers.get_all(name).iter();
        let Some(line) = lines.next() else { continue };
        let text = line.to_str().ok().filter(|_| lines.next().is_none());
        let time = text.and_then(date).ok_or_else(unreadable)?;
        earliest = Some(earliest.map_or(time, |earliest| earliest.min(time)));
    }
    Ok(earliest)
}

/// A date as `Date` has it. `httpdate` also reads the two old forms, and a date with the wrong day of the week.
fn date(text: &str) -> Option<FirstSent> {
    let text = text.trim_matches([' ', '\t']);
    let time = httpdate::parse_http_date(text).ok()?;
    (httpdate::fmt_http_date(time) == text).then(|| FirstSent::at(time))
}

fn unreadable() -> Error {
    Error::new(Kind::FirstSentInvalid)
        .because("the time at which this request was first sent cannot be read; send one date, in the form of `Date`")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;

    use super::*;

    fn read(key: &str, lines: &[(&'static str, &[u8])]) -> Result<Option<FirstSent>, Kind> {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, HeaderValue::from_bytes(line).expect("a header value"));
        }
        first_sent(&headers, &Key::of(key).expect("valid").expect("a key")).map_err(|error| error.kind())
    }

    fn at(seconds: u64) -> FirstSent {
        FirstSent::at(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    const OURS: &str = "idempotency-first-sent";
    const OASIS: &str = "repeatability-first-sent";

    #[test]
    fn r36_the_earliest_of_the_headers_and_the_key_counts() {
        let date: &[u8] = b"Tue, 22 Feb 2022 19:22:22 GMT";
        let later: &[u8] = b"Tue, 22 Feb 2022 19:22:23 GMT";
        // 2022-02-22 19:22:22 UTC, too.
        let key = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let time = Ok(Some(at(1_645_557_742)));
        assert_eq!(read("k", &[]), Ok(None));
        assert_eq!(read("k", &[(OURS, date)]), time);
        assert_eq!(read("k", &[(OASIS, b" \tTue, 22 Feb 2022 19:22:22 GMT ")]), time);
        assert_eq!(read("k", &[(OURS, later), (OASIS, date)]), time);
        assert_eq!(read("k", &[(OURS, date), (OASIS, later)]), time);
        assert_eq!(read(key, &[]), time);
        assert_eq!(read(key, &[(OURS, later), (OASIS, later)]), time);
        assert_eq!(read(key, &[(OURS, b"Sun, 06 Nov 1994 08:49:37 GMT")]), Ok(Some(at(784_111_777))));
    }

    #[test]
    fn r36_a_header_that_cannot_be_read_is_refused() {
        for line in [
            "",
            "now",
            "1645557742",
            "2022-02-22T19:22:22Z",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "\u{fc}",
        ] {
            for name in [OURS, OASIS] {
                assert_eq!(read("k", &[(name, line.as_bytes())]), Err(Kind::FirstSentInvalid), "{line}");
            }
        }
        let date: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(read("k", &[(OURS, date), (OURS, date)]), Err(Kind::FirstSentInvalid));
        assert_eq!(read("k", &[(OURS, date), (OASIS, b"now")]), Err(Kind::FirstSentInvalid));
    }
}
