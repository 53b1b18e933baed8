//! What the compiler says to a handler that wants a transaction of Redis.

use std::io::Write;
use std::process::Command;

/// The release whose words the reports have.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn r40_the_compiler_says_what_the_fixtures_say() {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("--version").output().expect("a compiler");
    let rustc = String::from_utf8(output.stdout).expect("a version");
    if !rustc.starts_with(RUSTC) || std::env::var_os("RUSTC_BOOTSTRAP").is_some() {
        let said =
            format!("the fixtures in tests/ui are not compared: they have the words of {RUSTC}x, this is {rustc}");
        // Not by `eprintln!`, which nobody sees where a test passes.
        writeln!(std::io::stderr(), "{said}").expect("a line to write");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
