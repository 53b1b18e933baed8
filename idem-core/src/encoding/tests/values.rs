//! Values of every kind that serde knows, and strategies that make them up.

use std::collections::BTreeMap;
use std::fmt;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// One value of each kind that serde knows, in each place that can hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Any {
    Bool(bool),
    I64(i64),
    I128(i128),
    U128(u128),
    F32(Bits32),
    F64(Bits64),
    Char(char),
    Text(String),
    Bytes(Raw),
    Unit,
    NewUnit(()),
    UnitStruct(Empty),
    Newtype(Newtype),
    Maybe(Option<Box<Any>>),
    MaybeUnit(Option<()>),
    MaybeMaybe(Option<Option<Option<u8>>>),
    Items(Vec<Any>),
    Pair(Box<Any>, Box<Any>),
    #[serde(rename = "~some")]
    Named {
        value: Box<Any>,
        #[serde(rename = "~map")]
        other: Option<Box<Any>>,
        #[serde(rename = "")]
        nameless: u8,
    },
    ByText(BTreeMap<String, Any>),
    ByNumber(BTreeMap<i16, Any>),
    ByPair(BTreeMap<(u8, Option<bool>), Any>),
    Json(serde_json::Value),
    Untagged(Untagged),
    Internally(Internally),
    Adjacently(Adjacently),
    Flattened(Flattened),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Empty;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Newtype(Option<()>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Untagged {
    Unit(()),
    Maybe(Option<u8>),
    Text(String),
    Floats { float: Bits64, single: Bits32, options: Option<Option<()>>, variant: Tagged },
}

/// An enum whose variants are named like tags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Tagged {
    #[serde(rename = "~some")]
    Some(u8),
    #[serde(rename = "~unit")]
    Unit,
    #[serde(rename = "~map")]
    Map { map: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Internally {
    Plain,
    Held { maybe: Option<Option<u8>>, unit: (), single: Bits32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "content")]
pub(crate) enum Adjacently {
    Plain,
    Maybe(Option<()>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flattened {
    first: Option<Option<()>>,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, Option<Option<u8>>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inner {
    single: Bits32,
    double: Bits64,
    unit: (),
    maybe: Option<()>,
}

/// A float that is equal if its bits are equal.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Bits32(f32);

impl PartialEq for Bits32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Bits64(f64);

impl PartialEq for Bits64 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

/// Bytes; a `Vec<u8>` would be a sequence of numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw(pub(super) Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Raw, E> {
                Ok(Raw(bytes.to_vec()))
            }
        }

        deserializer.deserialize_byte_buf(Visitor)
    }
}

pub(crate) fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text_or_tag().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((text_or_tag(), inner), 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Any text, or a text that looks like the encoding's own tags.
fn text_or_tag() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "~?(some|unit|f32|f64|bytes|map|null|\"|\\\\)?".prop_map(|text: String| text)]
}

fn tagged() -> impl Strategy<Value = Tagged> {
    prop_oneof![
        any::<u8>().prop_map(Tagged::Some),
        Just(Tagged::Unit),
        any::<Vec<u8>>().prop_map(|map| Tagged::Map { map })
    ]
}

/// One in three is NaN or infinite.
pub(crate) fn bits32() -> impl Strategy<Value = Bits32> {
    let bits = prop_oneof![2 => any::<u32>(), 1 => any::<u32>().prop_map(|bits| bits | f32::INFINITY.to_bits())];
    bits.prop_map(|bits| Bits32(f32::from_bits(bits)))
}

pub(crate) fn bits64() -> impl Strategy<Value = Bits64> {
    let bits = prop_oneof![2 => any::<u64>(), 1 => any::<u64>().prop_map(|bits| bits | f64::INFINITY.to_bits())];
    bits.prop_map(|bits| Bits64(f64::from_bits(bits)))
}

fn maybe_unit() -> impl Strategy<Value = Option<()>> {
    any::<Option<()>>()
}

pub(crate) fn any_value() -> impl Strategy<Value = Any> {
    let maybe = any::<Option<Option<Option<u8>>>>();
    let rest = prop::collection::btree_map("[a-z]{1,3}", any::<Option<Option<u8>>>(), 0..4)
        // A flattened map reads the fields that the other fields did not.
        .prop_map(|rest| rest.into_iter().map(|(name, value)| (format!("x{name}"), value)).collect());
    let inner = (bits32(), bits64(), maybe_unit()).prop_map(|(single, double, maybe)| Inner {
        single,
        double,
        unit: (),
        maybe,
    });
    let leaf = prop_oneof![
        any::<bool>().prop_map(Any::Bool),
        any::<i64>().prop_map(Any::I64),
        any::<i128>().prop_map(Any::I128),
        any::<u128>().prop_map(Any::U128),
        bits32().prop_map(Any::F32),
        bits64().prop_map(Any::F64),
        any::<char>().prop_map(Any::Char),
        text_or_tag().prop_map(Any::Text),
        any::<Vec<u8>>().prop_map(|bytes| Any::Bytes(Raw(bytes))),
        Just(Any::Unit),
        Just(Any::NewUnit(())),
        Just(Any::UnitStruct(Empty)),
        maybe_unit().prop_map(|maybe| Any::Newtype(Newtype(maybe))),
        Just(Any::Maybe(None)),
        maybe_unit().prop_map(Any::MaybeUnit),
        maybe.prop_map(Any::MaybeMaybe),
        json().prop_map(Any::Json),
        prop_oneof![
            Just(Untagged::Unit(())),
            any::<Option<u8>>().prop_map(Untagged::Maybe),
            text_or_tag().prop_map(Untagged::Text),
            (bits64(), bits32(), any::<Option<Option<()>>>(), tagged())
                .prop_map(|(float, single, options, variant)| Untagged::Floats { float, single, options, variant }),
        ]
        .prop_map(Any::Untagged),
        prop_oneof![
            Just(Internally::Plain),
            (any::<Option<Option<u8>>>(), bits32()).prop_map(|(maybe, single)| Internally::Held {
                maybe,
                unit: (),
                single
            }),
        ]
        .prop_map(Any::Internally),
        prop_oneof![Just(Adjacently::Plain), maybe_unit().prop_map(Adjacently::Maybe)].prop_map(Any::Adjacently),
        (any::<Option<Option<()>>>(), inner, rest).prop_map(|(first, inner, rest)| Any::Flattened(Flattened {
            first,
            inner,
            rest
        })),
    ];
    leaf.prop_recursive(5, 64, 5, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(|value| Any::Maybe(Some(value))),
            prop::collection::vec(inner.clone(), 0..5).prop_map(Any::Items),
            (boxed.clone(), boxed.clone()).prop_map(|(one, other)| Any::Pair(one, other)),
            (boxed.clone(), proptest::option::of(boxed)).prop_map(|(value, other)| Any::Named {
                value,
                other,
                nameless: 0
            }),
            prop::collection::btree_map(text_or_tag(), inner.clone(), 0..5).prop_map(Any::ByText),
            prop::collection::btree_map(any::<i16>(), inner.clone(), 0..5).prop_map(Any::ByNumber),
            prop::collection::btree_map(any::<(u8, Option<bool>)>(), inner, 0..5).prop_map(Any::ByPair),
        ]
    })
}
