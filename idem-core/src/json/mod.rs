//! JSON by meaning: one canonical digest for all texts of the same value.
//!
//! Objects are compared as sets of members, arrays in order, strings by their characters, numbers by their exact
//! decimal value (`1`, `1.0` and `1e0` are one number; 9007199254740993 is not 9007199254740992). White space does not
//! count. Text that is not JSON, holds one object key twice, nests deeper than [`MAX_DEPTH`] or has 4 GiB has no
//! canonical form.
//!
//! The text is read twice: once for its [`Outline`], once for the digest. No tree is built, since a client chooses how
//! many values a body has: the memory is bounded by the length of the text ([`Outline`] says how).

mod decimal;
mod outline;
mod reader;

use sha2::{Digest, Sha256};

use decimal::Decimal;
use outline::Outline;
pub(crate) use reader::Reader;

/// Deeper values are not compared by meaning: the reader recurses, and a request must not exhaust its stack.
const MAX_DEPTH: usize = 128;

/// The digest of the value's meaning, or `None` if it has no canonical form.
pub(crate) fn digest(text: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(text).ok()?;
    let outline = Outline::of(text)?;
    let mut digest = Sha256::new();
    let mut writer = Writer { outline: &outline, text: Reader::new(text), containers: 0, digest: &mut digest };
    writer.value()?;
    Some(digest.finalize().into())
}

/// Digests the values of a text one after another.
struct Writer<'t, 'd> {
    outline: &'d Outline<'t>,
    /// The text from the next value on.
    text: Reader<'t>,
    /// The number of containers before the next value.
    containers: usize,
    digest: &'d mut Sha256,
}

impl<'t> Writer<'t, '_> {
    /// Writes a type letter, a length and the parts, so that no two values write the same bytes.
    fn value(&mut self) -> Option<()> {
        self.text.skip_space();
        match self.text.peek()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.string(b"s"),
            b'-' | b'0'..=b'9' => {
                let number = self.text.number()?;
                self.number(number);
                Some(())
            }
            _ => {
                let word = self.text.literal()?;
                self.head(b"l", word.len());
                self.digest.update(word);
                Some(())
            }
        }
    }

    fn head(&mut self, letter: &[u8], length: usize) {
        self.digest.update(letter);
        self.digest.update((length as u64).to_be_bytes());
    }

    fn number(&mut self, text: &str) {
        let Some(Decimal { is_negative, digits: [before, after], exponent }) = Decimal::of(text) else {
            self.head(b"w", text.len());
            self.digest.update(text);
            return;
        };
        self.head(b"n", before.len() + after.len());
        self.digest.update(before);
        self.digest.update(after);
        self.digest.update([u8::from(is_negative)]);
        self.digest.update(exponent.to_be_bytes());
    }

    /// A string, or the key of a member, which needs no letter. An escape is digested as the character that it stands
    /// for.
    fn string(&mut self, letter: &[u8]) -> Option<()> {
        let length = { self.text }.skip_string()?;
        self.head(letter, length);
        self.text.expect(b'"')?;
        while let Some(piece) = self.text.piece()? {
            self.digest.update(piece.as_bytes());
        }
        Some(())
    }

    fn array(&mut self) -> Option<()> {
        let length = self.outline.length(self.containers);
        self.containers += 1;
        self.head(b"a", length);
        self.text.expect(b'[')?;
        for at in 0..length {
            if at > 0 {
                self.text.skip_space();
                self.text.expect(b',')?;
            }
            self.value()?;
        }
        self.text.skip_space();
        self.text.expect(b']')
    }

    /// The members sorted by key. Afterwards the text continues after the member that was written last.
    fn object(&mut self) -> Option<()> {
        let members = self.outline.members(self.containers);
        self.containers += 1;
        self.head(b"o", members.len());
        self.text.expect(b'{')?;
        let mut end = (self.text, self.containers);
        for member in members {
            self.text.go_to(member.key as usize);
            self.string(b"")?;
            self.text.go_to(member.value as usize);
            self.containers = member.containers as usize;
            self.value()?;
            if self.text.position() > end.0.position() {
                end = (self.text, self.containers);
            }
        }
        (self.text, self.containers) = end;
        self.text.skip_space();
        self.text.expect(b'}')
    }
}

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
