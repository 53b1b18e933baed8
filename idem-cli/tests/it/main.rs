//! The command as a person runs it: its words, its exit codes, and what it leaves in the database.
//!
//! Postgres is the server that `IDEM_TEST_POSTGRES` names; `cargo xtask test` starts one.
#![allow(missing_docs, unreachable_pub)]

#[macro_use]
mod support;

// Parts of the command that need no database.
#[allow(dead_code)]
#[path = "../../src/confirm.rs"]
mod confirm;
#[allow(dead_code)]
#[path = "../../src/exit.rs"]
mod exit;
#[allow(dead_code)]
#[path = "../../src/failure.rs"]
mod failure;
#[allow(dead_code)]
#[path = "../../src/text.rs"]
mod text;

mod changes;
mod doctor;
mod doctor_on_postgres;
mod exits;
mod index;
mod looks;
mod words;
