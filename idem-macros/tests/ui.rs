//! What the compiler says to each mistake.

#[path = "ui/messages.rs"]
mod messages;
#[path = "ui/page.rs"]
mod page;

use std::io::Write;
use std::process::Command;

/// The release whose words the reports have. Another one says some things otherwise, in dozens of places that are no
/// mistake.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn the_compiler_says_what_the_fixtures_say() {
    let rustc = rustc();
    // With that variable it does as the nightly one, and underlines more.
    if !rustc.starts_with(RUSTC) || std::env::var_os("RUSTC_BOOTSTRAP").is_some() {
        let said =
            format!("the fixtures in tests/ui/fail are not compared: they have the words of {RUSTC}x, this is {rustc}");
        // Not by `eprintln!`, which nobody sees where a test passes.
        writeln!(std::io::stderr(), "{said}").expect("a line to write");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/fail/*.rs");
    // What a handler meets that wants a transaction of Redis. The page of compile errors has the report of the attribute.
    cases.compile_fail("tests/ui/redis/*.rs");
}

/// The compiler that the fixtures would be compiled by.
fn rustc() -> String {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("--version").output().expect("a compiler");
    String::from_utf8(output.stdout).expect("a version").trim().to_owned()
}
