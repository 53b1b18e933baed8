//! What all reports of the compiler have in common, whoever made the mistake.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Fixtures with several mistakes on purpose, and how many.
const SEVERAL: [(&str, usize); 4] = [
    ("several_mistakes", 5),
    ("mistakes_in_attribute_and_body", 2),
    ("mistakes_in_attribute_and_call", 2),
    // Axum's attribute comes first, and does not know of ours.
    ("debug_handler_above", 2),
];

/// Each fixture's name with its report.
pub(crate) fn reports() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/fail");
    let files = fs::read_dir(folder).expect("the fixtures").map(|file| file.expect("a fixture").path());
    let programs = files.filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    programs
        .map(|program| {
            let name = program.file_stem().expect("a name").to_string_lossy().into_owned();
            let report = fs::read_to_string(program.with_extension("stderr"));
            let report = report.unwrap_or_else(|_| panic!("{name} has no report: run with TRYBUILD=overwrite"));
            (name, report)
        })
        .collect()
}

#[test]
fn there_is_one_fixture_for_each_mistake() {
    let count = reports().len();
    assert!(count >= 40, "{count} fixtures");
}

#[test]
fn each_mistake_is_one_error() {
    for (name, report) in reports() {
        let expected = SEVERAL.iter().find(|(several, _)| *several == name).map_or(1, |(_, errors)| *errors);
        let errors = report.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, expected, "{name}:\n{report}");
    }
}

/// A file that no `mod` mentions would be a test that never runs.
#[test]
fn every_file_that_must_compile_is_compiled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/pass");
    let main = fs::read_to_string(folder.join("main.rs")).expect("the list of them");
    for file in fs::read_dir(folder).expect("the fixtures") {
        let file = file.expect("a fixture").path();
        let name = file.file_stem().expect("a name").to_string_lossy();
        assert!(name == "main" || main.lines().any(|line| line == format!("mod {name};")), "{name} is not in main.rs");
    }
}

/// rustc closes its report of a missing trait by where it is required, which is in our code.
#[test]
fn our_own_names_stand_in_no_report_but_in_its_last_note() {
    for (name, report) in reports() {
        let said = report.split_once("\nnote: required by a bound in").map_or(&*report, |(said, _)| said);
        for ours in ["__idem", "__IDEM", "__private"] {
            assert!(!said.contains(ours), "{name} says `{ours}`:\n{report}");
        }
    }
}

/// What we say, as opposed to rustc, says what to write instead.
#[test]
fn our_own_messages_come_with_a_help() {
    for (name, report) in reports() {
        let ours = report.split("\n\n").filter(|error| error.starts_with("error: ") && !is_rustcs(error));
        for error in ours {
            assert!(error.contains("help: "), "{name}:\n{error}");
        }
    }
}

/// Errors without a code that are not ours.
fn is_rustcs(error: &str) -> bool {
    ["unexpected token", "future cannot be sent", "unused variable", "is never used"]
        .iter()
        .any(|said| error.contains(said))
}
