//! The page "What the compiler tells you", in `idem-core/docs/compiler.md`: all that it quotes is what the fixtures'
//! reports say, and no fixture is left out.
//!
//! `OVERWRITE=1 cargo test -p idem-macros --test ui` writes the quotations anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use crate::messages::reports;

#[test]
fn the_page_says_what_the_compiler_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../idem-core/docs/compiler.md");
    let page = fs::read_to_string(&path).expect("the page");
    let reports = reports();
    let expected = quoted_anew(&page, &reports);
    if env::var_os("OVERWRITE").is_some() {
        fs::write(&path, &expected).expect("a page to write");
    }
    let page = fs::read_to_string(&path).expect("the page");
    for (line, expected) in page.lines().zip(expected.lines()) {
        assert_eq!(line, expected, "the page says otherwise: read the difference, then run with OVERWRITE=1");
    }
    assert_eq!(page.lines().count(), expected.lines().count());

    for name in reports.keys() {
        let mentioned = marked(&page).any(|(_, names)| names.contains(&name.as_str()));
        assert!(mentioned, "{name} is in no table of the page");
    }
}

/// What stands behind a marker: `<!-- report: name -->` a whole report, `<!-- table: name … -->` a line for the first
/// error of each, `<!-- last: name … -->` for the last one, which is rustc's where there are ours, too, and `<!--
/// alike: name … -->` nothing, since it would be the report above once more.
fn marker(line: &str) -> Option<(&str, Vec<&str>)> {
    let (kind, names) = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?.split_once(": ")?;
    Some((kind, names.split(' ').collect()))
}

fn marked(page: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    page.lines().filter_map(marker)
}

/// The page with each quotation behind its marker, as the reports have it today.
fn quoted_anew(page: &str, reports: &BTreeMap<String, String>) -> String {
    let report =
        |name: &str| reports.get(name).unwrap_or_else(|| panic!("the page mentions {name}, which is no fixture"));
    let mut anew = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        anew += &format!("{line}\n");
        let Some((kind, names)) = marker(line) else { continue };
        if kind == "alike" {
            continue;
        }
        // The old quotation goes, up to the empty line or the fence behind it.
        let is_over = |line: &str| if kind == "report" { line == "```" } else { line.is_empty() };
        let mut old = lines.by_ref().take_while(|line| !is_over(line));
        if kind == "report" {
            assert_eq!(old.next(), Some("```text"), "behind {line}");
        }
        old.for_each(drop);
        anew += &match kind {
            "report" => names.iter().map(|name| format!("```text\n{}\n```\n", report(name).trim_end())).collect(),
            "table" => table(names.iter().filter_map(|name| errors(report(name)).next()).map(Said::of)),
            "last" => table(names.iter().filter_map(|name| errors(report(name)).last()).map(Said::of)),
            other => panic!("a marker is a `report`, a `table`, `last` or `alike`, and not `{other}`"),
        };
    }
    anew
}

fn table(rows: impl Iterator<Item = Said>) -> String {
    let rows = rows.map(|said| format!("| `{}` | {} | {} |\n", said.underlined, said.message, said.help));
    format!("| underlined | said | what to write |\n|---|---|---|\n{}\n", rows.collect::<String>())
}

/// The errors of a report, or what it denies.
fn errors(report: &str) -> impl Iterator<Item = &str> {
    report.split("\n\n").filter(|said| said.starts_with("error"))
}

/// An error, in one line.
struct Said {
    underlined: String,
    message: String,
    help: String,
}

impl Said {
    fn of(error: &str) -> Self {
        let (_, message) = error.lines().next().and_then(|line| line.split_once(": ")).expect("an error");
        let helps = error.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("help: ").or_else(|| line.strip_prefix("= note: ")).filter(|said| !is_rustcs(said))
        });
        let helps: Vec<_> = helps.collect();
        let help = if helps.is_empty() { "–".to_owned() } else { helps.join("; ") };
        Self { underlined: underlined(error), message: message.to_owned(), help }
    }
}

/// What rustc adds to anybody's message.
fn is_rustcs(said: &str) -> bool {
    [
        "the trait `",
        "the following other types",
        "this error originates",
        "required for",
        "consider ",
        "a field with",
        "expected mutable reference",
        "Function argument is",
    ]
    .iter()
    .any(|begin| said.starts_with(begin))
        || said.contains("redundant requirement")
}

/// The tokens above the first carets.
fn underlined(error: &str) -> String {
    let lines: Vec<_> = error.lines().collect();
    let at = lines.iter().position(|line| line.contains('^')).expect("something underlined");
    let carets = lines[at].chars().position(|letter| letter == '^').unwrap_or_default();
    let count = lines[at].chars().skip(carets).take_while(|letter| *letter == '^').count();
    let source =
        lines[..at].iter().rev().find(|line| line.starts_with(|first: char| first.is_ascii_digit() || first == ' '));
    let source = source.expect("a line of the program");
    // One that goes on over several lines is told by its first.
    match source.chars().skip(carets).take(count).collect::<String>().trim() {
        "" => "…".to_owned(),
        tokens => tokens.to_owned(),
    }
}
