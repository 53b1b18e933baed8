//! Values as a person reads them.

use std::time::{Duration, UNIX_EPOCH};

use crate::record::Timestamp;

/// The text with its control characters as escapes, and those that turn the direction of text or take no place: they
/// would let one scope look like another. `maud` escapes what means something in HTML.
pub(super) fn text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_hidden(letter) { shown.extend(letter.escape_unicode()) } else { shown.push(letter) }
    }
    shown
}

fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
}

/// A scope: the one that all callers share is empty.
pub(super) fn scope(scope: &str) -> String {
    if scope.is_empty() { "(global)".to_owned() } else { text(scope) }
}

/// The time in UTC, to the second.
pub(super) fn time(time: Timestamp) -> String {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(time.0).unwrap_or(0) / 1_000_000;
    if seconds > LAST {
        return "never".to_owned();
    }
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// How long ago that was, in its largest two units.
pub(super) fn since(time: Timestamp, now: Timestamp) -> String {
    duration(Duration::from_micros(u64::try_from(now.0.saturating_sub(time.0)).unwrap_or(0)))
}

/// The duration in its largest two units, and never shorter than a second.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = Duration::from_secs(duration.as_secs().max(1));
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r37_times_are_shown_to_the_second_and_hidden_letters_as_escapes() {
        assert_eq!(time(Timestamp(1_764_412_215_999_999)), "2025-11-29 10:30:15 UTC");
        assert_eq!(time(Timestamp(-1)), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(Timestamp(i64::MAX)), "never");
        assert_eq!(since(Timestamp(0), Timestamp(3_725_000_000)), "1h 2m");
        assert_eq!(since(Timestamp(5), Timestamp(0)), "1s");
        assert_eq!(text("a\u{202e}b\0\n\u{1b}é"), "a\\u{202e}b\\u{0}\\u{a}\\u{1b}é");
        assert_eq!(scope(""), "(global)");
    }
}
