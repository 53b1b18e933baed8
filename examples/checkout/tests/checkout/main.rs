//! The shop from outside: as a process that gets requests and signals, beside a provider that is one, too.

#[cfg(all(feature = "postgres", target_os = "linux"))]
mod clocks;
#[cfg(unix)]
mod holders;
mod kills;
mod orders;
mod shop;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[path = "../../src/database.rs"]
#[allow(dead_code, unused_imports)]
mod database;

#[path = "../../src/standin.rs"]
#[allow(dead_code)]
mod standin;

/// The demo's own means: a database for each test, programs, a client.
#[path = "../../src/demo"]
#[allow(dead_code)]
mod demo {
    pub(crate) mod client;
    pub(crate) mod halt;
    pub(crate) mod program;
    pub(crate) mod scratch;
}
