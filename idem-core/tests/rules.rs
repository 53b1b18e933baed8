//! `docs/rules.md` and the tests say the same: each promised rule has a test with its number, and each number is a
//! rule.
//!
//! This reads the sources of the whole workspace, so it is no part of the published package (`exclude` in
//! `Cargo.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A rule's number: 12, and then 12a.
type Rule = (u32, String);

#[test]
fn each_promised_rule_has_a_test_with_its_number() {
    let tests = tests();
    for rule in promised() {
        assert!(tests.contains_key(&rule), "no test begins with r{:02}{}_", rule.0, rule.1);
    }
}

#[test]
fn each_test_with_a_number_is_of_a_rule_on_the_page() {
    let rules: BTreeSet<Rule> = promised().into_iter().chain(planned()).collect();
    for (rule, test) in tests() {
        assert!(rules.contains(&rule), "no rule {}{} on the page, for {test}", rule.0, rule.1);
    }
}

#[test]
fn no_number_is_left_out() {
    let rules: BTreeSet<Rule> = promised().into_iter().chain(planned()).collect();
    let numbers: BTreeSet<u32> = rules.iter().map(|(number, _)| *number).collect();
    let last = numbers.last().copied().expect("rules");
    assert!(numbers.iter().copied().eq(1..=last), "{numbers:?}");
}

fn promised() -> Vec<Rule> {
    listed(page().split_once("\n# Planned\n").expect("a section for what is planned").0)
}

fn planned() -> Vec<Rule> {
    listed(page().split_once("\n# Planned\n").expect("a section for what is planned").1)
}

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rules.md")).expect("the page")
}

/// The rules of a list, in their order, none of them twice.
fn listed(text: &str) -> Vec<Rule> {
    let items = text.lines().filter_map(|line| line.strip_prefix("- **")?.split_once(".** "));
    let rules: Vec<Rule> = items.map(|(number, _)| rule(number).expect("a rule's number")).collect();
    assert!(rules.is_sorted_by(|one, next| one < next), "{rules:?}");
    rules
}

/// `12`, `12a` and `07`.
fn rule(text: &str) -> Option<Rule> {
    let letter = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let number = text[..text.len() - letter.len()].parse().ok()?;
    let is_letter = letter.len() <= 1 && letter.bytes().all(|letter| letter.is_ascii_lowercase());
    is_letter.then(|| (number, letter.to_owned()))
}

/// The rules that functions in the workspace are named after, each with one of these functions.
fn tests() -> BTreeMap<Rule, String> {
    let mut tests = BTreeMap::new();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for folder in ["idem-core", "idem-macros", "idem-sqlx", "idem-redis", "idem-cli", "examples"] {
        collect(&workspace.join(folder), &mut tests);
    }
    assert!(!tests.is_empty());
    tests
}

fn collect(folder: &Path, tests: &mut BTreeMap<Rule, String>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, tests);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source file");
            // Inside of a macro, too: `async fn r12_…` stands in its line like any other.
            for function in source.split("fn r").skip(1) {
                let name =
                    function.split(|end: char| !end.is_ascii_alphanumeric() && end != '_').next().unwrap_or_default();
                if let Some(rule) = name.split_once('_').and_then(|(number, _)| rule(number)) {
                    tests.insert(rule, format!("r{name} in {}", path.display()));
                }
            }
        }
    }
}
