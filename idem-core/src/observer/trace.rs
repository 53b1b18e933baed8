//! The trace of a request, as its client or a proxy has named it.

use std::fmt;

/// The place of a request in a trace: the header `traceparent` of
/// [W3C Trace Context](https://www.w3.org/TR/trace-context/).
///
/// ```
/// use idem_core::observer::TraceParent;
///
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let traced = TraceParent::parse(header).expect("well formed");
/// assert_eq!(traced.flags(), 1);
/// assert_eq!(traced.to_string(), header);
/// assert_eq!(TraceParent::parse("order-17"), None);
/// ```
///
/// A layer for OpenTelemetry makes a link of the three parts.
///
/// # Rules
/// - The text has 55 characters, and its digits are in lower case. Neither id is zero. The version is any but `ff`, and
///   it is written as `00`.
/// - Nothing but the two ids and the flags is kept, so it cannot carry other content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads the header's value. `None`: it is not well formed, and counts as if it was not there.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 55 || [2, 35, 52].iter().any(|dash| bytes[*dash] != b'-') {
            return None;
        }
        let [version] = digits(&bytes[..2])?;
        let (trace_id, parent_id) = (digits(&bytes[3..35])?, digits(&bytes[36..52])?);
        let [flags] = digits(&bytes[53..])?;
        let is_valid = version != 0xff && trace_id != [0; 16] && parent_id != [0; 8];
        is_valid.then_some(Self { trace_id, parent_id, flags })
    }

    /// The id of the trace.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the span that has sent the request.
    #[must_use]
    pub const fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// The flags: bit 0 says that the sender may have recorded the trace.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }
}

/// Twice as many digits as bytes.
fn digits<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, flags } = self;
        let (trace_id, parent_id) = (u128::from_be_bytes(*trace_id), u64::from_be_bytes(*parent_id));
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{flags:02x}")
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn r34_a_traceparent_has_two_ids_and_flags() {
        let traced = TraceParent::parse(HEADER).expect("well formed");
        assert_eq!((traced.trace_id()[0], traced.trace_id()[15], traced.flags()), (0x4b, 0x36, 1));
        assert_eq!((traced.parent_id()[1], traced.parent_id()[7]), (0xf0, 0xb7));
        assert_eq!((traced.to_string(), format!("{traced:?}")), (HEADER.to_owned(), HEADER.to_owned()));
        let later = TraceParent::parse(&HEADER.replacen("00", "cc", 1));
        assert_eq!(later, Some(traced), "a later version has the same parts");
    }

    #[test]
    fn r34_a_traceparent_that_is_not_well_formed_is_none() {
        let zero_trace = format!("00-{:032}-00f067aa0ba902b7-01", 0);
        let zero_parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016}-01", 0);
        for text in [
            "",
            "order-17",
            &HEADER[..54],
            &format!("{HEADER}-"),
            &HEADER.to_uppercase(),
            &HEADER.replacen("00", "ff", 1),
            &HEADER.replacen('-', "_", 1),
            &HEADER.replacen("4b", "+b", 1),
            &HEADER.replacen("4bf9", "é9", 1),
            &zero_trace,
            &zero_parent,
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn r34_no_text_panics_and_a_traceparent_is_read_back(text in "\\PC{0,60}", trace in 1_u128.., span in 1_u64.., flags: u8) {
            _ = TraceParent::parse(&text);
            let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            let traced = TraceParent::parse(&text).expect("well formed");
            prop_assert_eq!(traced.to_string(), text);
        }
    }
}
