//! What is equal in meaning, what is not, and what has no meaning.

use proptest::prelude::*;

use super::{digest, reference};

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

/// Texts with all that the digest has to find its way through: members out of order, containers in members, escapes
/// in keys, empty containers, white space.
#[test]
fn r05_the_digest_is_that_of_the_tree() {
    let deepest = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let too_deep = format!("{}{}", "[".repeat(130), "]".repeat(130));
    for text in [
        r#"{"b":[[],{}],"a":[{"d":[1],"c":{"f":{},"e":[]}}],"\u0061a":3}"#,
        r#"[ { } , [ ] , { "b" : [ [ ] ] , "a" : { } } , 1 ]"#,
        r#"{"aa":1,"a":2,"\u0061b":3,"a\"":4,"":5,"é":6,"\u00e9\u00e9":7}"#,
        r#"{"z":{"z":{"b":[1,2],"a":[3]},"y":0},"a":{"z":1,"y":2}}"#,
        r#"[{"a":{"b":1,"b":2}}]"#,
        r#"{"a":{},"b":{},"a":{}}"#,
        r#"{"a":[{"x":1}],"b":[{"x":1}]}"#,
        &deepest,
        &too_deep,
    ] {
        assert_eq!(digest(text.as_bytes()), reference::digest(text.as_bytes()), "{text:.40}");
    }
    assert!(digest(deepest.as_bytes()).is_some() && digest(too_deep.as_bytes()).is_none());
}
