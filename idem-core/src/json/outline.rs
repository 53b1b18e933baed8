//! The outline of a text: what the digest has to know before it reaches it.

use std::cmp::Ordering;
use std::ops::Range;

use super::MAX_DEPTH;
use super::reader::{Piece, Reader};

/// The lengths of all arrays and objects of a text, and the members of its objects in the order of their keys.
///
/// Strings and numbers stay in the text; the outline has their positions. So its size is bounded by the text: a
/// container takes 4 bytes, and 2 bytes of text; a member takes 16 bytes, and 5 bytes of text. That is at most 5.2
/// bytes for each byte of text, whatever the text.
pub(super) struct Outline<'t> {
    text: &'t str,
    /// The number of elements or members of each container, in the order in which the containers begin.
    lengths: Vec<u32>,
    /// The members of all objects, sorted by object and key.
    members: Vec<Member>,
}

/// A member of an object.
pub(super) struct Member {
    /// The object, by its place in `lengths`.
    object: u32,
    /// Where the quote before its key stands in the text.
    pub(super) key: u32,
    /// Where its value begins in the text.
    pub(super) value: u32,
    /// The number of containers before its value.
    pub(super) containers: u32,
}

impl<'t> Outline<'t> {
    /// Returns `None` if the text has no canonical form.
    pub(super) fn of(text: &'t str) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        // Room for all, at once: a vector that grows takes up to three times its content.
        let (mut containers, mut colons) = (0, 0);
        for byte in text.bytes() {
            match byte {
                b'[' | b'{' => containers += 1,
                b':' => colons += 1,
                _ => {}
            }
        }
        let lengths = Vec::with_capacity(containers.min(text.len() / 2));
        let members = Vec::with_capacity(colons.min(text.len() / 5));

        let mut scan = Scan { text: Reader::new(text), outline: Self { text, lengths, members } };
        scan.value(0)?;
        scan.text.is_at_end().then_some(())?;
        scan.outline.sorted()
    }

    /// Sorts the members. Returns `None` if an object has one key twice: readers differ on which of the two counts, so
    /// the object has no single meaning.
    fn sorted(mut self) -> Option<Self> {
        let text = Reader::new(self.text);
        let order = |one: &Member, other: &Member| {
            one.object.cmp(&other.object).then_with(|| order_of_keys(text, one.key, other.key))
        };
        // Unstable, since a stable sort takes memory.
        self.members.sort_unstable_by(order);
        let twice = self.members.windows(2).any(|pair| order(&pair[0], &pair[1]) == Ordering::Equal);
        (!twice).then_some(self)
    }

    /// The number of elements or members of a container.
    pub(super) fn length(&self, container: usize) -> usize {
        self.lengths[container] as usize
    }

    /// The members of an object in the order of their keys.
    pub(super) fn members(&self, object: usize) -> &[Member] {
        let first = self.members.partition_point(|member| (member.object as usize) < object);
        let range: Range<usize> = first..first + self.length(object);
        &self.members[range]
    }
}

/// The order of two keys by their bytes, once their escapes are resolved.
fn order_of_keys(text: Reader<'_>, one: u32, other: u32) -> Ordering {
    let [mut one, mut other] = [one, other].map(|key| Rest::of_string(text, key as usize));
    loop {
        let (bytes, others) = (one.bytes(), other.bytes());
        let common = bytes.len().min(others.len());
        if common == 0 {
            return bytes.len().cmp(&others.len());
        }
        match bytes[..common].cmp(&others[..common]) {
            Ordering::Equal => {
                one.skip(common);
                other.skip(common);
            }
            order => return order,
        }
    }
}

/// The rest of a string.
struct Rest<'t> {
    text: Reader<'t>,
    piece: Piece<'t>,
    /// How much of the piece was skipped.
    skipped: usize,
}

impl<'t> Rest<'t> {
    fn of_string(mut text: Reader<'t>, quote: usize) -> Self {
        text.go_to(quote + 1);
        Self { text, piece: Piece::Plain(&[]), skipped: 0 }
    }

    /// The next bytes. They are empty at the end of the string only.
    fn bytes(&mut self) -> &[u8] {
        if self.skipped == self.piece.as_bytes().len() {
            self.piece = self.text.piece().flatten().unwrap_or(Piece::Plain(&[]));
            self.skipped = 0;
        }
        &self.piece.as_bytes()[self.skipped..]
    }

    fn skip(&mut self, count: usize) {
        self.skipped += count;
    }
}

/// Reads a text for its outline.
struct Scan<'t> {
    text: Reader<'t>,
    outline: Outline<'t>,
}

impl Scan<'_> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.text.skip_space();
        match self.text.peek()? {
            b'{' => self.container(b'{', b'}', |scan, object| scan.member(object, depth + 1)),
            b'[' => self.container(b'[', b']', |scan, _| scan.value(depth + 1)),
            b'"' => self.text.skip_string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.text.number().map(|_| ()),
            _ => self.text.literal().map(|_| ()),
        }
    }

    fn container(&mut self, open: u8, close: u8, mut part: impl FnMut(&mut Self, u32) -> Option<()>) -> Option<()> {
        self.text.expect(open)?;
        let container = self.outline.lengths.len();
        self.outline.lengths.push(0);
        if self.text.eats_after_space(close) {
            return Some(());
        }
        loop {
            part(self, container as u32)?;
            self.outline.lengths[container] += 1;
            if self.text.eats_after_space(close) {
                return Some(());
            }
            self.text.expect(b',')?;
        }
    }

    fn member(&mut self, object: u32, depth: usize) -> Option<()> {
        self.text.skip_space();
        let key = self.text.position() as u32;
        self.text.skip_string()?;
        self.text.skip_space();
        self.text.expect(b':')?;
        self.text.skip_space();
        let (value, containers) = (self.text.position() as u32, self.outline.lengths.len() as u32);
        self.outline.members.push(Member { object, key, value, containers });
        self.value(depth)
    }
}
