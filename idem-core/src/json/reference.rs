//! The digest in the plainest way, over a tree of the whole text: the oracle of the tests.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::{Decimal, MAX_DEPTH, Reader};

pub(crate) fn digest(text: &[u8]) -> Option<[u8; 32]> {
    let mut reader = Reader::new(std::str::from_utf8(text).ok()?);
    let tree = value(&mut reader, 0)?;
    reader.is_at_end().then_some(())?;
    let mut digest = Sha256::new();
    tree.write(&mut digest);
    Some(digest.finalize().into())
}

enum Value<'t> {
    /// `null`, `true` and `false`: the text is the value.
    Literal(&'t str),
    /// The text of a number.
    Number(&'t str),
    /// A string with its escapes resolved, as UTF-8 bytes.
    String(Cow<'t, [u8]>),
    Array(Vec<Value<'t>>),
    /// The members sorted by key. No key occurs twice.
    Object(Vec<(Cow<'t, [u8]>, Value<'t>)>),
}

impl Value<'_> {
    /// Writes a type letter, a length and the parts, so that no two values write the same bytes.
    fn write(&self, digest: &mut Sha256) {
        let mut head = |letter: u8, length: usize| {
            digest.update([letter]);
            digest.update((length as u64).to_be_bytes());
        };
        match self {
            Self::Literal(text) => {
                head(b'l', text.len());
                digest.update(text);
            }
            Self::Number(text) => match Decimal::of(text) {
                Some(Decimal { is_negative, digits, exponent }) => {
                    head(b'n', digits.concat().len());
                    digest.update(digits.concat());
                    digest.update([u8::from(is_negative)]);
                    digest.update(exponent.to_be_bytes());
                }
                None => {
                    head(b'w', text.len());
                    digest.update(text);
                }
            },
            Self::String(bytes) => {
                head(b's', bytes.len());
                digest.update(bytes);
            }
            Self::Array(values) => {
                head(b'a', values.len());
                values.iter().for_each(|value| value.write(digest));
            }
            Self::Object(members) => {
                head(b'o', members.len());
                for (key, value) in members {
                    digest.update((key.len() as u64).to_be_bytes());
                    digest.update(key);
                    value.write(digest);
                }
            }
        }
    }
}

fn value<'t>(reader: &mut Reader<'t>, depth: usize) -> Option<Value<'t>> {
    if depth > MAX_DEPTH {
        return None;
    }
    reader.skip_space();
    match reader.peek()? {
        b'{' => object(reader, depth),
        b'[' => array(reader, depth),
        b'"' => reader.string().map(Value::String),
        b'-' | b'0'..=b'9' => reader.number().map(Value::Number),
        _ => ["null", "true", "false"].into_iter().find(|word| reader.eat(word)).map(Value::Literal),
    }
}

fn object<'t>(reader: &mut Reader<'t>, depth: usize) -> Option<Value<'t>> {
    reader.expect(b'{')?;
    let mut members = Vec::new();
    if !reader.eats_after_space(b'}') {
        loop {
            reader.skip_space();
            let key = reader.string()?;
            reader.skip_space();
            reader.expect(b':')?;
            members.push((key, value(reader, depth + 1)?));
            if reader.eats_after_space(b'}') {
                break;
            }
            reader.expect(b',')?;
        }
    }
    members.sort_by(|one, other| one.0.cmp(&other.0));
    // Readers differ on which of two equal keys counts, so the object has no single meaning.
    let twice = members.windows(2).any(|pair| pair[0].0 == pair[1].0);
    (!twice).then_some(Value::Object(members))
}

fn array<'t>(reader: &mut Reader<'t>, depth: usize) -> Option<Value<'t>> {
    reader.expect(b'[')?;
    let mut values = Vec::new();
    if !reader.eats_after_space(b']') {
        loop {
            values.push(value(reader, depth + 1)?);
            if reader.eats_after_space(b']') {
                break;
            }
            reader.expect(b',')?;
        }
    }
    Some(Value::Array(values))
}
