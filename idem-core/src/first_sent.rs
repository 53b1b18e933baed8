//! When a client says that it first sent a request.

use std::fmt;
use std::num::NonZeroI64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Kind;
use crate::identity::Key;
use crate::record::Timestamp;

/// When a client says that it first sent a request: the same time on every retry.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use idem_core::{FirstSent, Identity, Fingerprint, Request};
///
/// let identity = Identity::new("inventory", "inventory.reserve", "order-17")?;
/// let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(24 * 60 * 60))?;
/// let request = request.with_first_sent(Some(FirstSent::at(SystemTime::now())));
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// # Rules
/// - A request with such a time begins no run when that time is longer ago than its `ttl`: it may have run, and nothing
///   would know. It is refused as [`Kind::FirstSentTooOld`](crate::Kind::FirstSentTooOld). A finished record that
///   [refuses retries](crate::Then::Refuse) lives for longer, and what is left of a run that did not finish does not.
/// - A time more than [`AHEAD`](Self::AHEAD) in the future is refused as
///   [`Kind::FirstSentInvalid`](crate::Kind::FirstSentInvalid).
/// - Both are decided by the database's clock, in the statement that claims. A request with a record is answered by its
///   record, whatever the time is.
///
/// # Limitations
/// - The client's clock is believed. The retry of a client whose clock is ahead runs again if it comes after the record
///   and within the time by which the clock is ahead, five minutes at most.
/// - Records are kept as long as their own request said. After a release with a longer `ttl`, the time is compared with
///   that one: a retry of a request of the old release can still run again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Microseconds since 1970. Not zero, so that an option of it is as small.
pub struct FirstSent(NonZeroI64);

impl FirstSent {
    /// How far ahead of the database's clock a client's clock may be.
    pub const AHEAD: Duration = Duration::from_secs(5 * 60);

    /// This time. A time before 1970 is as old as 1970.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Self(NonZeroI64::new(micros).unwrap_or(const { NonZeroI64::new(1).unwrap() }))
    }

    /// The time at which the key was made, if it is a UUID of version 7 in its usual form, with hyphens. A key that was
    /// read back from a record has no time.
    #[must_use]
    pub fn of_key(key: &Key) -> Option<Self> {
        key.made_at().map(|milliseconds| Self::at(UNIX_EPOCH + Duration::from_millis(milliseconds)))
    }

    /// The first and the last time, by the store's clock, at which a request may begin to run if its record would be kept
    /// for this long.
    pub(crate) fn window(self, kept: Duration) -> (Timestamp, Timestamp) {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let sent = self.0.get();
        // A record of that time may have expired when it is as old as that.
        let last = sent.saturating_add(micros(kept)).saturating_sub(1);
        (Timestamp(sent.saturating_sub(micros(Self::AHEAD)).max(0)), Timestamp(last))
    }

    /// Why a request may not begin to run at this time, if its record would be kept for this long.
    pub(crate) fn refused_at(self, now: Timestamp, kept: Duration) -> Option<Kind> {
        let (first, last) = self.window(kept);
        if now < first {
            Some(Kind::FirstSentInvalid)
        } else if now > last {
            Some(Kind::FirstSentTooOld)
        } else {
            None
        }
    }
}

/// The time of a key is a part of the key.
impl fmt::Debug for FirstSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstSent(…)")
    }
}

/// The milliseconds since 1970 in a UUID of version 7, if the text is one (RFC 9562, 5.7).
///
/// Only with hyphens: one of sixty-four texts of 32 random hexadecimal digits has the version and the variant by chance.
pub(crate) fn of_uuid(text: &str) -> Option<u64> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let bytes = text.as_bytes();
    let is_uuid = bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match HYPHENS.contains(&at) {
            true => *byte == b'-',
            false => byte.is_ascii_hexdigit(),
        });
    let is_version_7 =
        is_uuid && bytes[14] == b'7' && matches!(bytes[19].to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b');
    if !is_version_7 {
        return None;
    }
    u64::from_str_radix(&format!("{}{}", &text[..8], &text[9..13]), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r36_only_a_uuid_of_version_7_has_a_time() {
        // The example of RFC 9562, A.6: 2022-02-22 19:22:22 UTC.
        let example = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        assert_eq!(of_uuid(example), Some(1_645_557_742_000));
        assert_eq!(of_uuid(&example.to_lowercase()), Some(1_645_557_742_000));
        for other in [
            "017F22E2-79B0-4CC3-98C4-DC0C0C07398F",
            "017F22E2-79B0-7CC3-D8C4-DC0C0C07398F",
            "017F22E2-79B0-7CC3-18C4-DC0C0C07398F",
            "017F22E279B07CC398C4DC0C0C07398F",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398F0",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398G",
            "+17F22E2-79B0-7CC3-98C4-DC0C0C07398F",
            "017F22E2_79B0_7CC3_98C4_DC0C0C07398F",
            "{017F22E2-79B0-7CC3-98C4-DC0C0C0739}",
            "order-17",
            "",
            // 36 bytes, and a letter of two at a boundary.
            "0172222\u{e4}79B0-7CC3-98C4-DC0C0C07398F",
        ] {
            assert_eq!(of_uuid(other), None, "{other}");
        }
    }

    #[test]
    fn r36_a_request_may_begin_from_five_minutes_before_its_time_until_its_record_would_be_gone() {
        let sent = FirstSent::at(UNIX_EPOCH + Duration::from_secs(1_000_000));
        let hour = Duration::from_secs(60 * 60);
        let micro = 1_000_000;
        assert_eq!(
            sent.window(hour),
            (Timestamp((1_000_000 - 300) * micro), Timestamp((1_000_000 + 3_600) * micro - 1))
        );
        // Whatever a client says, nothing overflows.
        let never = FirstSent(NonZeroI64::MAX).window(Duration::MAX);
        assert_eq!(never, (Timestamp(i64::MAX - 300 * micro), Timestamp(i64::MAX - 1)));
        let ever = FirstSent::at(UNIX_EPOCH - hour).window(Duration::from_secs(1));
        assert_eq!(ever, (Timestamp(0), Timestamp(micro)));
    }
}
