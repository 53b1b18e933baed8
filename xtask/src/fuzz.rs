//! `cargo xtask fuzz`: the fuzz targets, which are tests in modules named `fuzz`, for as long as is asked.

use std::process::ExitCode;

use crate::ci::step;
use crate::{Failure, cargo};

/// Says how many seconds a target takes.
pub(crate) const VARIABLE: &str = "IDEM_FUZZ_SECONDS";

/// In `cargo xtask test`, and so in CI: half a minute in all, on two cores.
pub(crate) const SECONDS_IN_TESTS: &str = "3";

/// Without optimisation, like all tests. A target takes this long for its changed copies of the corpus,
/// and as long for its made-up values; as many targets run at once as there are processors.
pub(crate) fn run(seconds: u32) -> Result<ExitCode, Failure> {
    let words = "test --all-features -p idem-core -p idem-macros --lib fuzz::";
    step("fuzz targets", cargo(words.split(' ')).env(VARIABLE, seconds.to_string()))
}
