//! Reads a value from its text.

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::depth::{MAX_DEPTH, depth};
use super::tags::{BYTES, F32, F64, MAP, RAW_JSON, SOME, UNIT};
use super::unsuitable::Unsuitable;
use crate::json::Reader;

/// The value in a stored text.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unsuitable> {
    let text = std::str::from_utf8(text).map_err(|_| Unsuitable::damaged())?;
    if depth(text) > MAX_DEPTH {
        return Err(Unsuitable::damaged());
    }
    let mut source = Source(Reader::new(text));
    let value = T::deserialize(&mut source)?;
    if source.0.is_at_end() { Ok(value) } else { Err(Unsuitable::damaged()) }
}

/// The rest of the text. It begins with a value.
struct Source<'t>(Reader<'t>);

/// The kind of an object, by its first name.
enum Object {
    Some,
    Unit,
    Float,
    Bytes,
    Pairs,
    /// An ordinary object. The reader has not entered it.
    Fields,
}

impl<'t> Source<'t> {
    fn peek(&mut self) -> Result<u8, Unsuitable> {
        self.0.skip_space();
        self.0.peek().ok_or_else(Unsuitable::damaged)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unsuitable> {
        self.0.skip_space();
        self.0.expect(byte).ok_or_else(Unsuitable::damaged)
    }

    fn string(&mut self) -> Result<Cow<'t, str>, Unsuitable> {
        self.0.skip_space();
        let bytes = self.0.string().ok_or_else(Unsuitable::damaged)?;
        // The bytes come from valid text, and each escape is a whole character.
        Ok(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| Unsuitable::damaged())?),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Unsuitable::damaged())?),
        })
    }

    /// Enters an object that is a tag, up to the content of the tag. Does not enter an ordinary object.
    fn object(&mut self) -> Result<(Object, &'static str), Unsuitable> {
        let here = self.0;
        self.expect(b'{')?;
        if self.peek()? != b'"' {
            self.0 = here;
            return Ok((Object::Fields, ""));
        }
        let name = self.string()?;
        let (object, tag) = match &*name {
            SOME => (Object::Some, SOME),
            UNIT => (Object::Unit, UNIT),
            F32 => (Object::Float, F32),
            F64 => (Object::Float, F64),
            BYTES => (Object::Bytes, BYTES),
            MAP => (Object::Pairs, MAP),
            name if name.starts_with('~') => return Err(Unsuitable::new("the text has a tag of a later release")),
            _ => {
                self.0 = here;
                return Ok((Object::Fields, ""));
            }
        };
        self.expect(b':')?;
        Ok((object, tag))
    }

    /// Returns whether the text continues with this tag, and enters the tag if so.
    fn enters(&mut self, tag: &str) -> Result<bool, Unsuitable> {
        if self.peek()? != b'{' {
            return Ok(false);
        }
        let here = self.0;
        if self.object()?.1 == tag {
            return Ok(true);
        }
        self.0 = here;
        Ok(false)
    }

    fn eats_null(&mut self) -> bool {
        self.0.skip_space();
        self.0.eat("null")
    }

    fn number<V: Visitor<'t>>(&mut self, visitor: V) -> Result<V::Value, Unsuitable> {
        let text = self.0.number().ok_or_else(Unsuitable::damaged)?;
        if text.contains(['.', 'e', 'E']) {
            return visitor.visit_f64(text.parse().map_err(|_| Unsuitable::damaged())?);
        }
        if let Ok(value) = text.parse::<u64>() {
            visitor.visit_u64(value)
        } else if let Ok(value) = text.parse::<i64>() {
            visitor.visit_i64(value)
        } else if let Ok(value) = text.parse::<u128>() {
            visitor.visit_u128(value)
        } else {
            visitor.visit_i128(text.parse().map_err(|_| Unsuitable::damaged())?)
        }
    }

    fn float<V: Visitor<'t>>(&mut self, tag: &str, visitor: V) -> Result<V::Value, Unsuitable> {
        let text = self.string()?;
        self.expect(b'}')?;
        let bits = text.strip_prefix("NaN:");
        let damaged = |_| Unsuitable::damaged();
        if tag == F32 {
            return visitor.visit_f32(match bits {
                Some(bits) => f32::from_bits(u32::from_str_radix(bits, 16).map_err(damaged)?),
                None => text.parse().map_err(|_| Unsuitable::damaged())?,
            });
        }
        visitor.visit_f64(match bits {
            Some(bits) => f64::from_bits(u64::from_str_radix(bits, 16).map_err(damaged)?),
            None => text.parse().map_err(|_| Unsuitable::damaged())?,
        })
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Unsuitable> {
        let digits = self.string()?;
        self.expect(b'}')?;
        if digits.len() % 2 != 0 {
            return Err(Unsuitable::damaged());
        }
        let digits: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.ok_or_else(Unsuitable::damaged)?;
        Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
    }

    /// Skips one value.
    fn skip(&mut self) -> Result<(), Unsuitable> {
        let mut open = 0_usize;
        loop {
            match self.peek()? {
                b'"' => _ = self.string()?,
                byte @ (b'[' | b'{') => {
                    self.expect(byte)?;
                    open += 1;
                }
                byte @ (b']' | b'}' | b',' | b':') if open > 0 => {
                    self.expect(byte)?;
                    open -= usize::from(matches!(byte, b']' | b'}'));
                }
                _ => {
                    let is_word = ["null", "true", "false"].into_iter().any(|word| self.0.eat(word));
                    if !is_word {
                        self.0.number().ok_or_else(Unsuitable::damaged)?;
                    }
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }
}

impl<'t> de::Deserializer<'t> for &mut Source<'t> {
    type Error = Unsuitable;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Unsuitable> {
        match self.peek()? {
            b'"' => match self.string()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            b'[' => {
                self.expect(b'[')?;
                let mut items = Items { source: self, is_first: true, has_ended: false };
                let value = visitor.visit_seq(&mut items)?;
                items.finish()?;
                Ok(value)
            }
            b'{' => match self.object()? {
                (Object::Some, _) => {
                    let value = visitor.visit_some(&mut *self)?;
                    self.expect(b'}')?;
                    Ok(value)
                }
                (Object::Unit, _) => {
                    if !self.eats_null() {
                        return Err(Unsuitable::damaged());
                    }
                    self.expect(b'}')?;
                    visitor.visit_unit()
                }
                (Object::Float, tag) => self.float(tag, visitor),
                (Object::Bytes, _) => visitor.visit_byte_buf(self.bytes()?),
                (Object::Pairs, _) => {
                    self.expect(b'[')?;
                    let mut entries = Entries { source: &mut *self, are_pairs: true, is_first: true, has_ended: false };
                    let value = visitor.visit_map(&mut entries)?;
                    entries.finish()?;
                    self.expect(b'}')?;
                    Ok(value)
                }
                (Object::Fields, _) => {
                    self.expect(b'{')?;
                    let mut entries = Entries { source: self, are_pairs: false, is_first: true, has_ended: false };
                    let value = visitor.visit_map(&mut entries)?;
                    entries.finish()?;
                    Ok(value)
                }
            },
            b'-' | b'0'..=b'9' => self.number(visitor),
            _ if self.0.eat("null") => visitor.visit_none(),
            _ if self.0.eat("true") => visitor.visit_bool(true),
            _ if self.0.eat("false") => visitor.visit_bool(false),
            _ => Err(Unsuitable::damaged()),
        }
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Unsuitable> {
        if self.eats_null() {
            return visitor.visit_none();
        }
        if self.enters(SOME)? {
            let value = visitor.visit_some(&mut *self)?;
            self.expect(b'}')?;
            return Ok(value);
        }
        // `Some(())` is written in `~some`. A unit alone was written by a type that is no option, and reads as `None`,
        // as in JSON.
        if self.enters(UNIT)? {
            self.skip()?;
            self.expect(b'}')?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Unsuitable> {
        if self.eats_null() { visitor.visit_unit() } else { self.deserialize_any(visitor) }
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unsuitable> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unsuitable> {
        // Raw JSON is written as a struct, and reads itself as one.
        if name == RAW_JSON { self.deserialize_any(visitor) } else { visitor.visit_newtype_struct(self) }
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsuitable> {
        match self.peek()? {
            b'"' => match self.string()? {
                Cow::Borrowed(name) => visitor.visit_enum(BorrowedStrDeserializer::new(name)),
                Cow::Owned(name) => visitor.visit_enum(StrDeserializer::new(&name)),
            },
            b'{' if self.enters(MAP)? => {
                self.expect(b'[')?;
                self.expect(b'[')?;
                let value = visitor.visit_enum(Variant { source: self, before_content: b',' })?;
                self.expect(b']')?;
                self.expect(b']')?;
                self.expect(b'}')?;
                Ok(value)
            }
            b'{' => {
                self.expect(b'{')?;
                let value = visitor.visit_enum(Variant { source: self, before_content: b':' })?;
                self.expect(b'}')?;
                Ok(value)
            }
            _ => Err(Unsuitable::new("something else stands where a variant is expected")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Unsuitable> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'t>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf seq tuple tuple_struct map
        struct identifier
    }
}

/// The items of an array.
struct Items<'s, 't> {
    source: &'s mut Source<'t>,
    is_first: bool,
    has_ended: bool,
}

impl Items<'_, '_> {
    /// Refuses further items: items that the value does not ask for would be lost.
    fn finish(mut self) -> Result<(), Unsuitable> {
        if self.has_next()? { Err(Unsuitable::new("a sequence is longer than what is expected")) } else { Ok(()) }
    }

    fn has_next(&mut self) -> Result<bool, Unsuitable> {
        has_next(self.source, &mut self.is_first, &mut self.has_ended, b']')
    }
}

fn has_next(source: &mut Source<'_>, is_first: &mut bool, has_ended: &mut bool, end: u8) -> Result<bool, Unsuitable> {
    if *has_ended {
        return Ok(false);
    }
    if source.peek()? == end {
        source.expect(end)?;
        *has_ended = true;
        return Ok(false);
    }
    if !*is_first {
        source.expect(b',')?;
    }
    *is_first = false;
    Ok(true)
}

impl<'t> SeqAccess<'t> for &mut Items<'_, 't> {
    type Error = Unsuitable;

    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, Unsuitable> {
        if self.has_next()? { seed.deserialize(&mut *self.source).map(Some) } else { Ok(None) }
    }
}

/// The members of an object, or the pairs of a map that is written as `~map`.
struct Entries<'s, 't> {
    source: &'s mut Source<'t>,
    are_pairs: bool,
    is_first: bool,
    has_ended: bool,
}

impl Entries<'_, '_> {
    fn finish(mut self) -> Result<(), Unsuitable> {
        if self.has_next()? { Err(Unsuitable::new("a map is longer than what is expected")) } else { Ok(()) }
    }

    fn has_next(&mut self) -> Result<bool, Unsuitable> {
        let end = if self.are_pairs { b']' } else { b'}' };
        has_next(self.source, &mut self.is_first, &mut self.has_ended, end)
    }
}

impl<'t> MapAccess<'t> for &mut Entries<'_, 't> {
    type Error = Unsuitable;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Unsuitable> {
        if !self.has_next()? {
            return Ok(None);
        }
        if self.are_pairs {
            self.source.expect(b'[')?;
        }
        seed.deserialize(&mut *self.source).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Unsuitable> {
        self.source.expect(if self.are_pairs { b',' } else { b':' })?;
        let value = seed.deserialize(&mut *self.source)?;
        if self.are_pairs {
            self.source.expect(b']')?;
        }
        Ok(value)
    }
}

/// A variant with content.
struct Variant<'s, 't> {
    source: &'s mut Source<'t>,
    before_content: u8,
}

impl<'t> EnumAccess<'t> for Variant<'_, 't> {
    type Error = Unsuitable;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'t>>(self, seed: V) -> Result<(V::Value, Self), Unsuitable> {
        let name = seed.deserialize(&mut *self.source)?;
        self.source.expect(self.before_content)?;
        Ok((name, self))
    }
}

impl<'t> VariantAccess<'t> for Variant<'_, 't> {
    type Error = Unsuitable;

    fn unit_variant(self) -> Result<(), Unsuitable> {
        Deserialize::deserialize(self.source)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'t>>(self, seed: T) -> Result<T::Value, Unsuitable> {
        seed.deserialize(self.source)
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Unsuitable> {
        de::Deserializer::deserialize_any(self.source, visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Unsuitable> {
        de::Deserializer::deserialize_any(self.source, visitor)
    }
}
