//! A plain function's result as it is stored.

use std::any::type_name;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind};
use crate::record::{Format, Outcome, Reply};

/// A result that was stored by an earlier run.
///
/// It is read as the type that was stored: one of another name is refused, so that a `0` of last week is not taken
/// for the `None` of today.
///
/// # Limitations
/// - The name is [`type_name`]'s, for which no compiler promises to keep to what another one says. Where it changes,
///   results that were stored before are unreadable, and nothing runs twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    tag: Bytes,
    json: Bytes,
}

impl Value {
    pub(crate) fn of(reply: Reply) -> Self {
        Self { tag: reply.headers, json: reply.body }
    }

    /// The result.
    ///
    /// # Errors
    /// [`Kind::RecordUnreadable`] where another type was stored, by its name without modules, or where its text is not
    /// one of this type any more.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let now = tag(type_name::<T>());
        if self.tag != now {
            let stored = String::from_utf8_lossy(&self.tag);
            let words = format!("a `{stored}` was stored, and a `{now}` is asked for");
            return Err(Error::new(Kind::RecordUnreadable).caused_by(words));
        }
        serde_json::from_slice(&self.json).map_err(|error| Error::new(Kind::RecordUnreadable).caused_by(error))
    }
}

/// The value as it is stored, or the tombstone of one that is too large.
///
/// It is read back at once. What a retry could not read is found out before anything is kept.
pub(crate) fn outcome<T: Serialize + DeserializeOwned>(
    format: Format,
    value: &T,
    limit: usize,
) -> Result<Outcome, Error> {
    let failed = |error: serde_json::Error, detail| Error::new(Kind::ReplyFailed).caused_by(error).because(detail);
    let json = serde_json::to_vec(value)
        .map_err(|error| failed(error, "the result could not be serialised; it was not stored"))?;
    serde_json::from_slice::<T>(&json)
        .map_err(|error| failed(error, "the result could not be read back once serialised; it was not stored"))?;
    let tag = tag(type_name::<T>());
    if tag.len() + json.len() > limit {
        return Ok(Outcome::Oversized);
    }
    Ok(Outcome::Reply(Reply { format, status: None, headers: tag.into(), body: json.into() }))
}

/// A type's name without modules: it may move, but not become another.
fn tag(name: &str) -> String {
    let mut tag = String::with_capacity(name.len());
    let mut words = name.split("::").peekable();
    while let Some(word) = words.next() {
        // The last name of the word is a module's, unless the word is the last.
        let end = word.rfind(|letter: char| !(letter.is_alphanumeric() || letter == '_')).map_or(0, |at| at + 1);
        tag.push_str(if words.peek().is_some() { &word[..end] } else { word });
    }
    tag
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LIMIT: usize = 1000;

    fn stored<T: Serialize + DeserializeOwned>(value: &T) -> Value {
        match outcome(Format::VALUE, value, LIMIT).expect("storable") {
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
        ] {
            assert_eq!(tag(name), expected);
        }
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
        value.json = value.json.slice(1..);
        assert_eq!(value.read::<String>().unwrap_err().kind(), Kind::RecordUnreadable);
    }

    #[test]
    fn what_a_retry_could_not_read_is_refused_before_it_is_stored() {
        let no_text = HashMap::from([((1, 2), 3)]);
        let not_itself = f64::NAN;
        assert_eq!(outcome(Format::VALUE, &no_text, LIMIT).unwrap_err().kind(), Kind::ReplyFailed);
        assert_eq!(outcome(Format::VALUE, &not_itself, LIMIT).unwrap_err().kind(), Kind::ReplyFailed);
    }

    #[test]
    fn r21_a_value_over_the_limit_leaves_a_tombstone() {
        let long = "x".repeat(LIMIT);
        assert_eq!(outcome(Format::VALUE, &long, LIMIT).expect("storable"), Outcome::Oversized);
    }
}
