//! The key header.

use http::{HeaderMap, HeaderName};

use crate::error::{Error, Kind};
use crate::identity::Key;

/// Reads the key from a header, as an RFC 8941 string item: `"abc"`, or bare `abc`, which is the same key.
///
/// Parameters after a quoted key (`"abc";v=1`) are not part of the key. The answer is `Ok(None)` only if the header is
/// absent.
pub(crate) fn from_headers(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Key>, Error> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(invalid("the idempotency key header is there more than once; send one key"));
    }
    let text = line.to_str().map_err(|_| unusable())?.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None if text.contains(',') => {
            return Err(invalid(
                "the idempotency key header is a list; send one key, or put a key with a comma in quotes",
            ));
        }
        None if text.contains('"') => return Err(unusable()),
        None => text.to_owned(),
    };
    let usable = (1..=Key::MAX_LEN).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !usable {
        return Err(unusable());
    }
    Key::of(&key)
}

/// The string after an opening quote. Only `"` and `\` can be escaped (RFC 8941, 3.3.3).
fn quoted(rest: &str) -> Result<String, Error> {
    let mut key = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next() {
            Some('"') => break,
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(unusable()),
            },
            Some(character) => key.push(character),
            None => return Err(unusable()),
        }
    }
    let parameters = characters.as_str();
    if parameters.is_empty() || parameters.starts_with(';') && !parameters.contains(',') {
        Ok(key)
    } else {
        Err(unusable())
    }
}

fn unusable() -> Error {
    Error::new(Kind::KeyInvalid)
}

fn invalid(detail: &'static str) -> Error {
    Error::new(Kind::KeyInvalid).because(detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(lines: &[&[u8]]) -> Result<Option<Key>, Kind> {
        let name = HeaderName::from_static("idempotency-key");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line).expect("a header value"));
        }
        from_headers(&headers, &name).map_err(|error| error.kind())
    }

    #[test]
    fn r01_quoted_and_bare_are_the_same_key() {
        let abc = Key::of("abc").expect("valid");
        for line in ["abc", "\"abc\"", " abc ", "\t\"abc\"", "\"abc\";v=1"] {
            assert_eq!(read(&[line.as_bytes()]), Ok(abc.clone()), "{line}");
        }
        assert_ne!(read(&[b"ABC"]), Ok(abc));
        assert_eq!(read(&[br#""a\"b\\c""#]), Ok(Key::of(r#"a"b\c"#).expect("valid")));
        assert_eq!(read(&[b"\"a,b\""]), Ok(Key::of("a,b").expect("valid")));
        assert_eq!(read(&[b"8e03978e-40d5-43e8-bc93-6894a57f9324"]).map(|key| key.is_some()), Ok(true));
    }

    #[test]
    fn r01_what_is_no_key_is_refused() {
        let long = "x".repeat(256);
        let lines: [&[u8]; 18] = [
            b"",
            b" ",
            b"\"\"",
            b"\" \"",
            b"a b",
            b"\"a b\"",
            b"a,b",
            b"\"a\", \"b\"",
            b"\"a\",b",
            b"\"a",
            b"a\"",
            b"\"a\"b",
            b"\"a\\b\"",
            "\u{e4}".as_bytes(),
            b"\xff",
            b"a\tb",
            b"\"a\";v=\"1\",\"b\"",
            long.as_bytes(),
        ];
        for line in lines {
            assert_eq!(read(&[line]), Err(Kind::KeyInvalid), "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(read(&[b"a", b"a"]), Err(Kind::KeyInvalid));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn r01_the_longest_key() {
        assert!(read(&["x".repeat(255).as_bytes()]).is_ok());
        assert!(read(&[format!("\"{}\"", "x".repeat(255)).as_bytes()]).is_ok());
    }
}
