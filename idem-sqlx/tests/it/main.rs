//! The rules of the design, each tested on Postgres and on SQLite by the same source.
//!
//! Postgres is the server that `IDEM_TEST_POSTGRES` names; `cargo xtask test` starts one. Every test has a database
//! of its own.
#![allow(missing_docs, unreachable_pub)]

#[macro_use]
mod support;
mod app;
mod client;
mod pay;
mod proxy;
mod script;

mod abandoned;
mod cancel;
mod commit;
mod content;
mod contract;
mod deadlines;
mod disposition;
mod distributed;
mod exhausted;
mod expansion;
mod explain;
mod faults;
mod first_sent;
mod fitness;
mod hang_up;
mod hints;
mod in_an_application;
mod in_flight;
mod index;
mod inherited;
mod key;
mod late;
mod leases;
mod load;
mod messages;
mod migrate;
mod observer;
mod operate;
mod orders;
mod pages;
mod ping;
mod plain;
mod races;
mod reply;
mod request;
mod schema;
mod sealed;
mod silence;
mod spaced;
mod step_ends;
mod steps;
mod stranger;
mod sweep;
mod trace;
mod unavailable;
mod undo;
mod values;
