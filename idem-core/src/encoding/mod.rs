//! Values as text: JSON, with a tag for each value that JSON would lose.
//!
//! A stored value reads back as exactly what it was, for every value of serde's data model (rule 20a). In SQL people
//! see ordinary JSON. A type may grow as with JSON: a new field with a default reads old records, and unknown fields
//! are ignored.
//!
//! | value | text |
//! |---|---|
//! | booleans, integers up to 128 bits, strings, characters | as in JSON |
//! | finite floats | as in JSON, bit for bit, and always with `.` or `e` |
//! | sequences, tuples | an array |
//! | structs, and maps whose keys are strings | an object |
//! | a variant | `"Name"`, or `{"Name": …}` if it has content |
//! | a newtype struct | the value that it holds |
//! | `None` | `null` |
//! | `Some(value)` | the value's own text; `{"~some": …}` around the text of a unit, of `None`, or of another `~some` |
//! | `()`, a unit struct | `{"~unit": null}` |
//! | infinite floats and NaN | `{"~f64": "inf"}`, `"-inf"`, `"NaN"`, `"NaN:…"` (bits of an unusual NaN); `~f32` too |
//! | bytes | `{"~bytes": "00ff"}` |
//! | any other map | `{"~map": [[key, value], …]}`: a key is no string, begins with `~`, or is there twice |
//!
//! An object whose first name begins with `~` has one of these tags, or was written by a later release.

mod depth;
mod read;
mod sample;
mod tags;
mod unsuitable;
mod write;

pub(crate) use read::read;
pub(crate) use sample::check;
pub(crate) use unsuitable::Unsuitable;
pub(crate) use write::{UNORDERED, compared, stored};

#[cfg(test)]
pub(crate) mod tests;
