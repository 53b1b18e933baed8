//! Captures a response for its record, and replays it.

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::observer::TraceParent;
use crate::record::{Format, Outcome, Reply};

/// Set on every replay, and on no other response: [`own`] takes an upstream's off.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Headers that are not stored (rule 19): they belong to one connection or to one moment, or identify a session. The
/// headers that `Connection` names belong to the connection, too (RFC 9110, section 7.6.1).
const NOT_STORED: [HeaderName; 11] = [
    header::SET_COOKIE,
    header::DATE,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes off the response what is meant for us or was said by another server: the handler's [`Disposition`], which is
/// returned, and the mark of a replay by an upstream. A server around this one must not take either for its own.
pub(crate) fn own(response: &mut Response) -> Option<Disposition> {
    response.headers_mut().remove(REPLAYED);
    response.extensions_mut().remove()
}

/// Reads a response whole. Returns the outcome to store and the response to send.
///
/// The trace of the run is stored in front of the headers. It does not count for the limit, so that the same response is
/// over the limit with it and without.
///
/// Over the limit it stops reading and stores a tombstone. The rest of the body is streamed to the caller.
pub(crate) async fn capture(
    response: Response,
    traced: Option<TraceParent>,
    limit: usize,
) -> Result<(Outcome, Response), Error> {
    let (parts, mut body) = response.into_parts();
    let headers = encode_headers(&parts.headers);
    let mut read = BytesMut::new();
    let mut fits = headers.len() <= limit;
    while fits && let Some(frame) = body.frame().await {
        // The error is the handler's own, and may quote what the handler works on.
        let frame = frame.map_err(|_| Error::new(Kind::ReplyFailed).caused_by("the body ended with an error"))?;
        // Trailers belong to the connection, like every other hop-by-hop part.
        let Ok(data) = frame.into_data() else { continue };
        read.extend_from_slice(&data);
        fits = headers.len() + read.len() <= limit;
    }
    if !fits {
        let read = stream::iter([Ok(read.freeze())]).chain(body.into_data_stream());
        return Ok((Outcome::Oversized, Response::from_parts(parts, Body::from_stream(read))));
    }
    let body = read.freeze();
    let headers = match traced {
        Some(traced) => after_trace(traced, &headers),
        None => headers,
    };
    let reply = Reply { format: Format::HTTP, status: Some(parts.status.as_u16()), headers, body: body.clone() };
    Ok((Outcome::Reply(reply), Response::from_parts(parts, Body::from(body))))
}

/// The stored response, marked as a replay.
pub(crate) fn replay(reply: Reply) -> Result<Response, Error> {
    let unreadable = || Error::new(Kind::RecordUnreadable);
    if reply.format != Format::HTTP {
        return Err(unreadable());
    }
    let status = reply.status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(unreadable)?;
    let (_, headers) = split_trace(reply.headers);
    let mut headers = decode_headers(headers).ok_or_else(unreadable)?;
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The trace of the run whose reply this is.
pub(crate) fn first_trace(reply: &Reply) -> Option<TraceParent> {
    Some(reply).filter(|reply| reply.format == Format::HTTP).and_then(|reply| split_trace(reply.headers.clone()).0)
}

/// The name under which the trace is stored, as if it was the first header. No header has a colon in its name.
const TRACE: &str = ":traceparent";

fn after_trace(traced: TraceParent, headers: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    put(&mut bytes, TRACE, traced.to_string().as_bytes());
    bytes.put_slice(headers);
    bytes.freeze()
}

/// The trace that is stored in front of the headers, and the headers.
fn split_trace(headers: Bytes) -> (Option<TraceParent>, Bytes) {
    let read = |mut bytes: Bytes| {
        let (name, value) = pair(&mut bytes)?;
        let value = Some(value).filter(|_| *name == *TRACE.as_bytes())?;
        Some((TraceParent::parse(str::from_utf8(&value).ok()?)?, bytes))
    };
    match read(headers.clone()) {
        Some((traced, rest)) => (Some(traced), rest),
        None => (None, headers),
    }
}

/// The name and the value of each header in order, each after its length: 2 bytes for a name, 4 for a value.
pub(crate) fn encode_headers(headers: &HeaderMap) -> Bytes {
    let mut bytes = BytesMut::new();
    let nominates = headers.contains_key(header::CONNECTION);
    for (name, value) in headers {
        if NOT_STORED.contains(name) || nominates && is_nominated(headers, name) {
            continue;
        }
        put(&mut bytes, name.as_str(), value.as_bytes());
    }
    bytes.freeze()
}

/// `http` limits names to less than 64 KiB. A value whose length does not fit 4 bytes cannot be in memory as one header.
fn put(bytes: &mut BytesMut, name: &str, value: &[u8]) {
    bytes.put_u16(name.len() as u16);
    bytes.put_slice(name.as_bytes());
    bytes.put_u32(value.len() as u32);
    bytes.put_slice(value);
}

/// Whether a `Connection` header names this one.
fn is_nominated(headers: &HeaderMap, name: &HeaderName) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    let mut names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.any(|nominated| nominated.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
}

pub(crate) fn decode_headers(mut bytes: Bytes) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    while !bytes.is_empty() {
        let (name, value) = pair(&mut bytes)?;
        let value = HeaderValue::from_maybe_shared(value).ok()?;
        headers.try_append(HeaderName::from_bytes(&name).ok()?, value).ok()?;
    }
    Some(headers)
}

/// The next name and value.
fn pair(bytes: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let length = bytes.try_get_u16().ok()?.into();
    let name = take(bytes, length)?;
    let length = bytes.try_get_u32().ok()?.try_into().ok()?;
    Some((name, take(bytes, length)?))
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("location", b"/payments/1".as_slice()),
            ("x-twice", b"1"),
            ("x-latin", b"caf\xe9"),
            ("x-twice", b"2"),
            ("x-empty", b""),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value).expect("a header value"));
        }
        headers
    }

    #[test]
    fn r19_headers_come_back_byte_for_byte_and_in_order() {
        let decoded = decode_headers(encode_headers(&headers())).expect("readable");
        let pairs = |headers: &HeaderMap| -> Vec<_> {
            headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        assert_eq!(pairs(&decoded), pairs(&headers()));
    }

    #[test]
    fn r19_what_belongs_to_one_connection_is_not_stored() {
        let mut all = headers();
        for name in NOT_STORED {
            all.append(name, HeaderValue::from_static("x"));
        }
        assert_eq!(encode_headers(&all), encode_headers(&headers()));
    }

    #[test]
    fn r19_what_connection_names_is_not_stored() {
        for lines in [["x-hop, x-other"].as_slice(), &["close", "X-Other ,\tX-HOP"], &["x-hop", "", ",x-other,"]] {
            let mut all = headers();
            for line in lines {
                all.append(header::CONNECTION, HeaderValue::from_static(line));
            }
            for (name, value) in [("x-hop", "1"), ("x-other", "2"), ("x-hop", "3")] {
                all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(encode_headers(&all), encode_headers(&headers()), "{lines:?}");
        }
        // A header whose name only begins like one.
        let mut all = headers();
        all.append(header::CONNECTION, HeaderValue::from_static("x-twic, x-twice-more, location/1"));
        assert_eq!(encode_headers(&all), encode_headers(&headers()));
    }

    #[tokio::test]
    async fn r34_the_trace_is_stored_beside_the_reply_and_counts_for_no_limit() {
        let traced = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let captured = async |traced, limit| {
            let mut response = Response::new(Body::from("paid"));
            *response.headers_mut() = headers();
            match capture(response, traced, limit).await.expect("read").0 {
                Outcome::Reply(reply) => Some(reply),
                Outcome::Oversized => None,
            }
        };
        let without = captured(None, usize::MAX).await.expect("stored");
        let size = without.headers.len() + without.body.len();
        assert_eq!(first_trace(&without), None);
        assert_eq!(captured(traced, size - 1).await, None);
        let with = captured(traced, size).await.expect("stored");
        assert_eq!(first_trace(&with), traced);
        let (with, without) = (replay(with).expect("readable"), replay(without).expect("readable"));
        assert_eq!(with.headers(), without.headers());
    }

    #[test]
    fn r22_a_trace_that_is_damaged_is_unreadable() {
        let reply = |name: &str, value: &[u8]| {
            let mut bytes = BytesMut::new();
            put(&mut bytes, name, value);
            Reply { format: Format::HTTP, status: Some(200), headers: bytes.freeze(), body: Bytes::new() }
        };
        for reply in [reply(TRACE, b"00-4bf9"), reply(":other", b"x")] {
            assert_eq!(first_trace(&reply), None);
            assert_eq!(replay(reply).unwrap_err().kind(), Kind::RecordUnreadable);
        }
    }

    #[test]
    fn r22_cut_headers_are_unreadable() {
        let bytes = encode_headers(&headers());
        let whole = (0..bytes.len()).filter(|end| decode_headers(bytes.slice(..*end)).is_some()).count();
        // Cut between two headers, the bytes are a shorter list. A stored row cannot be cut like that.
        assert_eq!(whole, headers().len());
    }

    /// A map of headers has a largest size, over which it panics.
    #[test]
    fn r22_more_headers_than_a_response_can_have_are_unreadable() {
        let mut bytes = BytesMut::new();
        for at in 0..40_000 {
            let name = format!("x-{at:05}");
            bytes.put_u16(name.len() as u16);
            bytes.put_slice(name.as_bytes());
            bytes.put_u32(0);
        }
        assert_eq!(decode_headers(bytes.freeze()), None);
    }

    #[test]
    fn r22_another_format_or_status_is_unreadable() {
        let reply = |format, status| Reply { format, status, headers: Bytes::new(), body: Bytes::new() };
        for reply in [reply(Format(2), Some(200)), reply(Format::HTTP, None), reply(Format::HTTP, Some(99))] {
            assert_eq!(replay(reply).unwrap_err().kind(), Kind::RecordUnreadable);
        }
    }
}
