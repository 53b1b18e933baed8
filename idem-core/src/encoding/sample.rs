//! Checks whether a type can be stored, before there is a value of it.
//!
//! The answer of a foreign call must not turn out to be unstorable after the call was made. So a few values of the type
//! are made up by its own `Deserialize`, written and read back. This detects a field that is skipped when written and
//! required when read, and a `serialize_with` without its `deserialize_with`.
//!
//! A type is refused only if one of its values was written and does not read back. A type that reads whatever it finds
//! (untagged and internally tagged enums, flattened fields), or that takes no made-up value, passes.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::read::read;
use super::unsuitable::Unsuitable;
use super::write::stored;

/// The names of the types that have passed.
static STORABLE: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

/// The largest number of values made up for one type: one for each variant of its largest enum, up to this limit.
const MOST_VALUES: usize = 32;

/// The largest number of parts of a value.
const MOST_PARTS: usize = 1000;

/// The largest number of tries to make up a value.
const MOST_TRIES: usize = 300;

/// Below this depth options and sequences are empty, so that the value of a recursive type ends.
const DEEP: usize = 4;

/// The texts to try for a string, for types that accept few.
const TEXTS: [&str; 9] = [
    "a",
    "1",
    "00000000-0000-4000-8000-000000000000",
    "2026-01-02T03:04:05Z",
    "2026-01-02",
    "03:04:05",
    "http://localhost/",
    "127.0.0.1",
    "::1",
];

/// Fails if a made-up value of the type was written and does not read back.
pub(crate) fn check<T: Serialize + DeserializeOwned>() -> Result<(), Unsuitable> {
    // With `panic = "abort"`, a type's own code could end the process over a made-up value.
    if cfg!(panic = "abort") {
        return Ok(());
    }
    let name = std::any::type_name::<T>();
    let known = || STORABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(name) {
        return Ok(());
    }
    let variants = Cell::new(1);
    let mut choice = 0;
    while choice < variants.get().min(MOST_VALUES) {
        for is_empty in [false, true] {
            check_one::<T>(choice, is_empty, &variants)?;
        }
        choice += 1;
    }
    known().insert(name);
    Ok(())
}

fn check_one<T: Serialize + DeserializeOwned>(
    choice: usize,
    is_empty: bool,
    variants: &Cell<usize>,
) -> Result<(), Unsuitable> {
    let guesses = Guesses::default();
    for _ in 0..MOST_TRIES {
        guesses.at.set(0);
        let sample = Sample { choice, is_empty, variants, guesses: &guesses, parts: &Cell::new(0), depth: 0 };
        // A type's own code may panic on a made-up value.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let Ok(value) = T::deserialize(sample) else { return None };
            // A value that is never written, such as a variant of old records, need not be writable.
            let Ok(text) = stored(&value) else { return Some(Ok(())) };
            Some(read::<T>(&text).map(|_| ()))
        }));
        match checked.unwrap_or(Some(Ok(()))) {
            Some(checked) => return checked,
            None if guesses.next() => {}
            None => return Ok(()),
        }
    }
    Ok(())
}

/// The guess at each place where there is a choice, in the order of the places. If no value comes about, the last guess
/// was wrong.
#[derive(Default)]
struct Guesses {
    /// The choice, and the number of choices.
    made: RefCell<Vec<(usize, usize)>>,
    at: Cell<usize>,
}

impl Guesses {
    fn guess(&self, of: usize) -> usize {
        let (at, mut made) = (self.at.get(), self.made.borrow_mut());
        self.at.set(at + 1);
        if made.len() == at {
            made.push((0, of));
        }
        made[at].0
    }

    /// Whether there is another guess to try.
    fn next(&self) -> bool {
        let mut made = self.made.borrow_mut();
        made.truncate(self.at.get());
        while let Some((guess, of)) = made.pop() {
            if guess + 1 < of {
                made.push((guess + 1, of));
                return true;
            }
        }
        false
    }
}

/// Makes up a value of any type.
#[derive(Clone, Copy)]
struct Sample<'s> {
    /// The variant to take of each enum.
    choice: usize,
    /// Whether the value is as empty as it can be.
    is_empty: bool,
    /// The number of variants of the largest enum.
    variants: &'s Cell<usize>,
    guesses: &'s Guesses,
    parts: &'s Cell<usize>,
    depth: usize,
}

/// No value could be made up.
#[derive(Debug)]
struct NoSample;

impl fmt::Display for NoSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no value was made up")
    }
}

impl std::error::Error for NoSample {}

impl de::Error for NoSample {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl Sample<'_> {
    fn inner(mut self) -> Result<Self, NoSample> {
        self.depth += 1;
        self.parts.set(self.parts.get() + 1);
        if self.depth > 8 * DEEP || self.parts.get() > MOST_PARTS { Err(NoSample) } else { Ok(self) }
    }

    fn ends(&self) -> bool {
        self.is_empty || self.depth >= DEEP
    }

    fn text(&self) -> &'static str {
        // A type that accepts no empty text gets another one.
        let texts = usize::from(self.is_empty);
        let guess = self.guesses.guess(TEXTS.len() + texts);
        if guess < texts { "" } else { TEXTS[guess - texts] }
    }
}

macro_rules! made_up {
    ($($deserialize:ident $visit:ident $value:literal or $empty:literal;)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
            // A type that accepts no zero gets another number.
            let is_empty = self.is_empty && self.guesses.guess(2) == 0;
            visitor.$visit(if is_empty { $empty } else { $value })
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Sample<'_> {
    type Error = NoSample;

    made_up! {
        deserialize_bool visit_bool true or false;
        deserialize_i8 visit_i8 1 or 0;
        deserialize_i16 visit_i16 1 or 0;
        deserialize_i32 visit_i32 1 or 0;
        deserialize_i64 visit_i64 1 or 0;
        deserialize_i128 visit_i128 1 or 0;
        deserialize_u8 visit_u8 1 or 0;
        deserialize_u16 visit_u16 1 or 0;
        deserialize_u32 visit_u32 1 or 0;
        deserialize_u64 visit_u64 1 or 0;
        deserialize_u128 visit_u128 1 or 0;
        deserialize_f32 visit_f32 0.5 or 0.0;
        deserialize_f64 visit_f64 0.5 or 0.0;
        deserialize_char visit_char 'a' or 'a';
        deserialize_bytes visit_bytes b"a" or b"";
        deserialize_byte_buf visit_bytes b"a" or b"";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_str(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_str(self.text())
    }

    /// For a type that reads whatever it finds, such as a decimal number.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        match self.guesses.guess(3) {
            0 => visitor.visit_str(self.text()),
            1 => visitor.visit_u64(1),
            _ => visitor.visit_unit(),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoSample> {
        Err(NoSample)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        if self.ends() { visitor.visit_none() } else { visitor.visit_some(self.inner()?) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_newtype_struct(self.inner()?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Parts { sample: self.inner()?, fields: None, left: usize::from(!self.ends()) })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Parts { sample: self.inner()?, fields: None, left: length })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_map(Parts { sample: self.inner()?, fields: None, left: usize::from(!self.ends()) })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        visitor.visit_map(Parts { sample: self.inner()?, fields: Some(fields), left: fields.len() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        self.variants.set(self.variants.get().max(variants.len()));
        // The first variant of a recursive type usually ends the recursion.
        let choice = if self.depth >= DEEP { 0 } else { self.choice % variants.len().max(1) };
        let name = variants.get(choice).ok_or(NoSample)?;
        visitor.visit_enum(Variant { sample: self.inner()?, name })
    }
}

/// The parts of a sequence, a map or a struct.
struct Parts<'s> {
    sample: Sample<'s>,
    /// The names of a struct's fields.
    fields: Option<&'static [&'static str]>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = NoSample;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NoSample> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.sample.inner()?).map(Some)
    }
}

impl<'de> MapAccess<'de> for Parts<'_> {
    type Error = NoSample;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoSample> {
        while self.left > 0 {
            self.left -= 1;
            let Some(fields) = self.fields else { return seed.deserialize(self.sample.inner()?).map(Some) };
            // The list holds the names of all fields and their aliases. A field takes only one of its names.
            if self.sample.guesses.guess(2) == 0 {
                return seed.deserialize(StrDeserializer::new(fields[fields.len() - 1 - self.left])).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoSample> {
        seed.deserialize(self.sample.inner()?)
    }
}

struct Variant<'s> {
    sample: Sample<'s>,
    name: &'static str,
}

impl<'de, 's> EnumAccess<'de> for Variant<'s> {
    type Error = NoSample;
    type Variant = Sample<'s>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Sample<'s>), NoSample> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self.sample))
    }
}

impl<'de> VariantAccess<'de> for Sample<'_> {
    type Error = NoSample;

    fn unit_variant(self) -> Result<(), NoSample> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NoSample> {
        seed.deserialize(self.inner()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoSample> {
        de::Deserializer::deserialize_tuple(self, length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        de::Deserializer::deserialize_struct(self, "", fields, visitor)
    }
}
