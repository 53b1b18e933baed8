//! JSON by meaning: one canonical digest for all texts of the same value.
//!
//! Objects are compared as sets of members, arrays in order, strings by their characters, numbers by their exact
//! decimal value (`1`, `1.0` and `1e0` are one number; 9007199254740993 is not 9007199254740992). White space does not
//! count. Text that is not JSON, holds one object key twice or nests deeper than [`MAX_DEPTH`] has no canonical form.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// Deeper values are not compared by meaning: the reader recurses, and a request must not exhaust its stack.
const MAX_DEPTH: usize = 128;

/// The digest of the value's meaning, or `None` if it has no canonical form.
pub(crate) fn digest(text: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut reader = Reader::new(text);
    let value = reader.value(0)?;
    if !reader.is_at_end() {
        return None;
    }
    let mut digest = Sha256::new();
    value.write(&mut digest);
    Some(digest.finalize().into())
}

enum Value<'t> {
    /// `null`, `true` and `false`: the text is the value.
    Literal(&'t str),
    /// The text of a number.
    Number(&'t str),
    /// A string with its escapes resolved, as UTF-8 bytes.
    String(Cow<'t, [u8]>),
    Array(Vec<Value<'t>>),
    /// The members sorted by key. No key occurs twice.
    Object(Vec<(Cow<'t, [u8]>, Value<'t>)>),
}

impl Value<'_> {
    /// Writes a type letter, a length and the parts, so that no two values write the same bytes.
    fn write(&self, digest: &mut Sha256) {
        let mut head = |letter: u8, length: usize| {
            digest.update([letter]);
            digest.update((length as u64).to_be_bytes());
        };
        match self {
            Self::Literal(text) => {
                head(b'l', text.len());
                digest.update(text);
            }
            Self::Number(text) => match Decimal::of(text) {
                Some(Decimal { is_negative, digits, exponent }) => {
                    head(b'n', digits.len());
                    digest.update(digits);
                    digest.update([u8::from(is_negative)]);
                    digest.update(exponent.to_be_bytes());
                }
                None => {
                    head(b'w', text.len());
                    digest.update(text);
                }
            },
            Self::String(bytes) => {
                head(b's', bytes.len());
                digest.update(bytes);
            }
            Self::Array(values) => {
                head(b'a', values.len());
                values.iter().for_each(|value| value.write(digest));
            }
            Self::Object(members) => {
                head(b'o', members.len());
                for (key, value) in members {
                    digest.update((key.len() as u64).to_be_bytes());
                    digest.update(key);
                    value.write(digest);
                }
            }
        }
    }
}

/// The exact value of a number: its digits as one integer, times a power of ten. Equal values have equal parts: the
/// digits neither begin nor end with a zero, and zero has no digits.
///
/// It is never a float, which would make two large integers equal. It is never expanded, so `1e999999999` stays small.
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i128,
}

impl Decimal {
    /// Returns `None` if the exponent itself has some forty digits: such numbers are compared as they are written.
    fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (sign, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
        let written = digits.len();
        digits.truncate(digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1));
        if digits.is_empty() {
            return Some(Self { is_negative: false, digits, exponent: 0 });
        }
        let zeros = (written - digits.len()) as i128;
        let exponent = exponent.parse::<i128>().ok()?.checked_add(zeros)?.checked_sub(fraction.len() as i128)?;
        Some(Self { is_negative: sign, digits, exponent })
    }
}

/// A reader of RFC 8259 text. Every method returns `None` if the text is not JSON.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    fn value(&mut self, depth: usize) -> Option<Value<'t>> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            _ => ["null", "true", "false"].into_iter().find(|word| self.eat(word)).map(Value::Literal),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value<'t>> {
        self.expect(b'{')?;
        let mut members = Vec::new();
        if !self.eats_after_space(b'}') {
            loop {
                self.skip_space();
                let key = self.string()?;
                self.skip_space();
                self.expect(b':')?;
                members.push((key, self.value(depth + 1)?));
                if self.eats_after_space(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        members.sort_by(|one, other| one.0.cmp(&other.0));
        // Readers differ on which of two equal keys counts, so the object has no single meaning.
        let twice = members.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!twice).then_some(Value::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Value<'t>> {
        self.expect(b'[')?;
        let mut values = Vec::new();
        if !self.eats_after_space(b']') {
            loop {
                values.push(self.value(depth + 1)?);
                if self.eats_after_space(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        Some(Value::Array(values))
    }

    pub(crate) fn string(&mut self) -> Option<Cow<'t, [u8]>> {
        self.expect(b'"')?;
        let mut bytes = Cow::Borrowed(self.plain()?);
        loop {
            match self.next()? {
                b'"' => return Some(bytes),
                b'\\' => self.escape(bytes.to_mut())?,
                _ => return None,
            }
            let plain = self.plain()?;
            bytes.to_mut().extend_from_slice(plain);
        }
    }

    /// The plain bytes of a string, up to the next quote, escape or control character.
    fn plain(&mut self) -> Option<&'t [u8]> {
        let start = self.at;
        while !matches!(self.peek()?, b'"' | b'\\' | 0..=0x1f) {
            self.at += 1;
        }
        Some(&self.text.as_bytes()[start..self.at])
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        let plain = match self.next()? {
            plain @ (b'"' | b'\\' | b'/') => plain,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.unicode()?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Some(());
            }
            _ => return None,
        };
        bytes.push(plain);
        Some(())
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        // Half of a surrogate pair alone is no character.
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return None;
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
    }

    pub(crate) fn number(&mut self) -> Option<&'t str> {
        let start = self.at;
        self.eat("-");
        if !self.eat("0") {
            self.digits()?;
        }
        if self.eat(".") {
            self.digits()?;
        }
        if self.eat("e") || self.eat("E") {
            let _sign = self.eat("+") || self.eat("-");
            self.digits()?;
        }
        Some(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    pub(crate) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    pub(crate) fn eats_after_space(&mut self, byte: u8) -> bool {
        self.skip_space();
        self.expect(byte).is_some()
    }

    pub(crate) fn eat(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::digest;

    #[test]
    fn r05_equal_in_meaning() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ] ,\r\n\t\"a\" : 1 }"),
            (r#""aé😀/""#, r#""\u0061\u00e9\ud83d\ude00\/""#),
            ("{}", " { } "),
            ("[]", "[\n]"),
            (r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#),
            ("1", "1.0"),
            ("1", "1e0"),
            ("1", "10E-1"),
            ("-0.0150", "-15e-3"),
            ("0", "-0.0e99999999999999999999999999999999999999999"),
            ("1e999999999", "10e999999998"),
            ("9007199254740993", "9007199254740993.0"),
        ] {
            assert!(digest(one.as_bytes()).is_some(), "{one} has no digest");
            assert_eq!(digest(one.as_bytes()), digest(other.as_bytes()), "{one} and {other}");
        }
    }

    #[test]
    fn r05_different_in_meaning() {
        let values = [
            "1",
            "10",
            "1e10",
            "1e-10",
            "-1",
            "0",
            "0.1",
            "9007199254740992",
            "9007199254740993",
            "0.1000000000000000055511151231257827",
            "1e400",
            "1e401",
            "1e99999999999999999999999999999999999999999",
            "\"1\"",
            "null",
            "true",
            "false",
            "\"null\"",
            "[]",
            "{}",
            "[[]]",
            "[1,2]",
            "[2,1]",
            "[12]",
            "[[1],2]",
            "[[1,2]]",
            r#"{"a":null}"#,
            r#"{"a":1}"#,
            r#"{"b":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":{"b":1}}"#,
            r#"["a","b"]"#,
            r#"["ab"]"#,
            r#"{"a":"b"}"#,
            "\"\"",
        ];
        for (at, one) in values.iter().enumerate() {
            assert!(digest(one.as_bytes()).is_some(), "{one} has no digest");
            for other in &values[..at] {
                assert_ne!(digest(one.as_bytes()), digest(other.as_bytes()), "{one} and {other}");
            }
        }
    }

    proptest! {
        /// One number can be written in many ways.
        #[test]
        fn r05_a_number_is_its_decimal_value(digits in "[1-9][0-9]{0,40}", shift in 0_usize..45, other in "[1-9][0-9]{0,40}") {
            let zeros = "0".repeat(shift);
            let padded = format!("{digits}{zeros}");
            let ways = [
                format!("{digits}e{shift}"),
                padded.clone(),
                format!("{padded}.{zeros}0"),
                format!("{padded}0E-1"),
                format!("{digits}.0e+{shift}"),
                format!("0.{digits}e{}", digits.len() + shift),
                format!("{}.{}e{}", &digits[..1], if digits.len() > 1 { &digits[1..] } else { "0" }, digits.len() - 1 + shift),
            ];
            for way in &ways {
                prop_assert_eq!(digest(way.as_bytes()), digest(padded.as_bytes()), "{} and {}", way, padded);
                prop_assert_ne!(digest(format!("-{way}").as_bytes()), digest(way.as_bytes()));
            }
            if other.trim_end_matches('0') != digits.trim_end_matches('0') {
                prop_assert_ne!(digest(other.as_bytes()), digest(digits.as_bytes()));
                prop_assert_ne!(digest(format!("{other}e{shift}").as_bytes()), digest(padded.as_bytes()));
            }
        }
    }

    #[test]
    fn r05_no_canonical_form() {
        let deep = "[".repeat(200_000);
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":1}"#,
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            ".5",
            "+1",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "1 2",
            "{'a':1}",
            "NaN",
            "\"\\u12\"",
            "[1 2]",
            &deep,
        ] {
            assert_eq!(digest(text.as_bytes()), None, "{text:.40}");
        }
        assert_eq!(digest(&[b'"', 0xff, b'"']), None);
    }

    #[test]
    fn r05_reads_what_serde_json_reads() {
        let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for text in [r#"{"a":[1,-0.5e+10,"\"\\\b\f\n\r\t"]}"#, "\"\u{7f}\u{2028}\"", "0", "-0", "1E5", &nested] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
            assert!(digest(text.as_bytes()).is_some(), "{text}");
        }
    }
}
