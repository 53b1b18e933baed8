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
mod tests;
