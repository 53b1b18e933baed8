//! The stored result of a plain function.

use std::any::type_name;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::encoding::{self, Unsuitable};
use crate::error::{Error, Kind};
use crate::record::{Format, Outcome, Reply};
use crate::redacted::Redacted;

/// The stored result of an earlier run.
///
/// It is read as the type that was stored. A type of another name is refused, so that a `0` of last week is not taken
/// for the `None` of today.
///
/// # Rules
/// - A value reads back as exactly what it was: nested options, `Some(())`, every float bit for bit, maps with any
///   keys.
/// - A value is stored as JSON. People read it by `convert_from(body, 'UTF8')` in Postgres and `CAST(body AS text)` in
///   SQLite. A value that JSON would lose is an object with one name, which begins with `~`: `{"~some": null}` is
///   `Some(None)`, `{"~unit": null}` is `()`, `{"~f64": "NaN"}` and `{"~f64": "inf"}` are floats, `{"~bytes": "00ff"}`
///   is two bytes, and `{"~map": [[1, "a"]]}` is a map with a key that is no string, begins with `~`, or occurs twice.
/// - A type may grow as with JSON: a new field with `#[serde(default)]` reads old records, and a removed field is
///   ignored, unless the type has `deny_unknown_fields`.
///
/// # Limitations
/// - A value nests up to 500 levels deep.
/// - If serde buffers the value (`untagged`, `tag = "…"`, `flatten`), it takes no integer beyond 64 bits.
/// - A type that does not read back is detected before the run if serde can make up a value of it. Types that read
///   whatever they find (`untagged`, `tag = "…"`, `flatten`) are detected only when a value is to be stored.
/// - The name is [`type_name`]'s, which may differ between compilers. If it changes, results that were stored before
///   are unreadable, and nothing runs twice.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    tag: Bytes,
    text: Bytes,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&Redacted(self.text.len())).finish()
    }
}

impl Value {
    pub(crate) fn of(reply: Reply) -> Self {
        Self { tag: reply.headers, text: reply.body }
    }

    /// The result.
    ///
    /// # Errors
    /// [`Kind::RecordUnreadable`] if a type of another name (without modules) was stored, or if the text no longer fits
    /// this type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let now = tag(type_name::<T>());
        if self.tag != now {
            let stored = String::from_utf8_lossy(&self.tag);
            let words = format!("a `{stored}` was stored, and a `{now}` is asked for");
            return Err(Error::new(Kind::RecordUnreadable).caused_by(words));
        }
        encoding::read(&self.text).map_err(|error| Error::new(Kind::RecordUnreadable).caused_by(error))
    }
}

/// A value that was written for a record.
pub(crate) struct Written<T> {
    /// The value as it is stored, or the tombstone of a value that is too large.
    pub(crate) outcome: Outcome,
    /// The value as every later caller reads it. The first caller gets it, too, so that a difference shows on the first
    /// call (rule 20b).
    pub(crate) read_back: T,
}

impl<T> Written<T> {
    pub(crate) fn map<R>(self, wrap: impl FnOnce(T) -> R) -> Written<R> {
        Written { outcome: self.outcome, read_back: wrap(self.read_back) }
    }
}

/// Writes a value. A value that a retry could not read fails here, before anything is committed.
pub(crate) fn write<T: Serialize + DeserializeOwned>(
    format: Format,
    value: &T,
    limit: usize,
) -> Result<Written<T>, Error> {
    let failed = |error: Unsuitable, detail| Error::new(Kind::ReplyFailed).caused_by(error).because(detail);
    let text = encoding::stored(value)
        .map_err(|error| failed(error, "the result could not be serialised; it was not stored"))?;
    let read_back = encoding::read(&text)
        .map_err(|error| failed(error, "the result could not be read back once serialised; it was not stored"))?;
    let tag = tag(type_name::<T>());
    let outcome = match tag.len() + text.len() > limit {
        true => Outcome::Oversized,
        false => Outcome::Reply(Reply { format, status: None, headers: tag.into(), body: text.into() }),
    };
    Ok(Written { outcome, read_back })
}

/// Refuses a type whose values do not read back as they were written, before anything is run for it (rule 20a).
pub(crate) fn check<T: Serialize + DeserializeOwned>() -> Result<(), Error> {
    encoding::check::<T>().map_err(|error| {
        let detail = "results of this type cannot be stored, since one does not read back; nothing was run";
        Error::new(Kind::ReplyFailed).caused_by(error).because(detail)
    })
}

/// A type's name without modules: the type may move to another module, but may not get another name.
fn tag(name: &str) -> String {
    let mut tag = String::with_capacity(name.len());
    let mut words = name.split("::").peekable();
    while let Some(word) = words.next() {
        // The last name in the word is a module's, unless the word is the last one. What stands between names is ASCII;
        // an identifier may have letters that are not alphanumeric, such as combining marks.
        let end = word.rfind(|letter: char| letter.is_ascii() && !(letter.is_ascii_alphanumeric() || letter == '_'));
        let end = end.map_or(0, |at| at + 1);
        tag.push_str(if words.peek().is_some() { &word[..end] } else { word });
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn stored<T: Serialize + DeserializeOwned>(value: &T) -> Value {
        match write(Format::VALUE, value, LIMIT).expect("storable").outcome {
            Outcome::Reply(reply) => Value::of(reply),
            Outcome::Oversized => panic!("it is small"),
        }
    }

    #[test]
    fn a_type_keeps_its_tag_when_it_moves() {
        for (name, expected) in [
            ("u8", "u8"),
            ("()", "()"),
            ("app::stock::Stock", "Stock"),
            ("core::option::Option<alloc::string::String>", "Option<String>"),
            ("(app::A, [other::app::B; 4])", "(A, [B; 4])"),
            ("HashMap<a::K, b::V>", "HashMap<K, V>"),
            // Identifiers may have letters that are not alphanumeric: a middle dot, combining marks.
            ("app::pla\u{b7}a::Stock", "Stock"),
            ("app::cafe\u{301}::Stock", "Stock"),
            ("app::\u{b7}\u{301}::Caf\u{e9}\u{301}<\u{e9}\u{b7}::K, \u{301}::\u{b7}V>", "Caf\u{e9}\u{301}<K, \u{b7}V>"),
            ("(é·::A, [·::B; 4], &·::C)", "(A, [B; 4], &C)"),
        ] {
            assert_eq!(tag(name), expected);
        }
    }

    mod pla·x́ {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub(super) struct Sto·ck<T>(pub(super) T);
    }

    /// The names are those that the compiler gives.
    #[test]
    fn r20a_a_type_in_a_module_with_unusual_letters_is_stored() {
        use pla·x́::Sto·ck;

        let value = vec![Sto·ck(Some(Sto·ck(1_u8)))];
        assert_eq!(stored(&value).read::<Vec<Sto·ck<Option<Sto·ck<u8>>>>>().expect("readable"), value);
        assert_eq!(stored(&value).tag, "Vec<Sto·ck<Option<Sto·ck<u8>>>>");
    }

    #[test]
    fn r20_a_falsy_value_is_read_back_as_itself() {
        stored(&()).read::<()>().expect("()");
        assert!(!stored(&false).read::<bool>().expect("false"));
        assert_eq!(stored(&0_u64).read::<u64>().expect("0"), 0);
        assert_eq!(stored(&String::new()).read::<String>().expect("an empty string"), "");
        assert!(stored(&Vec::<u8>::new()).read::<Vec<u8>>().expect("an empty list").is_empty());
        assert_eq!(stored(&None::<u8>).read::<Option<u8>>().expect("None"), None);
    }

    #[test]
    fn r22_a_value_of_another_type_is_not_read_although_its_text_would_do() {
        assert_eq!(stored(&None::<u8>).read::<()>().unwrap_err().kind(), Kind::RecordUnreadable);
        assert_eq!(stored(&None::<u8>).read::<Option<u16>>().unwrap_err().kind(), Kind::RecordUnreadable);
        assert_eq!(stored(&0_u8).read::<u16>().unwrap_err().kind(), Kind::RecordUnreadable);
    }

    #[test]
    fn r22_damaged_text_is_not_read() {
        let mut value = stored(&"text".to_owned());
        value.text = value.text.slice(1..);
        assert_eq!(value.read::<String>().unwrap_err().kind(), Kind::RecordUnreadable);
    }

    #[test]
    fn what_a_retry_could_not_read_is_refused_before_it_is_stored() {
        #[derive(Serialize, serde::Deserialize)]
        struct Skipped {
            #[serde(skip_serializing)]
            _secret: u8,
        }

        let refused = write(Format::VALUE, &Skipped { _secret: 1 }, LIMIT).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), Kind::ReplyFailed);
        assert_eq!(check::<Skipped>().unwrap_err().kind(), Kind::ReplyFailed);
        let borrowed = std::cell::RefCell::new(1);
        let _guard = borrowed.borrow_mut();
        assert_eq!(write(Format::VALUE, &borrowed, LIMIT).map(|_| ()).unwrap_err().kind(), Kind::ReplyFailed);
    }

    #[test]
    fn r20b_what_is_not_stored_is_not_given_to_the_first_caller_either() {
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Charge {
            id: u8,
            #[serde(skip)]
            raw: Option<String>,
        }

        let charge = Charge { id: 1, raw: Some("only in memory".to_owned()) };
        for limit in [LIMIT, 1] {
            let written = write(Format::VALUE, &charge, limit).expect("storable");
            assert_eq!(written.read_back, Charge { id: 1, raw: None });
        }
    }

    #[test]
    fn r21_a_value_over_the_limit_leaves_a_tombstone() {
        let long = "x".repeat(LIMIT);
        assert_eq!(write(Format::VALUE, &long, LIMIT).expect("storable").outcome, Outcome::Oversized);
    }
}
