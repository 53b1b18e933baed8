//! Values as text: JSON, with a tag wherever JSON would lose something.
//!
//! A stored value reads back as exactly what it was, for every value of serde's data model (rule 20a). People read it in SQL
//! as the JSON that they expect, and it grows as JSON does: a new field with a default reads old records, and unknown
//! fields are passed over.
//!
//! | value | text |
//! |---|---|
//! | booleans, integers up to 128 bits, finite floats, strings, characters | as in JSON; each float bit for bit, and always with `.` or `e` |
//! | sequences, tuples | an array |
//! | structs, and maps whose keys are strings | an object |
//! | a variant | `"Name"`, or `{"Name": …}` where it holds something |
//! | a newtype struct | what it holds |
//! | `None` | `null` |
//! | `Some(value)` | the value's own text; `{"~some": …}` around the text of a unit, of `None`, or of another `~some` |
//! | `()`, a unit struct | `{"~unit": null}` |
//! | infinite floats and NaN | `{"~f64": "inf"}`, `"-inf"`, `"NaN"`, and `"NaN:…"` with the bits of an unusual one; `~f32` likewise |
//! | bytes | `{"~bytes": "00ff"}` |
//! | any other map | `{"~map": [[key, value], …]}`: its keys are no strings, or one of them begins with `~`, or is there twice |
//!
//! An object whose first name begins with `~` is one of these, or was written by a later release.

mod read;
mod sample;
mod write;

use std::fmt;

use serde::Serialize;
use serde::de::{self, DeserializeOwned};
use serde::ser;

pub(crate) use sample::check;
pub(crate) use write::UNORDERED;

/// Deeper values are not stored: to read them recurses, and a record must not exhaust the stack.
const MAX_DEPTH: usize = 500;

const SOME: &str = "~some";
const UNIT: &str = "~unit";
const F32: &str = "~f32";
const F64: &str = "~f64";
const BYTES: &str = "~bytes";
const MAP: &str = "~map";

/// What `serde_json` calls the struct as which it writes and the newtype as which it reads raw JSON.
const RAW_JSON: &str = "$serde_json::private::RawValue";

/// The value as it is stored.
pub(crate) fn stored<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Unsuitable> {
    let text = write::stored(value)?;
    if read::depth(&text) > MAX_DEPTH {
        return Err(Unsuitable::new(format!("the value nests deeper than {MAX_DEPTH} levels")));
    }
    Ok(text.into_bytes())
}

/// The value as it is compared: one text for equal values, however a map iterates, and another for each other value of
/// serde's data model. It is not read back.
pub(crate) fn compared<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Unsuitable> {
    write::compared(value).map(String::into_bytes)
}

/// The value in a stored text.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unsuitable> {
    read::read(text)
}

/// Why a value could not be written or read. It quotes nothing that was read: a log may get it.
#[derive(Debug)]
pub(crate) struct Unsuitable(String);

impl Unsuitable {
    fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    fn damaged() -> Self {
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
    fn custom<T: fmt::Display>(words: T) -> Self {
        Self(words.to_string())
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

/// What it is, without its content, which must not reach a log.
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

#[cfg(test)]
mod tests;
