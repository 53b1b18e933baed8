//! Writes a value as text.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::mem;

use serde::Serialize;
use serde::ser::{
    self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant,
};

use super::depth::{MAX_DEPTH, depth};
use super::tags::{BYTES, F32, F64, SOME, UNIT};
use super::unsuitable::Unsuitable;

/// A newtype struct of this name is a sequence whose order does not count in comparisons.
pub(crate) const UNORDERED: &str = "$idem::Unordered";

/// Tags that only a compared text has.
const VARIANT: &str = "~variant";
const CHAR: &str = "~char";

/// The beginning of a map that is not written as an object.
const PAIRS: &str = "{\"~map\":[";

type Done = Result<(), Unsuitable>;

/// The text of a value, for a record.
pub(crate) fn stored<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Unsuitable> {
    let text = text(value, Purpose::Storing)?;
    if depth(&text) > MAX_DEPTH {
        return Err(Unsuitable::new(format!("the value nests deeper than {MAX_DEPTH} levels")));
    }
    Ok(text.into_bytes())
}

/// The text of a value, for comparisons. Equal values have the same text, in whatever order a map iterates; different
/// values of serde's data model have different texts. The text is not read back.
pub(crate) fn compared<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Unsuitable> {
    text(value, Purpose::Comparing).map(String::into_bytes)
}

fn text<T: Serialize + ?Sized>(value: &T, purpose: Purpose) -> Result<String, Unsuitable> {
    let mut text = String::new();
    value.serialize(Writer::new(&mut text, purpose))?;
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The text is read back as the type that was written, and read by people.
    Storing,
    /// The texts of equal values are equal: every option and variant differs from the value that it holds, and maps are
    /// sorted.
    Comparing,
}

/// Appends one value.
struct Writer<'t> {
    text: &'t mut String,
    purpose: Purpose,
    /// Whether the value is a sequence whose order does not count.
    is_unordered: bool,
}

impl<'t> Writer<'t> {
    fn new(text: &'t mut String, purpose: Purpose) -> Self {
        Self { text, purpose, is_unordered: false }
    }

    fn is_comparing(&self) -> bool {
        self.purpose == Purpose::Comparing
    }

    fn tagged(&mut self, tag: &str, value: &str) {
        _ = write!(self.text, "{{\"{tag}\":\"{value}\"}}");
    }

    fn string(&mut self, value: &str) -> Done {
        let quoted = serde_json::to_string(value).map_err(|error| Unsuitable::new(error.to_string()))?;
        self.text.push_str(&quoted);
        Ok(())
    }

    fn integer(self, value: impl std::fmt::Display) -> Done {
        _ = write!(self.text, "{value}");
        Ok(())
    }

    /// Opens the object or the pair that holds a variant's content. Returns the text that closes it.
    fn variant(&mut self, name: &str) -> Result<&'static str, Unsuitable> {
        let (open, between, close) = if self.is_comparing() {
            (format!("{{\"{VARIANT}\":["), ",", "]}")
        } else if name.starts_with('~') {
            (format!("{PAIRS}["), ",", "]]}")
        } else {
            ("{".to_owned(), ":", "}")
        };
        self.text.push_str(&open);
        self.string(name)?;
        self.text.push_str(between);
        Ok(close)
    }

    fn items(self, close: &'static str) -> Items<'t> {
        self.text.push('[');
        let begin = self.text.len();
        Items {
            text: self.text,
            purpose: self.purpose,
            is_unordered: self.is_unordered,
            begin,
            items: Vec::new(),
            close,
        }
    }

    fn entries(self, close: &'static str) -> Entries<'t> {
        Entries { text: self.text, purpose: self.purpose, key: String::new(), entries: Vec::new(), close }
    }
}

/// Whether JSON's own text of `Some(value)` would be read as another value.
fn hides_some(value: &str) -> bool {
    let tag = value.strip_prefix("{\"").unwrap_or_default();
    value == "null" || tag.starts_with(SOME) || tag.starts_with(UNIT)
}

impl<'t> ser::Serializer for Writer<'t> {
    type Ok = ();
    type Error = Unsuitable;
    type SerializeSeq = Items<'t>;
    type SerializeTuple = Items<'t>;
    type SerializeTupleStruct = Items<'t>;
    type SerializeTupleVariant = Items<'t>;
    type SerializeMap = Entries<'t>;
    type SerializeStruct = Entries<'t>;
    type SerializeStructVariant = Entries<'t>;

    fn serialize_bool(self, value: bool) -> Done {
        self.text.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Done {
        self.integer(value)
    }

    fn serialize_i16(self, value: i16) -> Done {
        self.integer(value)
    }

    fn serialize_i32(self, value: i32) -> Done {
        self.integer(value)
    }

    fn serialize_i64(self, value: i64) -> Done {
        self.integer(value)
    }

    fn serialize_i128(self, value: i128) -> Done {
        self.integer(value)
    }

    fn serialize_u8(self, value: u8) -> Done {
        self.integer(value)
    }

    fn serialize_u16(self, value: u16) -> Done {
        self.integer(value)
    }

    fn serialize_u32(self, value: u32) -> Done {
        self.integer(value)
    }

    fn serialize_u64(self, value: u64) -> Done {
        self.integer(value)
    }

    fn serialize_u128(self, value: u128) -> Done {
        self.integer(value)
    }

    fn serialize_f32(mut self, value: f32) -> Done {
        if value.is_nan() && value.to_bits() != f32::NAN.to_bits() {
            self.tagged(F32, &format!("NaN:{:08x}", value.to_bits()));
        } else if !value.is_finite() || self.is_comparing() {
            self.tagged(F32, &format!("{value:?}"));
        } else {
            // A reader that buffers the value reads the text as an `f64`, which rounds twice. If that would give
            // another float, the text is the float's exact value.
            let short = format!("{value:?}");
            let is_exact = short.parse::<f64>().is_ok_and(|read| (read as f32).to_bits() == value.to_bits());
            self.text.push_str(&if is_exact { short } else { format!("{:?}", f64::from(value)) });
        }
        Ok(())
    }

    fn serialize_f64(mut self, value: f64) -> Done {
        if value.is_nan() && value.to_bits() != f64::NAN.to_bits() {
            self.tagged(F64, &format!("NaN:{:016x}", value.to_bits()));
        } else if value.is_finite() {
            // The shortest text that is read as this float and no other. It has a point or an exponent.
            _ = write!(self.text, "{value:?}");
        } else {
            self.tagged(F64, &format!("{value:?}"));
        }
        Ok(())
    }

    fn serialize_char(mut self, value: char) -> Done {
        if !self.is_comparing() {
            return self.string(value.encode_utf8(&mut [0; 4]));
        }
        _ = write!(self.text, "{{\"{CHAR}\":{}}}", u32::from(value));
        Ok(())
    }

    fn serialize_str(mut self, value: &str) -> Done {
        self.string(value)
    }

    fn serialize_bytes(mut self, value: &[u8]) -> Done {
        let mut digits = String::with_capacity(2 * value.len());
        value.iter().for_each(|byte| _ = write!(digits, "{byte:02x}"));
        self.tagged(BYTES, &digits);
        Ok(())
    }

    fn serialize_none(self) -> Done {
        self.text.push_str("null");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        let (begin, is_comparing) = (self.text.len(), self.is_comparing());
        value.serialize(Writer { text: self.text, purpose: self.purpose, is_unordered: self.is_unordered })?;
        if is_comparing || hides_some(&self.text[begin..]) {
            self.text.insert_str(begin, &format!("{{\"{SOME}\":"));
            self.text.push('}');
        }
        Ok(())
    }

    fn serialize_unit(self) -> Done {
        _ = write!(self.text, "{{\"{UNIT}\":null}}");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        self.serialize_unit()
    }

    fn serialize_unit_variant(mut self, _: &'static str, _: u32, variant: &'static str) -> Done {
        if !self.is_comparing() {
            return self.string(variant);
        }
        _ = write!(self.text, "{{\"{VARIANT}\":[");
        self.string(variant)?;
        self.text.push_str("]}");
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Done {
        let is_unordered = self.is_unordered || name == UNORDERED && self.is_comparing();
        value.serialize(Self { is_unordered, ..self })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        let close = self.variant(variant)?;
        value.serialize(Writer::new(self.text, self.purpose))?;
        self.text.push_str(close);
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'t>, Unsuitable> {
        Ok(self.items(""))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'t>, Unsuitable> {
        Ok(self.items(""))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'t>, Unsuitable> {
        Ok(self.items(""))
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'t>, Unsuitable> {
        let close = self.variant(variant)?;
        Ok(self.items(close))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'t>, Unsuitable> {
        Ok(self.entries(""))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries<'t>, Unsuitable> {
        Ok(self.entries(""))
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Entries<'t>, Unsuitable> {
        let close = self.variant(variant)?;
        Ok(self.entries(close))
    }
}

/// The items of a sequence.
struct Items<'t> {
    text: &'t mut String,
    purpose: Purpose,
    is_unordered: bool,
    /// The beginning of the first item.
    begin: usize,
    /// The end of each item, if the order does not count.
    items: Vec<usize>,
    close: &'static str,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        if self.text.len() > self.begin {
            self.text.push(',');
        }
        value.serialize(Writer::new(self.text, self.purpose))?;
        if self.is_unordered {
            self.items.push(self.text.len());
        }
        Ok(())
    }

    fn close(self) -> Done {
        if self.is_unordered {
            let begins = std::iter::once(self.begin).chain(self.items.iter().map(|end| end + 1));
            let mut items: Vec<_> =
                begins.zip(&self.items).map(|(begin, end)| self.text[begin..*end].to_owned()).collect();
            items.sort_unstable();
            self.text.truncate(self.begin);
            self.text.push_str(&items.join(","));
        }
        self.text.push(']');
        self.text.push_str(self.close);
        Ok(())
    }
}

/// The entries of a map or the fields of a struct. Their form is known only when all of them are there.
struct Entries<'t> {
    text: &'t mut String,
    purpose: Purpose,
    key: String,
    /// The texts of each key and value.
    entries: Vec<(String, String)>,
    close: &'static str,
}

impl Entries<'_> {
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(Writer::new(&mut self.key, self.purpose))
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        let mut text = String::new();
        value.serialize(Writer::new(&mut text, self.purpose))?;
        self.entries.push((mem::take(&mut self.key), text));
        Ok(())
    }

    /// Whether each key is a string that needs no tag, and no key occurs twice.
    fn are_fields(&self) -> bool {
        let mut names = HashSet::with_capacity(self.entries.len());
        let is_name = |key: &str| key.starts_with('"') && !key.starts_with("\"~");
        self.entries.iter().all(|(key, _)| is_name(key) && names.insert(key.as_str()))
    }

    fn close(mut self) -> Done {
        if self.purpose == Purpose::Comparing {
            self.entries.sort_unstable();
        }
        let are_fields = self.purpose == Purpose::Storing && self.are_fields();
        let [open, before, between, after, end] = match are_fields {
            true => ["{", "", ":", "", "}"],
            false => [PAIRS, "[", ",", "]", "]}"],
        };
        self.text.push_str(open);
        for (at, (key, value)) in self.entries.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            for part in [comma, before, key, between, value, after] {
                self.text.push_str(part);
            }
        }
        self.text.push_str(end);
        self.text.push_str(self.close);
        Ok(())
    }
}

macro_rules! items {
    ($($name:ident $method:ident),*) => {$(
        impl $name for Items<'_> {
            type Ok = ();
            type Error = Unsuitable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                self.item(value)
            }

            fn end(self) -> Done {
                self.close()
            }
        }
    )*};
}

items! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

macro_rules! fields {
    ($($name:ident),*) => {$(
        impl $name for Entries<'_> {
            type Ok = ();
            type Error = Unsuitable;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Done {
                self.key(name)?;
                self.value(value)
            }

            fn end(self) -> Done {
                self.close()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Unsuitable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.value(value)
    }

    fn end(self) -> Done {
        self.close()
    }
}
