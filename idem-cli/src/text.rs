//! Text as a terminal may see it.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// The text with every character escaped that would steer a terminal or hide itself: control characters, changes of
/// direction, characters without a width. A backslash is doubled, so an escape cannot be imitated.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}

/// JSON in which the same characters are escapes. What `serde_json` has not escaped of them is in strings only.
pub(crate) fn printable_json(json: &str) -> String {
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii_graphic() || character == ' ' || character.escape_debug().len() == 1 {
            printable.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(printable, "\\u{unit:04x}");
            }
        }
    }
    printable
}

/// Rows in aligned columns, two spaces apart. Each cell is made printable.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> =
        std::iter::once(&heading).chain(rows).map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// A time of the database, in microseconds since 1970.
pub(crate) fn time(microseconds: i64) -> String {
    /// The end of the year 9999.
    const LAST: u64 = 253_402_300_799_000_000;
    match u64::try_from(microseconds) {
        Ok(time) if time <= LAST => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_micros(time)).to_string()
        }
        Ok(_) => "never".to_owned(),
        Err(_) => "before 1970".to_owned(),
    }
}

/// A duration in whole seconds, as `1h 2m 3s`.
pub(crate) fn duration(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
