//! Tests that every value reads back as itself, and what people see of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::depth::MAX_DEPTH;
use super::*;

pub(crate) mod values;

use values::{Any, Internally, Raw, Tagged, any_value, bits32, bits64, json};

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(stored(value).expect("storable")).expect("text")
}

#[track_caller]
fn back<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = text(value);
    serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{text} is no JSON: {error}"));
    read(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    assert_eq!(back(&value), value, "by {}", text(&value));
}

/// An enum whose variant is named like a tag without content.
#[derive(Debug, Serialize)]
enum Holding {
    #[serde(rename = "~unit")]
    Unit(Option<()>),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn r20a_every_value_reads_back_as_itself(value in any_value()) {
        let text = text(&value);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{} is no JSON", text);
        prop_assert_eq!(&read::<Any>(text.as_bytes()).expect(&text), &value, "by {}", text);
    }

    #[test]
    fn r20a_json_reads_back_as_itself(value in json()) {
        prop_assert_eq!(back(&value), value);
    }

    #[test]
    fn r20a_every_float_reads_back_bit_for_bit(double in bits64(), single in bits32()) {
        prop_assert_eq!(back(&double), double);
        prop_assert_eq!(back(&single), single);
    }

    #[test]
    fn r22_damaged_text_is_no_panic(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = stored(&value).expect("storable");
        let at = at.index(bytes.len());
        _ = read::<Any>(&bytes[..at]);
        bytes[at] = byte;
        _ = read::<Any>(&bytes);
    }

    #[test]
    fn r05a_other_values_are_other_fingerprints(one in any_value(), other in any_value()) {
        let texts = [compared(&one).expect("comparable"), compared(&other).expect("comparable")];
        prop_assert_eq!(texts[0] == texts[1], one == other);
    }
}

#[test]
fn r20a_what_json_loses_reads_back_as_itself() {
    comes_back(Some(()));
    comes_back(None::<()>);
    comes_back(Some(None::<()>));
    comes_back(Some(Some(())));
    comes_back(Some(serde_json::Value::Null));
    comes_back(vec![Some(()), None]);
    comes_back(HashMap::from([((1_u8, 2_u8), 3)]));
    comes_back(HashMap::from([(None::<u8>, 1), (Some(1), 2)]));
    comes_back(HashMap::from([('a', true)]));
    comes_back(HashMap::from([(u128::MAX, i128::MIN)]));
    comes_back(HashSet::from([Some(1_u8), None]));
    comes_back(BTreeMap::from([("~some".to_owned(), 1), ("b".to_owned(), 2)]));
    comes_back((Some(f64::INFINITY), Some(f32::NEG_INFINITY), -0.0_f64));
    comes_back(Any::Named { value: Box::new(Any::Unit), other: None, nameless: 1 });
    assert!(back(&Some(f64::NAN)).expect("some").is_nan());
    // Floats that `serde_json` by default reads one or two units in the last place off.
    comes_back(vec![7.098_234_523_456_79e-14_f64, 1.000_000_000_000_000_2, 5e-324, f64::MAX]);
    // The only `f32` whose shortest text, read as an `f64` and rounded again, is its neighbour.
    comes_back(f32::from_bits(0x15ae_43fd));
    comes_back(std::time::Duration::new(1, 5));
    let raw: Box<serde_json::value::RawValue> = serde_json::from_str(r#"{"a" : [1.0, "x"]}"#).expect("JSON");
    assert_eq!(back(&raw).get(), raw.get());
}

#[test]
fn r20a_people_read_it_as_json() {
    #[derive(Serialize)]
    struct Order {
        id: u64,
        price: f64,
        note: Option<&'static str>,
        gift: Option<bool>,
        lines: Vec<(u8, Line)>,
        paid: Option<()>,
        refund: (),
    }

    #[derive(Serialize)]
    enum Line {
        Lamp,
        Bulb { watts: f32 },
    }

    let order = Order {
        id: 1,
        price: 9.5,
        note: Some("\"hi\"\n"),
        gift: None,
        lines: vec![(1, Line::Lamp), (2, Line::Bulb { watts: 0.1 })],
        paid: Some(()),
        refund: (),
    };
    let expected = r#"{"id":1,"price":9.5,"note":"\"hi\"\n","gift":null,"lines":[[1,"Lamp"],[2,{"Bulb":{"watts":0.1}}]],"paid":{"~some":{"~unit":null}},"refund":{"~unit":null}}"#;
    assert_eq!(text(&order), expected);
    assert_eq!(text(&f64::NEG_INFINITY), r#"{"~f64":"-inf"}"#);
    assert_eq!(text(&Raw(vec![0, 255])), r#"{"~bytes":"00ff"}"#);
    assert_eq!(text(&BTreeMap::from([(1, "a"), (2, "b")])), r#"{"~map":[[1,"a"],[2,"b"]]}"#);
}

#[test]
fn r20a_it_grows_as_json_does() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        id: u8,
        gone: Vec<Option<()>>,
        amount: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        #[serde(alias = "amount")]
        price: f64,
        id: Option<u128>,
        #[serde(default)]
        note: Option<String>,
    }

    let old = Old { id: 1, gone: vec![Some(()), None], amount: 5 };
    assert_eq!(read::<New>(text(&old).as_bytes()).expect("readable"), New { price: 5.0, id: Some(1), note: None });
    // Text as people write it by hand.
    let by_hand = " { \"id\" : null , \"price\" : 1e0, \"x\": {\"y\": [1, \"]\\\"\"]} } ";
    assert_eq!(read::<New>(by_hand.as_bytes()).expect("readable"), New { price: 1.0, id: None, note: None });
}

#[test]
fn r22_a_tag_of_a_later_release_is_not_read() {
    for text in [r#"{"~decimal":"1.0"}"#, r#"{"a":{"~decimal":"1.0"}}"#] {
        assert!(read::<serde_json::Value>(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn r22_what_is_not_all_of_it_is_not_read() {
    assert!(read::<(u8, u8)>(b"[1,2,3]").is_err());
    assert!(read::<u8>(b"1 2").is_err());
    assert!(read::<u8>(b"").is_err());
    assert!(read::<Vec<u8>>(b"[1,]").is_err());
    assert!(read::<Vec<u8>>(b"[1").is_err());
}

#[test]
fn a_deep_value_is_refused_and_no_deep_text_exhausts_the_stack() {
    let nested = |depth| (0..depth).fold(serde_json::Value::Null, |inner, _| serde_json::Value::Array(vec![inner]));
    let deepest = stored(&nested(MAX_DEPTH - 1)).expect("storable");
    assert_eq!(read::<serde_json::Value>(&deepest).expect("readable"), nested(MAX_DEPTH - 1));
    assert!(stored(&nested(MAX_DEPTH)).is_err(), "the unit within has a brace of its own");
    let deep = "[".repeat(1_000_000);
    assert!(read::<serde_json::Value>(deep.as_bytes()).is_err());
    assert!(read::<u8>(format!("{deep}{}", "]".repeat(1_000_000)).as_bytes()).is_err());
}

#[test]
fn r34_an_error_quotes_nothing_of_the_value() {
    let secret = text(&("4242424242424242", 4242));
    for words in [
        read::<(u8, u8)>(secret.as_bytes()).expect_err("no number").to_string(),
        read::<(bool, bool)>(secret.as_bytes()).expect_err("no boolean").to_string(),
        read::<(Line, Line)>(secret.as_bytes()).expect_err("no variant").to_string(),
        read::<(String, Line)>(secret.as_bytes()).expect_err("no variant").to_string(),
        read::<(Iban, u16)>(secret.as_bytes()).expect_err("refused").to_string(),
        read::<Strict>(text(&BTreeMap::from([("4242", 1)])).as_bytes()).expect_err("no such field").to_string(),
    ] {
        assert!(!words.contains("4242"), "{words}");
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Lamp,
}

/// A type whose own code quotes the value that it refuses.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Iban;

impl TryFrom<String> for Iban {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Err(format!("{text} is no IBAN"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {}

#[test]
fn r05a_options_units_and_floats_are_told_apart() {
    let values: [&dyn Fn() -> Vec<u8>; 18] = [
        &|| compared(&Tagged::Unit).expect("comparable"),
        &|| compared(&Holding::Unit(None)).expect("comparable"),
        &|| compared(&Holding::Unit(Some(()))).expect("comparable"),
        &|| compared(&5_u8).expect("comparable"),
        &|| compared(&Some(5_u8)).expect("comparable"),
        &|| compared(&None::<f64>).expect("comparable"),
        &|| compared(&Some(())).expect("comparable"),
        &|| compared(&()).expect("comparable"),
        &|| compared(&Some(f64::NAN)).expect("comparable"),
        &|| compared(&Some(f64::INFINITY)).expect("comparable"),
        &|| compared(&Some(f64::NEG_INFINITY)).expect("comparable"),
        &|| compared(&Some(None::<()>)).expect("comparable"),
        &|| compared(&Some(Some(()))).expect("comparable"),
        &|| compared(&0.0_f64).expect("comparable"),
        &|| compared(&-0.0_f64).expect("comparable"),
        &|| compared(&"null").expect("comparable"),
        &|| compared(&'n').expect("comparable"),
        &|| compared(&Raw(Vec::new())).expect("comparable"),
    ];
    for (at, one) in values.iter().enumerate() {
        for other in &values[..at] {
            assert_ne!(one(), other(), "{}", String::from_utf8_lossy(&one()));
        }
    }
}

#[test]
fn r05a_maps_are_sorted_and_sets_are_lists() {
    let pairs: Vec<_> = (0..100_u32).map(|key| ((key, Some(())), key % 3)).collect();
    let forth: HashMap<_, _> = pairs.iter().copied().collect();
    let back: HashMap<_, _> = pairs.iter().rev().copied().collect();
    assert_eq!(compared(&forth).expect("comparable"), compared(&back).expect("comparable"));
    assert_ne!(compared(&[1, 2]).expect("comparable"), compared(&[2, 1]).expect("comparable"));
    assert_eq!(compared(&HashSet::from([1])).expect("comparable"), compared(&[1]).expect("comparable"));
}

#[derive(Debug, Serialize, Deserialize)]
struct Skipped {
    #[serde(skip_serializing)]
    _secret: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SkippedWhereEmpty {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OneWay {
    #[serde(serialize_with = "as_text")]
    number: u64,
}

fn as_text<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[derive(Debug, Serialize, Deserialize)]
enum SometimesOneWay {
    Well,
    Ill { deep: Vec<OneWay> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
    parent: Option<Box<Tree>>,
    expression: Expression,
}

#[derive(Debug, Serialize, Deserialize)]
enum Expression {
    Number(f64),
    Sum(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
}

/// A type with an unwritten field, beside fields that accept few texts and fields with aliases.
#[derive(Debug, Serialize, Deserialize)]
struct Charge {
    id: std::net::Ipv4Addr,
    #[serde(alias = "sum", alias = "total")]
    amount: std::num::NonZeroU32,
    #[serde(alias = "by")]
    until: std::net::Ipv6Addr,
    #[serde(skip_serializing)]
    _raw: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum WithOldVariant {
    New(u8),
    /// A variant that is read and never written.
    #[serde(skip_serializing)]
    Old(#[allow(dead_code)] u8),
}

/// A type whose own code panics on a made-up value.
#[derive(Debug, Serialize)]
struct Picky(u8);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        assert_eq!(u8::deserialize(deserializer)?, 77, "a made-up value");
        Ok(Self(77))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Endless(Box<Endless>);

#[test]
fn r20a_a_type_that_cannot_be_stored_is_told_before_there_is_a_value() {
    for refused in [
        check::<Skipped>(),
        check::<SkippedWhereEmpty>(),
        check::<OneWay>(),
        check::<Option<Vec<(u8, OneWay)>>>(),
        check::<SometimesOneWay>(),
        check::<Charge>(),
        check::<HashMap<String, Result<Skipped, ()>>>(),
    ] {
        assert!(refused.is_err());
    }
    for accepted in [
        check::<()>(),
        check::<Any>(),
        check::<Option<Option<f64>>>(),
        check::<HashMap<(u8, u8), Tree>>(),
        check::<Tree>(),
        check::<Picky>(),
        check::<Endless>(),
        check::<WithOldVariant>(),
        check::<std::num::NonZeroU8>(),
        check::<std::net::IpAddr>(),
        check::<serde_json::Value>(),
        check::<Internally>(),
        check::<std::time::SystemTime>(),
        check::<[[u8; 32]; 32]>(),
    ] {
        accepted.expect("storable");
    }
}
