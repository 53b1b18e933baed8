//! Text as a terminal may see it, and the questions.

use crate::confirm::asks;
use crate::exit;
use crate::text::{duration, printable, printable_json, table, time};

#[test]
fn r37a_only_yes_is_a_yes() {
    for (typed, is_yes) in
        [("y\n", true), ("YES\n", true), (" yes \n", true), ("\n", false), ("", false), ("n\n", false), ("yo\n", false)]
    {
        let mut asked = Vec::new();
        assert_eq!(asks("Go on?", &mut typed.as_bytes(), &mut asked), is_yes, "{typed:?}");
        assert_eq!(asked, b"Go on? [y/N] ");
    }
}

#[test]
fn r34_nothing_steers_a_terminal() {
    for (text, shown) in [
        ("ada", "ada"),
        ("[\"t1\",\"7\"]", "[\"t1\",\"7\"]"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
        ("a\r\nb\t\0", "a\\r\\nb\\t\\0"),
        ("\u{202e}evil\u{200b}", "\\u{202e}evil\\u{200b}"),
        ("\\u{1b}", "\\\\u{1b}"),
        ("Zoë 漢字", "Zoë 漢字"),
        ("\u{9b}31m", "\\u{9b}31m"),
    ] {
        assert_eq!(printable(text), shown, "{text:?}");
    }
}

#[test]
fn columns_are_aligned_and_without_blanks_at_their_ends() {
    let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
    let table = table(&["state", "scope"], &[row(["held", "ada"]), row(["abandoned", "a\nb"])]);
    assert_eq!(table, "state      scope\nheld       ada\nabandoned  a\\nb\n");
}

#[test]
fn a_time_that_no_calendar_has_is_a_word() {
    for (microseconds, shown) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_764_412_800_999_999, "2025-11-29T10:40:00Z"),
        (i64::MAX, "never"),
        (-1, "before 1970"),
        (i64::MIN, "before 1970"),
    ] {
        assert_eq!(time(microseconds), shown);
    }
    assert_eq!(duration(std::time::Duration::from_millis(3_725_999)), "1h 2m 5s");
}

#[test]
fn the_page_and_the_help_have_each_exit_code() {
    let page = include_str!("../../../idem-core/docs/operating.md");
    let help = exit::help();
    let codes: Vec<&str> = help.split("Exit codes:\n").nth(1).expect("codes").lines().collect();
    assert_eq!(codes.len(), 15);
    for line in codes {
        let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
        assert!(page.contains(&format!("| {code} |")) && page.contains(&format!("| {meaning} |")), "{line}");
    }
}

#[test]
fn r37a_json_has_no_character_that_steers_a_terminal_and_reads_back() {
    for text in ["order-17", "\u{9b}31mred", "\u{202e}gnp", "\u{e0001}\u{7f}", "caf\u{e9} \\ \"quoted\"", "\u{1b}[2J"] {
        let json = printable_json(&serde_json::json!({ "scope": text }).to_string());
        assert!(json.chars().all(|one| one.is_ascii_graphic() || one.is_alphanumeric() || one == ' '), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["scope"], text);
    }
}
