//! Durations as people write them: `"24h"`, `"500ms"`.

use std::time::Duration;

use crate::errors::any_of;

/// The durations that an argument takes.
pub(crate) struct Limits {
    /// The shortest duration, as it is written.
    pub(crate) least: (&'static str, Duration),
    /// The longest duration, as it is written.
    pub(crate) most: (&'static str, Duration),
}

/// How long a record may be replayed. More than ten years is a slip of the unit, or means "for ever".
pub(crate) const TTL: Limits =
    Limits { least: ("1s", Duration::from_secs(1)), most: ("3650d", Duration::from_secs(3650 * DAY)) };

/// How long a duplicate may wait. Proxies and clients give up long before five minutes.
pub(crate) const WAIT: Limits =
    Limits { least: ("1ms", Duration::from_millis(1)), most: ("5m", Duration::from_secs(5 * MINUTE)) };

/// How long a run may take. No lease is renewed for days, and no transaction stays open for hours.
pub(crate) const DEADLINE: Limits =
    Limits { least: ("100ms", Duration::from_millis(100)), most: ("24h", Duration::from_secs(DAY)) };

/// How long a lease may live without a renewal. Below a second, a slow answer loses the lease. Above an hour, no caller
/// waits for the next attempt.
pub(crate) const LEASE: Limits =
    Limits { least: ("1s", Duration::from_secs(1)), most: ("1h", Duration::from_secs(HOUR)) };

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// An example of a duration that would be a fraction, or would need two units, in a larger unit. It is within all
/// limits.
const IN_ONE_UNIT: &str = "`\"90s\"`";

impl Limits {
    /// The duration that this text stands for, or what is wrong with it and what to write.
    pub(crate) fn parse(&self, text: &str) -> Result<Duration, String> {
        let (number, unit) = self.split(text)?;
        let unit = self.unit(number, unit)?;
        // A number that no integer holds is too long in any unit.
        let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        let duration = milliseconds.map_or(Duration::MAX, Duration::from_millis);

        let ((least_text, least), (most_text, most)) = (self.least, self.most);
        if duration < least {
            let what = if duration.is_zero() { "is no time at all" } else { "is too short" };
            return Err(format!("`{text}` {what}\nhelp: write at least `\"{least_text}\"`"));
        }
        if duration > most {
            return Err(format!("`{text}` is too long\nhelp: write at most `\"{most_text}\"`"));
        }
        Ok(duration)
    }

    /// The digits and the text after them.
    fn split<'a>(&self, text: &'a str) -> Result<(&'a str, &'a str), String> {
        let start = text.trim_start();
        let end = start.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(start.len());
        let (number, unit) = start.split_at(end);
        if let Some(positive) = start.strip_prefix('-') {
            return Err(format!("`{text}` is negative\nhelp: {}", self.write([positive])));
        }
        if unit.starts_with(['.', ',']) {
            return Err(format!(
                "`{text}` is no whole number\nhelp: write it in a smaller unit, such as {IN_ONE_UNIT}"
            ));
        }
        if number.is_empty() {
            return Err(format!("`{text}` is no duration\nhelp: {}", self.write([])));
        }
        if unit.contains(|letter: char| letter.is_ascii_digit()) {
            return Err(format!(
                "`{text}` has several units\nhelp: write it in the smallest one, such as {IN_ONE_UNIT}"
            ));
        }
        if text.len() != start.len() {
            return Err(format!("`{text}` begins with a space\nhelp: {}", self.write([text.trim()])));
        }
        Ok((number, unit))
    }

    /// How many milliseconds the unit has.
    fn unit(&self, number: &str, unit: &str) -> Result<u64, String> {
        const SECOND: u64 = 1000;
        let spelt = match unit {
            "ms" => return Ok(1),
            "s" => return Ok(SECOND),
            "m" => return Ok(MINUTE * SECOND),
            "h" => return Ok(HOUR * SECOND),
            "d" => return Ok(DAY * SECOND),
            "w" => return Ok(7 * DAY * SECOND),
            _ => unit.trim().to_lowercase(),
        };
        let meant = match spelt.as_str() {
            "" => return Err(format!("`{number}` has no unit\nhelp: {}", self.in_each_unit(number))),
            "ms" | "millis" | "milliseconds" => "ms",
            "s" | "sec" | "secs" | "second" | "seconds" => "s",
            "m" | "min" | "mins" | "minute" | "minutes" => "m",
            "h" | "hr" | "hrs" | "hour" | "hours" => "h",
            "d" | "day" | "days" => "d",
            "w" | "wk" | "wks" | "week" | "weeks" => "w",
            "mo" | "mon" | "month" | "months" => return Err(self.uneven("a month", number, 30)),
            "y" | "yr" | "yrs" | "year" | "years" => return Err(self.uneven("a year", number, 365)),
            _ => return Err(format!("`{}` is no unit of time\nhelp: {}", unit.trim(), self.in_each_unit(number))),
        };
        let written = format!("{number}{meant}");
        Err(format!("`{}` is no unit of time\nhelp: {}", unit.trim(), self.write([&*written])))
    }

    fn in_each_unit(&self, number: &str) -> String {
        let written = ["ms", "s", "m", "h", "d", "w"].map(|unit| format!("{number}{unit}"));
        self.write(written.iter().map(String::as_str))
    }

    fn uneven(&self, unit: &str, number: &str, days: u64) -> String {
        let days = format!("{}d", number.parse().unwrap_or(1_u64).saturating_mul(days));
        format!("{unit} has no fixed length\nhelp: {}", self.write([&*days]))
    }

    /// What to write: those of these texts that are valid here, or else any valid text.
    fn write<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> String {
        let valid = texts.into_iter().filter(|text| self.parse(text).is_ok());
        let valid = any_of(valid.map(|text| format!("\"{text}\"")));
        match valid.as_str() {
            "" => format!("write a number and a unit, from `\"{}\"` to `\"{}\"`", self.least.0, self.most.0),
            valid => format!("write {valid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LEASE, TTL, WAIT};
    use std::time::Duration;

    use syn::LitStr;

    #[test]
    fn a_number_and_a_unit_make_a_duration() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5_400), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600), ("3650d", 315_360_000)]
        {
            assert_eq!(TTL.parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(WAIT.parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(WAIT.parse("5m"), Ok(Duration::from_secs(300)));
    }

    #[test]
    fn what_is_wrong_is_said_and_what_to_write() {
        for (text, words) in [
            ("", ["is no duration", "`\"1s\"` to `\"3650d\"`"]),
            ("soon", ["is no duration", "`\"1s\"` to `\"3650d\"`"]),
            ("24", ["has no unit", "`\"24h\"`"]),
            ("24 h", ["`h` is no unit", "`\"24h\"`"]),
            (" 24h", ["begins with a space", "`\"24h\"`"]),
            ("24H", ["`H` is no unit", "`\"24h\"`"]),
            ("24hrs", ["`hrs` is no unit", "`\"24h\"`"]),
            ("3 days", ["`days` is no unit", "`\"3d\"`"]),
            ("5x", ["`x` is no unit", "`\"5h\"`"]),
            ("500ms", ["is too short", "`\"1s\"`"]),
            ("0h", ["no time at all", "`\"1s\"`"]),
            ("-1h", ["is negative", "`\"1h\"`"]),
            ("1.5h", ["no whole number", "`\"90s\"`"]),
            ("1h30m", ["several units", "`\"90s\"`"]),
            ("2mo", ["a month has no fixed length", "`\"60d\"`"]),
            ("1y", ["a year has no fixed length", "`\"365d\"`"]),
            ("3651d", ["too long", "`\"3650d\"`"]),
            ("99999999999999999999h", ["too long", "`\"3650d\"`"]),
            ("18446744073709551615w", ["too long", "`\"3650d\"`"]),
        ] {
            let message = TTL.parse(text).expect_err(text);
            for word in words {
                assert!(message.contains(word), "{text}: {message}");
            }
        }
        assert!(WAIT.parse("6m").expect_err("too long").contains("`\"5m\"`"));
        assert!(WAIT.parse("0ms").expect_err("zero").contains("`\"1ms\"`"));
    }

    #[test]
    fn what_is_suggested_can_be_pasted() {
        let numbers = ["", "0", "1", "24", "500", "99999999999999999999", "-1", "--1", " 2", "1.5", "1,5", "1h3"];
        let units = ["", "ms", "millis", "s", " sec", "m", "H", "hrs", "d", "days ", "w", "months", "yr", "x", "."];
        for limits in [TTL, WAIT, LEASE] {
            for text in numbers.iter().flat_map(|number| units.map(|unit| format!("{number}{unit}"))) {
                let Err(message) = limits.parse(&text) else { continue };
                let (_, help) = message.split_once("\nhelp: ").expect("a help");
                let suggested: Vec<_> = help.split('`').skip(1).step_by(2).collect();
                assert!(!suggested.is_empty(), "{text}: {message}");
                for suggested in suggested {
                    let argument: LitStr = syn::parse_str(suggested).expect("a string in quotes");
                    assert!(limits.parse(&argument.value()).is_ok(), "{text}: {message}");
                }
            }
        }
    }
}
