//! Two shops whose clocks are ten minutes apart: the database's clock says whose lease has ended.
//!
//! On SQLite there is nothing to show: its clock is that of the one machine that has the file.

use std::env;
use std::path::PathBuf;

use axum::http::StatusCode;
use axum::http::header::DATE;
use hyper::Request;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::demo::client::order;
use crate::demo::program::Program;
use crate::shop::{Town, begin, send, when_free};
use crate::standin::Mood;

/// In seconds.
const LEASE: f64 = 2.0;

#[tokio::test]
async fn whose_clock_is_ahead_takes_nothing_over_while_the_lease_is_renewed() {
    let town = Town::build().await;
    let (holder, ahead) = (town.open().await, open_ahead(&town).await);
    let mut database = connect(&town).await;

    town.provider_is(Mood::Slow).await;
    let first = begin(&holder, order("ada", "k", "visa"));
    town.charged(1).await;
    let began = now(&mut database).await;
    while now(&mut database).await < began + 2.5 * LEASE {
        let duplicate = send(&ahead, order("ada", "k", "visa")).await;
        assert!(duplicate.is_refusal(StatusCode::CONFLICT, "key_in_flight"), "{duplicate:?}");
    }
    town.provider_is(Mood::Well).await;
    let placed = first.await.expect("no panic").expect("an answer");
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    assert!(send(&ahead, order("ada", "k", "visa")).await.is_replay_of(&placed));
    assert_eq!(town.charges().await[0].times, 1);
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn whose_clock_is_ahead_waits_for_the_lease_of_one_that_was_killed() {
    let town = Town::build().await;
    let (holder, ahead) = (town.open().await, open_ahead(&town).await);
    assert_taken_over_when_the_lease_has_ended(&town, holder, &ahead).await;
}

/// Its lease is not ten minutes longer.
#[tokio::test]
async fn the_lease_of_one_whose_clock_is_ahead_ends_in_time() {
    let town = Town::build().await;
    let (ahead, successor) = (open_ahead(&town).await, town.open().await);
    assert_taken_over_when_the_lease_has_ended(&town, ahead, &successor).await;
}

async fn assert_taken_over_when_the_lease_has_ended(town: &Town, holder: Program, successor: &Program) {
    let mut database = connect(town).await;
    town.provider_is(Mood::Slow).await;
    let unanswered = begin(&holder, order("ada", "k", "visa"));
    town.charged(1).await;
    holder.kill().await.expect("an end");
    unanswered.await.expect("no panic").expect_err("no answer");
    town.provider_is(Mood::Well).await;

    let end = "SELECT extract(epoch FROM lease_until)::float8 FROM idem_records";
    let end: f64 = sqlx::query_scalar(end).fetch_one(&mut database).await.expect("a lease");
    let early = send(successor, order("ada", "k", "visa")).await;
    assert!(now(&mut database).await < end, "the lease has ended before it was asked for");
    assert!(early.is_refusal(StatusCode::CONFLICT, "key_in_flight"), "{early:?}");

    let placed = when_free(successor, "k", "visa").await;
    let taken_over = now(&mut database).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    assert!((end..end + 20.0).contains(&taken_over), "taken over at {taken_over}, the lease ended at {end}");
    town.assert_state(1, 98, 1, 0).await;
}

/// A shop whose clock is ten minutes ahead of the database's, as its answers say themselves.
async fn open_ahead(town: &Town) -> Program {
    let mut command = town.shop().command();
    let library = ten_minutes_ahead().await;
    command.env("LD_PRELOAD", &library);
    let server = Program::start(command).await.expect("a shop");
    // The shop has it in its memory.
    std::fs::remove_file(library).expect("a library");

    let answer = send(&server, Request::get("/stock").body(String::new()).expect("a request")).await;
    let date = answer.headers[DATE].to_str().expect("a date");
    let ahead = sqlx::query_scalar("SELECT extract(epoch FROM $1::timestamptz - now())::float8").bind(date);
    let ahead: f64 = ahead.fetch_one(&mut connect(town).await).await.expect("a number");
    assert!((590.0..610.0).contains(&ahead), "{ahead} s ahead: {date}");
    server
}

/// The library that does it.
async fn ten_minutes_ahead() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/checkout/clocks/ten_minutes_ahead.rs");
    // One for each test: they run at a time.
    let name = format!("ten_minutes_ahead_{:016x}.so", crate::shop::random(u64::MAX));
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled =
        Command::new(rustc).args(["--edition=2024", "--crate-type=cdylib", source, "-o"]).arg(&library).status().await;
    assert!(compiled.expect("rustc").success());
    library
}

async fn connect(town: &Town) -> PgConnection {
    PgConnection::connect(&town.database.url).await.expect("a connection")
}

/// By the database's clock, in seconds.
async fn now(database: &mut PgConnection) -> f64 {
    let now = "SELECT extract(epoch FROM clock_timestamp())::float8";
    sqlx::query_scalar(now).fetch_one(database).await.expect("a time")
}
