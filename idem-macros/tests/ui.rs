//! What the compiler says to each mistake.

#[path = "ui/messages.rs"]
mod messages;
#[path = "ui/page.rs"]
mod page;

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/fail/*.rs");
}
