//! Targets for fuzzing: what reads the bytes of clients and of stored rows, and what tells them apart.
//!
//! `cargo xtask fuzz` runs them for longer. `idem-fuzz` has the corpus and says how inputs are made up.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::encoding::tests::values::{Any, any_value, json};
use crate::encoding::{compared, read, stored};
use crate::json::{digest, reference};
use crate::{Fingerprint, Key, Scope};

/// The header is read as an independent reader of structured headers reads it, where that reads a key.
#[cfg(feature = "axum")]
#[test]
fn r01_fuzz_a_key_header() {
    use http::{HeaderMap, HeaderName, HeaderValue};

    let name = HeaderName::from_static("idempotency-key");
    let read = |line: &HeaderValue| {
        let headers = HeaderMap::from_iter([(name.clone(), line.clone())]);
        crate::http::key::from_headers(&headers, &name).ok().flatten()
    };
    let is_key = |key: &str| (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let string = |text: &str| match sfv::Parser::new(text).parse::<sfv::Item>().ok()?.bare_item {
        sfv::BareItem::String(key) => Some(key.as_str().to_owned()),
        _ => None,
    };
    idem_fuzz::bytes("key_header", |line| {
        let Ok(line) = HeaderValue::from_bytes(line) else { return };
        let found = read(&line);
        let Ok(text) = line.to_str() else { return assert_eq!(found, None) };
        let text = text.trim_matches([' ', '\t']);
        if !text.starts_with('"') {
            let expected =
                (is_key(text) && !text.contains([',', '"'])).then(|| Key::of(text).expect("short").expect("not blank"));
            return assert_eq!(found, expected, "{text}");
        }
        // The string without what follows it.
        let key = (2..=text.len()).find_map(|end| string(text.get(..end)?)).filter(|key| is_key(key));
        match &found {
            Some(found) => assert_eq!(
                Some(found),
                key.map(|key| Key::of(&key).expect("short").expect("not blank")).as_ref(),
                "{text}"
            ),
            // Parameters are not read closely, and a comma in them could begin the next item of a list.
            None => assert!(key.is_none() || string(text).is_none() || text.contains(','), "{text}"),
        }
    });
    idem_fuzz::values("key", "[!-~]{1,255}", |key| {
        let expected = Key::of(&key).expect("short");
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        assert_eq!(read(&HeaderValue::from_str(&quoted).expect("visible")), expected);
        if !key.contains([',', '"']) {
            assert_eq!(read(&HeaderValue::from_str(&key).expect("visible")), expected);
        }
    });
}

/// Damaged headers are read, or refused; what is read is written and read as the same again.
#[cfg(feature = "axum")]
#[test]
fn r19_fuzz_stored_headers() {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use crate::http::reply::{decode_headers, encode_headers};

    let pairs =
        |headers: &HeaderMap| -> Vec<_> { headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect() };
    idem_fuzz::bytes("stored_headers", |bytes| {
        let Some(headers) = decode_headers(bytes.to_vec().into()) else { return };
        let written = encode_headers(&headers);
        assert!(written.len() <= bytes.len());
        let again = decode_headers(written.clone()).expect("readable");
        assert_eq!(encode_headers(&again), written);
    });
    let header = ("[a-z][a-z0-9-]{0,9}", prop::collection::vec(prop_oneof![b' '..=b'~', 0x80_u8..=0xff], 0..20));
    idem_fuzz::values("headers", prop::collection::vec(header, 0..20), |list| {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let name = HeaderName::from_bytes(format!("x-{name}").as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(&value).expect("a value"));
        }
        assert_eq!(pairs(&decode_headers(encode_headers(&headers)).expect("readable")), pairs(&headers));
    });
}

/// Damaged text is read, or refused; what is read is written and read as the same again.
#[test]
fn r20a_fuzz_a_stored_text() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(text: &[u8]) {
        let Ok(value) = read::<T>(text) else { return };
        let again = stored(&value).expect("storable");
        assert_eq!(read::<T>(&again).expect("readable"), value, "{}", String::from_utf8_lossy(&again));
    }

    idem_fuzz::bytes("stored_text", |text| {
        check::<Any>(text);
        check::<Json>(text);
        check::<String>(text);
        check::<Option<Option<Option<()>>>>(text);
        check::<Vec<(i128, Option<char>)>>(text);
        check::<BTreeMap<Option<bool>, Vec<u64>>>(text);
    });
}

#[test]
fn r20a_fuzz_values_read_back() {
    idem_fuzz::values("value", any_value(), |value| {
        let text = stored(&value).expect("storable");
        assert_eq!(read::<Any>(&text).expect("readable"), value);
    });
}

/// Each text has the digest of the plain implementation over a tree, or none like it; and JSON is what others take for
/// JSON.
#[test]
fn r05_fuzz_a_json_body() {
    idem_fuzz::bytes("json", |text| {
        let found = digest(text);
        assert_eq!(found, reference::digest(text));
        if found.is_some() {
            // Another reader's values are of limited depth and size.
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text);
            assert!(
                is_json.as_ref().is_ok_and(|_| true)
                    || is_json.is_err_and(|error| error.to_string().contains("recursion"))
            );
        }
    });
}

/// Two texts have one digest if and only if their meaning is the same, however they are written.
#[test]
fn r05_fuzz_the_meaning_of_json() {
    let pairs = (json(), json(), any::<u64>());
    idem_fuzz::values("meaning", pairs, |(one, other, style)| {
        let texts = [one.to_string(), serde_json::to_string_pretty(&one).expect("JSON"), Style(style).text(&one)];
        let expected = digest(texts[0].as_bytes());
        assert!(expected.is_some(), "{one}");
        for text in &texts {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
        let is_same = digest(Style(style).text(&other).as_bytes()) == expected;
        assert_eq!(is_same, meaning(&one) == meaning(&other), "{one} and {other}");
    });
}

/// Whether two requests are one is decided by each of their parts.
#[test]
fn r05_r08_fuzz_the_fingerprint_of_a_request() {
    let part = || "[ab/?]{0,2}";
    let content_type =
        prop::sample::select(vec!["application/json", "APPLICATION/JSON ;a=b", "a/a+json", "text/a", ""]);
    let body =
        prop::sample::select(vec!["", "1", "1.0", " 1", "[1]", "\"a\"", "\"\\u0061\"", "{", "{\"a\":1,\"a\":1}"]);
    let request = || (part(), part(), proptest::option::of(part()), content_type.clone(), body.clone());
    // The other request takes some of its parts from the first: few differ in one part only otherwise.
    let pair = (request(), request(), any::<[bool; 5]>()).prop_map(|(one, other, same)| {
        let mut mixed = one.clone();
        if !same[0] {
            mixed.0 = other.0;
        }
        if !same[1] {
            mixed.1 = other.1;
        }
        if !same[2] {
            mixed.2 = other.2;
        }
        if !same[3] {
            mixed.3 = other.3;
        }
        if !same[4] {
            mixed.4 = other.4;
        }
        (one, mixed)
    });
    idem_fuzz::values("request", pair, |(one, other)| {
        let of = |(method, path, query, content_type, body): &(
            String,
            String,
            Option<String>,
            &'static str,
            &'static str,
        )| {
            let asked =
                Fingerprint::of_request(method, path, query.as_deref(), content_type.as_bytes(), body.as_bytes());
            let media_type = content_type.split(';').next().unwrap_or_default().trim().to_lowercase();
            let value = media_type.ends_with("json").then(|| reference::digest(body.as_bytes())).flatten();
            let body = value.is_none().then_some(*body);
            (asked, (method.clone(), path.clone(), query.clone(), media_type, value, body))
        };
        let ((asked, parts), (other_asked, other_parts)) = (of(&one), of(&other));
        assert_eq!(asked == other_asked, parts == other_parts);
        assert_eq!(Fingerprint::from_bytes(asked.as_bytes()), Some(asked));
    });
}

/// A value of serde's data model. Few texts and numbers, so that many values are almost the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Model {
    Unit,
    Nothing,
    Some(Box<Model>),
    Bool(bool),
    Integer(i8),
    Float(u64),
    Char(char),
    Text(&'static str),
    Bytes(&'static str),
    Sequence(Vec<Model>),
    /// In any order, keys twice included.
    Map(Vec<(Model, Model)>),
    Variant(&'static str),
    Holding(&'static str, Box<Model>),
}

impl Model {
    fn strategy() -> impl Strategy<Value = Self> {
        let text = || prop::sample::select(vec!["", "a", "b", "null", "~some", "1"]);
        let leaf = prop_oneof![
            Just(Self::Unit),
            Just(Self::Nothing),
            any::<bool>().prop_map(Self::Bool),
            (-1..2_i8).prop_map(Self::Integer),
            prop::sample::select(vec![0.0, -0.0, 1.0, f64::NAN, f64::INFINITY])
                .prop_map(|float| Self::Float(float.to_bits())),
            prop::sample::select(vec!['a', '1']).prop_map(Self::Char),
            text().prop_map(Self::Text),
            text().prop_map(Self::Bytes),
            text().prop_map(Self::Variant),
        ];
        leaf.prop_recursive(3, 8, 3, move |inner| {
            prop_oneof![
                inner.clone().prop_map(|value| Self::Some(value.into())),
                (text(), inner.clone()).prop_map(|(name, value)| Self::Holding(name, value.into())),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Self::Sequence),
                prop::collection::vec((inner.clone(), inner), 0..3).prop_map(Self::Map),
            ]
        })
    }

    /// The same value, each map in order.
    fn sorted(&self) -> Self {
        let sorted = |value: &Self| Box::new(value.sorted());
        match self {
            Self::Some(value) => Self::Some(sorted(value)),
            Self::Holding(name, value) => Self::Holding(name, sorted(value)),
            Self::Sequence(values) => Self::Sequence(values.iter().map(Self::sorted).collect()),
            Self::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.sorted(), value.sorted())).collect();
                entries.sort_unstable();
                Self::Map(entries)
            }
            other => other.clone(),
        }
    }

    /// The same value with one thing changed that a text could lose.
    fn changed(&self) -> Self {
        match self {
            Self::Unit => Self::Nothing,
            Self::Nothing => Self::Text("null"),
            Self::Some(value) => (**value).clone(),
            Self::Integer(number) => Self::Float(f64::from(*number).to_bits()),
            Self::Char(_) | Self::Bytes(_) => Self::Text("a"),
            Self::Text("a") => Self::Char('a'),
            Self::Text(text) => Self::Variant(text),
            Self::Sequence(values) => Self::Sequence(values.iter().rev().cloned().collect()),
            Self::Map(entries) => Self::Map(entries.iter().rev().cloned().collect()),
            Self::Variant(name) => Self::Text(name),
            Self::Holding(name, value) => Self::Map(vec![(Self::Text(name), (**value).clone())]),
            other => Self::Some(other.clone().into()),
        }
    }
}

impl Serialize for Model {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unit => serializer.serialize_unit(),
            Self::Nothing => serializer.serialize_none(),
            Self::Some(value) => serializer.serialize_some(value),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i8(*value),
            Self::Float(bits) => serializer.serialize_f64(f64::from_bits(*bits)),
            Self::Char(value) => serializer.serialize_char(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(text) => serializer.serialize_bytes(text.as_bytes()),
            Self::Sequence(values) => serializer.collect_seq(values),
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
            Self::Variant(name) => serializer.serialize_unit_variant("Enum", 0, name),
            Self::Holding(name, value) => serializer.serialize_newtype_variant("Enum", 0, name, value),
        }
    }
}

/// Two values have one text if and only if serde does not tell them apart, but for the order of maps.
#[test]
fn r05a_fuzz_values_are_told_apart() {
    let text = |value: &Model| compared(value).expect("comparable");
    let check = |one: &Model, other: &Model| {
        assert_eq!(text(one) == text(other), one.sorted() == other.sorted(), "{one:?} and {other:?}");
    };
    idem_fuzz::values("compared", (Model::strategy(), Model::strategy()), |(one, other)| {
        check(&one, &other);
        check(&one, &one.changed());
        let pair = |first: &Model, second: &Model| Model::Sequence(vec![first.clone(), second.clone()]);
        check(&pair(&one, &other), &pair(&one.changed(), &other));
        check(&pair(&one, &other), &pair(&one, &other.changed()));
    });
}

/// A scope says which parts it was made of, and nothing else is that scope.
#[test]
fn r02_fuzz_scopes() {
    let part = || prop_oneof!["[\\[\\]\",a]{0,4}", any::<String>(), "a{250,256}"];
    let parts = || prop::collection::vec(part(), 0..4);
    idem_fuzz::values("scope", (parts(), parts(), part()), |(one, other, alone)| {
        let is_part = |part: &String| !part.is_empty() && !part.contains('\0');
        let scope = |parts: &[String]| Scope::of_parts(parts).ok();
        let text = serde_json::to_string(&one).expect("JSON");
        match scope(&one) {
            Some(scope) => {
                assert!(scope.as_str().len() <= Scope::MAX_LEN);
                assert_eq!(serde_json::from_str::<Vec<String>>(scope.as_str()).expect("a list"), one);
            }
            None => assert!(one.is_empty() || !one.iter().all(is_part) || text.len() > Scope::MAX_LEN, "{text}"),
        }
        if let (Some(scope_of_one), Some(scope_of_other)) = (scope(&one), scope(&other)) {
            assert_eq!(scope_of_one == scope_of_other, one == other);
        }
        let Ok(single) = Scope::of(alone.as_str()) else {
            let written =
                if alone.starts_with('[') { serde_json::to_string(&[&alone]).expect("JSON") } else { alone.clone() };
            return assert!(!is_part(&alone) || written.len() > Scope::MAX_LEN, "{alone}");
        };
        assert_ne!(single, Scope::global());
        // A single part that looks like the list.
        assert!(scope(&one).is_none_or(|scope| Scope::of(text.as_str()).ok() != Some(scope)), "{text}");
        if one != [alone] {
            assert_ne!(Some(single), scope(&one));
        }
    });
}

/// What a text of JSON means, by another implementation: members in order, and numbers as they are exactly.
fn meaning(value: &Json) -> String {
    match value {
        // A float is written so that it reads back, and its decimal value is what is written.
        Json::Number(number) if number.is_f64() => {
            format!("{:e}", number.as_f64().expect("a float")).replace("-0e0", "0e0")
        }
        Json::Number(number) => {
            let digits = number.to_string();
            let unsigned = digits.trim_start_matches('-');
            let (first, rest) = unsigned.split_at(1);
            let rest = rest.trim_end_matches('0');
            let point = if rest.is_empty() { "" } else { "." };
            let sign = &digits[..digits.len() - unsigned.len()];
            format!("{sign}{first}{point}{rest}e{}", unsigned.len() - 1)
        }
        Json::Array(values) => format!("[{}]", values.iter().map(meaning).collect::<Vec<_>>().join(",")),
        Json::Object(members) => {
            let members: BTreeMap<_, _> = members.iter().map(|(key, value)| (key, meaning(value))).collect();
            format!("{members:?}")
        }
        other => other.to_string(),
    }
}

/// Writes JSON in another way: with white space, with escapes, members in another order, numbers with zeros.
struct Style(u64);

impl Style {
    fn chooses(&mut self) -> bool {
        self.0 = self.0.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        self.0 & 0x1_0000 != 0
    }

    fn space(&mut self) -> &'static str {
        if self.chooses() { "" } else { " \r\n\t" }
    }

    fn text(&mut self, value: &Json) -> String {
        let text = match value {
            Json::String(text) => self.string(text),
            Json::Number(number) if number.is_f64() => number.to_string(),
            Json::Number(number) if self.chooses() => format!("{number}00E-2"),
            Json::Number(number) => format!("{number}.0e+0"),
            Json::Array(values) => {
                format!("[{}]", values.iter().map(|value| self.text(value)).collect::<Vec<_>>().join(","))
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{}{}:{}", self.string(key), self.space(), self.text(value)))
                    .collect();
                if self.chooses() {
                    members.reverse();
                }
                format!("{{{}{}}}", self.space(), members.join(","))
            }
            other => other.to_string(),
        };
        format!("{}{text}{}", self.space(), self.space())
    }

    fn string(&mut self, text: &str) -> String {
        if self.chooses() {
            return Json::from(text).to_string();
        }
        let escapes: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("\"{escapes}\"")
    }
}
