//! A reader of JSON text.

use std::borrow::Cow;

/// A reader of RFC 8259 text. Every method returns `None` if the text is not JSON.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn go_to(&mut self, position: usize) {
        self.at = position;
    }

    /// `null`, `true` or `false`.
    pub(super) fn literal(&mut self) -> Option<&'static str> {
        ["null", "true", "false"].into_iter().find(|word| self.eat(word))
    }

    /// A string with its escapes resolved.
    pub(crate) fn string(&mut self) -> Option<Cow<'t, [u8]>> {
        self.expect(b'"')?;
        let mut bytes = Cow::Borrowed([].as_slice());
        while let Some(piece) = self.piece()? {
            match piece {
                Piece::Plain(plain) if bytes.is_empty() => bytes = Cow::Borrowed(plain),
                piece => bytes.to_mut().extend_from_slice(piece.as_bytes()),
            }
        }
        Some(bytes)
    }

    /// Skips a string. Returns its length with its escapes resolved.
    pub(super) fn skip_string(&mut self) -> Option<usize> {
        self.expect(b'"')?;
        let mut length = 0;
        while let Some(piece) = self.piece()? {
            length += piece.as_bytes().len();
        }
        Some(length)
    }

    /// The next bytes of a string that was entered: all up to the next escape, or one escape. `Some(None)` if the
    /// string ends here, and was left.
    pub(super) fn piece(&mut self) -> Option<Option<Piece<'t>>> {
        let rest = &self.text.as_bytes()[self.at..];
        // The search stops at a quote at the latest, or this is no JSON.
        let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
        if plain > 0 {
            self.at += plain;
            return Some(Some(Piece::Plain(&rest[..plain])));
        }
        match self.next()? {
            b'"' => Some(None),
            b'\\' => self.escape().map(|character| Some(Piece::escaped(character))),
            _ => None,
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            plain @ (b'"' | b'\\' | b'/') => char::from(plain),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        // Half of a surrogate pair alone is no character.
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return None;
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
    }

    pub(crate) fn number(&mut self) -> Option<&'t str> {
        let start = self.at;
        self.eat("-");
        if !self.eat("0") {
            self.digits()?;
        }
        if self.eat(".") {
            self.digits()?;
        }
        if self.eat("e") || self.eat("E") {
            let _sign = self.eat("+") || self.eat("-");
            self.digits()?;
        }
        Some(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    pub(crate) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    pub(crate) fn eats_after_space(&mut self, byte: u8) -> bool {
        self.skip_space();
        self.expect(byte).is_some()
    }

    pub(crate) fn eat(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// A part of a string.
#[derive(Clone, Copy)]
pub(super) enum Piece<'t> {
    /// Bytes as they stand in the text.
    Plain(&'t [u8]),
    /// The character of an escape, and its length in bytes.
    Escaped([u8; 4], usize),
}

impl Piece<'_> {
    fn escaped(character: char) -> Self {
        let mut bytes = [0; 4];
        let length = character.encode_utf8(&mut bytes).len();
        Self::Escaped(bytes, length)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Escaped(bytes, length) => &bytes[..*length],
        }
    }
}
