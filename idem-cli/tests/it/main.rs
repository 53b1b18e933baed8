//! The command as a person runs it: its words, its exit codes, and what it leaves in the database.
//!
//! Postgres is the server that `IDEM_TEST_POSTGRES` names; `cargo xtask test` starts one.
#![allow(missing_docs, unreachable_pub)]

#[macro_use]
mod support;

#[allow(dead_code)]
#[path = "../../src/text.rs"]
mod text;

mod changes;
mod doctor;
mod doctor_on_postgres;
mod exits;
mod looks;
mod words;
