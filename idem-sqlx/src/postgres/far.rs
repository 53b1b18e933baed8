//! Messages with a claim or a completion in them, for a database that is far away.
//!
//! A message of several statements has no parameters, so the values are in the text of the statement. Every value is
//! written in digits or in hexadecimal digits, whatever it is: no text of a request can end a literal.

use std::fmt::Write;
use std::time::Duration;

use idem_core::Request;
use idem_core::machine::lateness;
use idem_core::store::{Claim, Outcome};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::records::LockWords;
use super::schema::Schema;
use crate::row;

/// How far away the database is, which says whether a message saved is worth what it costs the server.
///
/// ```
/// # fn example(pool: sqlx::PgPool) {
/// use idem_sqlx::{Distance, PgStore};
///
/// let store = PgStore::builder(pool).ping(false).distance(Distance::Far).build();
/// # }
/// ```
///
/// A recorded request waits for five round trips with `ping(false)`, and one of them is the handler's own statement. The
/// page [`performance`](idem_core::docs::performance) has what each choice is worth on a loopback and over a network.
///
/// # Rules
/// - [`Far`](Self::Far) and [`Farthest`](Self::Farthest) need two functions in the schema of the tables.
///   [`migrate`](crate::PgStore::migrate) creates them for a store with such a distance. If you copy the migrations, copy
///   the file in `migrations/postgres-far` as well.
/// - All distances keep the same promises, and may be mixed: each process chooses its own.
///
/// # Limitations
/// - Each duplicate that this process does not foresee fails in the server, which writes an ERROR with SQLSTATE `IDM01`
///   and the statement into its log. In that statement the scope is written in hexadecimal digits.
/// - A store with [`Locks::None`](crate::Locks::None) claims as with [`Near`](Self::Near).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// On the same host or in the same zone: a round trip takes a tenth of a millisecond. The default. No value is ever
    /// in the text of a statement.
    Near,
    /// Another zone or another host behind a proxy: a round trip takes half a millisecond or more. The claim goes with
    /// BEGIN, which saves a round trip.
    Far,
    /// As `Far`, and the completion goes with COMMIT, which saves another one. The reply is in the text of that
    /// statement, in hexadecimal digits, so whoever logs statements logs replies: a server with `log_statement` or
    /// `log_min_duration_statement`, and sqlx itself, at `debug`, and at `warn` if one takes a second. Switch sqlx's log off
    /// by `PgConnectOptions::disable_statement_logging`.
    Farthest,
}

/// The functions. They are in the schema of the tables.
const CLAIM: &str = "idem_claim_v1";
const COMPLETE: &str = "idem_complete_v1";

/// The statement that claims. It fails with [`NOT_CLAIMED`] if the request is not claimed.
///
/// The times between which the request may begin are whole numbers and not negative, so they fit the function as they are.
pub(super) fn claim(schema: &Schema, words: LockWords, request: &Request, claim: Claim) -> String {
    let LockWords { asked, identity, running } = words;
    let mut text = format!("SELECT {schema}.{CLAIM}({asked}, {identity}, {running}");
    write_identity(&mut text, request);
    write_bytes(&mut text, request.fingerprint.as_bytes());
    write_bytes(&mut text, claim.as_bytes());
    let (first, last) = request.may_begin();
    _ = write!(text, ", {:?}, {}, {})", request.ttl.as_secs_f64(), first.0, last.0);
    text
}

/// The statements that complete and commit. After them comes a BEGIN, because sqlx still counts the transaction: its
/// ROLLBACK, after the answer, finds one.
pub(super) fn completion(
    schema: &Schema,
    request: &Request,
    claim: Claim,
    outcome: &Outcome,
    elapsed: Duration,
) -> SqlStr {
    let (state, format, status, headers, body) = row::written(outcome);
    let ttl = request.ttl.saturating_add(lateness(request.ttl, elapsed));
    let mut text = String::with_capacity(600 + 2 * (headers.len() + body.len()));
    _ = write!(text, "SELECT {schema}.{COMPLETE}(");
    let start = text.len();
    write_identity(&mut text, request);
    // The first value has no comma in front of it.
    text.replace_range(start..start + 2, "");
    write_bytes(&mut text, claim.as_bytes());
    match status {
        Some(status) => _ = write!(text, ", {state}, {format}, {status}"),
        None => _ = write!(text, ", {state}, {format}, NULL"),
    }
    write_bytes(&mut text, headers);
    write_bytes(&mut text, body);
    _ = write!(text, ", {:?}, {:?}", elapsed.as_secs_f64(), ttl.as_secs_f64());
    match request.refused_for() {
        Some(time) => _ = write!(text, ", {:?}", ttl.saturating_add(time).as_secs_f64()),
        None => text.push_str(", NULL"),
    }
    text.push_str("); COMMIT; BEGIN");
    AssertSqlSafe(text).into_sql_str()
}

fn write_identity(text: &mut String, request: &Request) {
    let identity = &request.identity;
    write_bytes(text, identity.scope.as_str().as_bytes());
    write_bytes(text, identity.operation.as_str().as_bytes());
    write_bytes(text, identity.key.hash());
}

/// No backslash is in it, which some settings of a connection would read in their own way.
fn write_bytes(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push_str(", pg_catalog.decode('");
    text.extend(
        bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])),
    );
    text.push_str("', 'hex')");
}

/// The claim found a record, or somebody else's locks, or the request may not begin now.
const NOT_CLAIMED: &str = "IDM01";

/// The completion did not find the transaction that has claimed.
const NOT_HELD: &str = "IDM02";

/// Whether a message with a claim has failed because the request is not claimed. Under a stricter isolation level its
/// snapshot may be older than the record that is in the way.
pub(super) fn is_not_claimed(error: &sqlx::Error) -> bool {
    answer(error).is_some_and(|answer| matches!(answer.code(), NOT_CLAIMED | "40001"))
}

/// How a message with a completion and a COMMIT has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// The transaction is not the one that has claimed.
    NotHeld,
    /// The completion failed, or a statement before it, so there was no COMMIT.
    Before,
    /// The COMMIT may have been the cause, or was not answered.
    Unknown,
}

pub(super) fn failed(error: &sqlx::Error) -> Failed {
    match answer(error) {
        Some(answer) if answer.code() == NOT_HELD => Failed::NotHeld,
        Some(answer) if answer.code() == "25P02" => Failed::Before,
        // The names of the functions on the way to the error. They are not translated.
        Some(answer) if answer.r#where().is_some_and(|stack| stack.contains(COMPLETE)) => Failed::Before,
        _ => Failed::Unknown,
    }
}

fn answer(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

#[cfg(test)]
mod tests {
    use idem_core::store::Reply;
    use idem_core::{Fingerprint, Identity};
    use proptest::prelude::*;

    use super::*;
    proptest! {
        /// Whatever a scope, an operation and a reply are, the texts have the same form: only digits differ.
        #[test]
        fn r34_no_text_of_a_request_can_end_a_literal(
            scope in "\\PC{1,40}|'; DROP TABLE x; --|\\\\|\\$\\$|E'\\\\''",
            operation in proptest::sample::select(vec!["payments.create", "x'; DROP TABLE y; --", "\\"]),
            body in proptest::collection::vec(any::<u8>(), 0..200),
            seconds in 1_u64..31_536_000,
        ) {
            let Ok(identity) = Identity::new(scope, operation, "k") else { return Ok(()) };
            let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(seconds)).unwrap();
            let schema = Schema::new("s".to_owned()).unwrap();
            let random = Claim::random().unwrap();
            let words = LockWords { asked: i64::MIN, identity: -1, running: i64::MAX };
            let form = |text: &str| {
                let hex = text.split('\'').enumerate().map(|(at, part)| {
                    let is_hex = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                    if at % 2 == 1 && part != "hex" {
                        assert!(is_hex, "{text}");
                        String::new()
                    } else {
                        part.chars().filter(|letter| !letter.is_ascii_digit() && *letter != '-').collect()
                    }
                });
                hex.collect::<Vec<String>>().join("'")
            };
            let bytes = ", pg_catalog.decode('', 'hex')";
            let expected = format!("SELECT \"s\".idem_claim_v(, , {}, ., , )", bytes.repeat(5));
            assert_eq!(form(&claim(&schema, words, &request, random)), expected);
            let reply = Reply { format: idem_core::store::Format::HTTP, status: Some(201), headers: body.clone().into(), body: body.into() };
            let text = completion(&schema, &request, random, &Outcome::Reply(reply), Duration::from_millis(1500));
            let expected =
                format!("SELECT \"s\".idem_complete_v({}, , , {}, ., ., NULL); COMMIT; BEGIN", &bytes.repeat(4)[2..], bytes.repeat(2));
            assert_eq!(form(text.as_str()), expected);
        }
    }
}
