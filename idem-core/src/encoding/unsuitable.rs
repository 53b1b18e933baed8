//! Why a value could not be written or read.

use std::fmt;

use serde::{de, ser};

/// Why a value could not be written or read. The message quotes nothing of the value, so it may be logged. Words of a
/// type's own code may quote it, and are left out.
#[derive(Debug)]
pub(crate) struct Unsuitable(String);

impl Unsuitable {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    pub(super) fn damaged() -> Self {
        Self::new("the text is damaged")
    }
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsuitable {}

impl ser::Error for Unsuitable {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::new("the type's own code does not write the value")
    }
}

impl de::Error for Unsuitable {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::new("the type's own code does not take the value")
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self(format!("{length} items stand where {expected} is expected"))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self(format!("a field is none of {expected:?}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("the field `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self(format!("the field `{field}` is there twice"))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("{} stands where {expected} is expected", kind(unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("{} is not what is expected: {expected}", kind(unexpected)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(format!("a variant is none of {expected:?}"))
    }
}

/// The kind of a value, without its content, which must not reach a log.
fn kind(unexpected: de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "an integer",
        de::Unexpected::Float(_) => "a float",
        de::Unexpected::Char(_) => "a character",
        de::Unexpected::Str(_) => "a string",
        de::Unexpected::Bytes(_) => "bytes",
        de::Unexpected::Unit => "a unit",
        de::Unexpected::Option => "an option",
        de::Unexpected::NewtypeStruct => "a newtype struct",
        de::Unexpected::Seq => "a sequence",
        de::Unexpected::Map => "a map",
        de::Unexpected::Enum
        | de::Unexpected::UnitVariant
        | de::Unexpected::NewtypeVariant
        | de::Unexpected::TupleVariant
        | de::Unexpected::StructVariant => "a variant",
        de::Unexpected::Other(_) => "another value",
    }
}
