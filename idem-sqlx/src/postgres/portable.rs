//! No statement of the store has what a distributed Postgres refuses.
//!
//! No such database is at hand for the tests. So the texts are checked: each rule here stands for an error of Citus
//! (SQLSTATE 0A000 or 42P18), or for an answer that would be wrong because a part of the statement runs on another node.

use std::fs;
use std::time::Duration;

use super::migrate::{LIST_IS_THERE, LOCK_MIGRATIONS, MIGRATED, SCHEMA_IS_THERE};
use super::schema::Schema;
use super::session::limited_waits;
use super::statements::Statements;
use super::store::Locks;
use super::sweeps::COUNTED;
use super::tx::Step;

/// What a statement must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A parameter without a cast: its type is lost on the way to the other node.
    Untyped,
    /// A volatile function in an UPDATE or DELETE, or in a SELECT on a table: there it runs on the node of the row.
    Volatile,
    /// `clock_timestamp()`, which differs from node to node and from row to row.
    Clock,
    /// A stable function or operator that is given a column, in an UPDATE or DELETE. Time plus interval is stable.
    /// A comparison is not, and `greatest` only compares: `greatest(expires_at, now() + …)` is right.
    StableOfColumn,
    /// `now()` in a CASE or COALESCE; in a statement that writes, any stable function or operator.
    StableInCase,
    /// A function that is not immutable in `ON CONFLICT … DO UPDATE`.
    StableInConflict,
    /// A function that is not immutable in `RETURNING`.
    StableInReturning,
    /// A column of the system: the place of a row means nothing on another node.
    Place,
    /// Locked rows of more than one scope.
    LocksScopes,
    /// An UPDATE that does not name the whole primary key, or a DELETE that does not name the scope.
    NotOneScope,
    /// A conflict on something else than the primary key, of which the scope is the first column.
    OtherArbiter,
}

/// The faults that are known, with the reason.
const EXCEPTIONS: &[(&str, Fault, &str)] = &[
    ("sweep", Fault::Untyped, "the limit is replaced by a number before the statement is sent"),
    ("sweep", Fault::Place, "where it is refused, `sweep_scope` does the same"),
    ("sweep", Fault::LocksScopes, "where it is refused, `sweep_scope` does the same"),
    ("sweep", Fault::NotOneScope, "where it is refused, `sweep_scope` does the same"),
    ("sweep_to_archive", Fault::Untyped, "the limit is replaced by a number before the statement is sent"),
    ("sweep_to_archive", Fault::Place, "where it is refused, `sweep_scope` does the same"),
    ("sweep_to_archive", Fault::LocksScopes, "where it is refused, `sweep_scope` does the same"),
    ("sweep_to_archive", Fault::NotOneScope, "where it is refused, `sweep_scope` does the same"),
    ("forget", Fault::NotOneScope, "it updates several records, all of the scope that it names, so of one node"),
    ("sweep_scope", Fault::NotOneScope, "it updates several records, all of the scope that it names, so of one node"),
    ("new_epoch", Fault::OtherArbiter, "its table has one row and no scope: it is not distributed"),
];

const VOLATILE: &[&str] = &[
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_try_advisory_lock",
    "pg_advisory_xact_lock",
    "pg_advisory_lock",
    "pg_backend_pid",
    "pg_cancel_backend",
    "pg_sleep",
    "set_config",
    "nextval",
    "random",
    "gen_random_uuid",
    "timeofday",
    "clock_timestamp",
];

const NOW: &[&str] =
    &["now", "current_timestamp", "transaction_timestamp", "statement_timestamp", "localtimestamp", "clock_timestamp"];

/// Beside [`NOW`]. `interval` stands for the operators of a time and an interval.
const STABLE: &[&str] = &["extract", "interval", "date_trunc", "to_char", "age", "current_setting"];

const TIMES: &[&str] = &["expires_at", "lease_until", "created_at", "completed_at"];

const PLACES: &[&str] = &["ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"];

/// Words in lower case, names in quotes, texts, parameters and signs.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let end = match first {
            '\'' | '"' => {
                let mut end = 1;
                loop {
                    end += rest[end..].find(first).expect("a closing quote") + 1;
                    if !rest[end..].starts_with(first) {
                        break end;
                    }
                    end += 1;
                }
            }
            '$' => 1 + rest[1..].find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len() - 1),
            ':' if rest.starts_with("::") => 2,
            letter if is_word(letter) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            sign => sign.len_utf8(),
        };
        let token = &rest[..end];
        tokens.push(if first == '"' || first == '\'' { token.to_owned() } else { token.to_lowercase() });
        rest = rest[end..].trim_start();
    }
    tokens
}

/// From the place behind an opening parenthesis, or from anywhere inside it, to the closing one.
fn until_closed(tokens: &[String]) -> &[String] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" => depth += 1,
            ")" if depth == 0 => return &tokens[..at],
            ")" => depth -= 1,
            _ => {}
        }
    }
    tokens
}

/// The statements in a text: the whole, each part of its WITH, each subselect.
fn parts(tokens: &[String]) -> Vec<&[String]> {
    let is_begin = |at: &usize| {
        let is_verb = matches!(tokens[*at].as_str(), "select" | "insert" | "update" | "delete");
        is_verb && (*at == 0 || matches!(tokens[*at - 1].as_str(), "(" | ")"))
    };
    (0..tokens.len()).filter(is_begin).map(|at| until_closed(&tokens[at..])).collect()
}

fn has(tokens: &[String], words: &[&str]) -> bool {
    tokens.iter().any(|token| words.contains(&token.as_str()))
}

/// Without what stands in parentheses.
fn flat(tokens: &[String]) -> Vec<&str> {
    let mut depth = 0_usize;
    let mut flat = Vec::new();
    for token in tokens {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            token if depth == 0 => flat.push(token),
            _ => {}
        }
    }
    flat
}

/// Whether a column has to be equal to a parameter, in a condition of the statement itself.
fn is_given(part: &[String], column: &str) -> bool {
    flat(part).windows(3).any(|triple| triple[0] == column && triple[1] == "=" && triple[2].starts_with('$'))
}

/// What stands in a CASE or COALESCE.
fn lazily(tokens: &[String]) -> Vec<&[String]> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if token == "coalesce" {
            found.push(until_closed(&tokens[at + 2..]));
        }
        if token == "case" {
            let mut depth = 0;
            let end = tokens[at..].iter().position(|token| {
                depth += i32::from(token == "case") - i32::from(token == "end");
                depth == 0
            });
            found.push(&tokens[at..at + end.expect("the END of a CASE")]);
        }
    }
    found
}

/// What a stable function or operator is given: the arguments of a function, or the neighbours of a sign.
fn is_stable_of_column(part: &[String]) -> bool {
    let is_time = |token: Option<&String>| token.is_some_and(|token| TIMES.contains(&token.as_str()));
    part.iter().enumerate().any(|(at, token)| match token.as_str() {
        "+" | "-" => is_time(at.checked_sub(1).map(|before| &part[before])) || is_time(part.get(at + 1)),
        function if STABLE.contains(&function) && part.get(at + 1).is_some_and(|next| next == "(") => {
            has(until_closed(&part[at + 2..]), TIMES)
        }
        _ => false,
    })
}

/// What follows some words, to the end of the statement.
fn after<'t>(part: &'t [String], words: &[&str]) -> Option<&'t [String]> {
    let at =
        part.windows(words.len()).position(|window| window.iter().zip(words).all(|(token, word)| token == word))?;
    Some(until_closed(&part[at + words.len()..]))
}

fn faults(text: &str) -> Vec<Fault> {
    let tokens = tokens(text);
    let mut faults = Vec::new();
    let mut note = |is_there: bool, fault: Fault| {
        if is_there {
            faults.push(fault);
        }
    };
    let is_parameter = |token: &String| token.starts_with('$');
    let is_untyped = |at: usize| is_parameter(&tokens[at]) && tokens.get(at + 1).is_none_or(|next| next != "::");
    note((0..tokens.len()).any(is_untyped), Fault::Untyped);
    note(has(&tokens, &["clock_timestamp"]), Fault::Clock);
    note(has(&tokens, PLACES), Fault::Place);
    note(lazily(&tokens).iter().any(|lazy| has(lazy, NOW)), Fault::StableInCase);
    for part in parts(&tokens) {
        let verb = part[0].as_str();
        let is_change = matches!(verb, "update" | "delete");
        let names_table = part.windows(2).any(|pair| pair[0] == "." && pair[1].starts_with("idem_"));
        note((is_change || verb == "select" && names_table) && has(part, VOLATILE), Fault::Volatile);
        note(is_change && is_stable_of_column(part), Fault::StableOfColumn);
        let is_lazy = |lazy: &&[String]| has(lazy, STABLE);
        note(verb != "select" && lazily(part).iter().any(is_lazy), Fault::StableInCase);
        if let Some(update) = after(part, &["do", "update"]) {
            let set = update.split(|token| token == "returning").next().expect("the first of at least one");
            note([NOW, STABLE, VOLATILE].iter().any(|functions| has(set, functions)), Fault::StableInConflict);
        }
        if let Some(conflict) = after(part, &["on", "conflict"]) {
            note(!conflict.iter().take(6).eq(["(", "scope", ",", "operation", ",", "key_hash"]), Fault::OtherArbiter);
        }
        if let Some(returned) = after(part, &["returning"]) {
            note([NOW, STABLE, VOLATILE].iter().any(|functions| has(returned, functions)), Fault::StableInReturning);
        }
        let flat = flat(part);
        let locks = |pair: &[&str]| pair[0] == "for" && matches!(pair[1], "update" | "share" | "no" | "key");
        note(flat.windows(2).any(locks) && !is_given(part, "scope"), Fault::LocksScopes);
        let identity = ["scope", "operation", "key_hash"];
        note(verb == "update" && !identity.iter().all(|column| is_given(part, column)), Fault::NotOneScope);
        note(verb == "delete" && !is_given(part, "scope"), Fault::NotOneScope);
    }
    faults.sort_unstable();
    faults.dedup();
    faults
}

/// Every text that the store sends and that is more than a word for the transaction.
fn all() -> Vec<(&'static str, String)> {
    let schema = Schema::new("s".to_owned()).expect("a schema");
    let statements = Statements::of(&schema);
    let mut all: Vec<_> = statements.all().into_iter().map(|(name, text)| (name, text.to_owned())).collect();
    // As the sweep sends them.
    for (name, text) in &mut all {
        if ["sweep_to_archive", "sweep_scope"].contains(name) {
            *text += ", archived AS (\n    INSERT INTO \"s\".archive SELECT * FROM swept\n)";
        }
        if name.starts_with("sweep") {
            *text += COUNTED;
        }
    }
    all.extend([
        ("marks", Step::new().unwrap().marks(Locks::Advisory)),
        ("marks without locks", Step::new().unwrap().marks(Locks::None)),
        ("limited_waits", limited_waits(Duration::from_secs(1))),
        ("lock_migrations", LOCK_MIGRATIONS.to_owned()),
        ("migrated", schema.qualify(MIGRATED)),
        ("schema_is_there", SCHEMA_IS_THERE.to_owned()),
        ("list_is_there", LIST_IS_THERE.to_owned()),
    ]);
    all
}

#[test]
fn r10_no_statement_has_what_a_distributed_postgres_refuses() {
    let mut found = Vec::new();
    for (name, text) in all() {
        found.extend(faults(&text).into_iter().map(|fault| (name, fault)));
    }
    let known: Vec<_> = EXCEPTIONS.iter().map(|(name, fault, _)| (*name, *fault)).collect();
    let new: Vec<_> = found.iter().filter(|fault| !known.contains(fault)).collect();
    assert!(new.is_empty(), "{new:?}");
    let gone: Vec<_> = known.iter().filter(|fault| !found.contains(fault)).collect();
    assert!(gone.is_empty(), "no exceptions any more: {gone:?}");
}

/// A statement that is written elsewhere would not be checked.
#[test]
fn r10_every_statement_on_a_table_is_checked() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/postgres");
    let mut written = 0;
    for file in fs::read_dir(folder).expect("the sources") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a text");
        written += text.matches(concat!("{schema}", ".idem_")).count();
    }
    // Two statements each are made of one text.
    let second = ["insert_within_and_wait", "lease_within", "replace_and_wait", "sweep_to_archive"];
    let texts = all().into_iter().filter(|(name, _)| !second.contains(name));
    let checked: usize = texts.map(|(_, text)| text.matches("\"s\".idem_").count()).sum();
    assert_eq!(written, checked);
}

#[test]
fn r10_the_check_finds_each_fault() {
    use Fault::*;
    const WHERE: &str = "WHERE scope = $1::text AND operation = $2::text AND key_hash = $3::bytea";
    let update = |set: &str, more: &str| format!("UPDATE \"s\".idem_records SET {set} {WHERE}{more}");
    let table: &[(&[Fault], String)] = &[
        // As they were before.
        (&[Untyped], "SELECT 1 WHERE $1 IS NULL".to_owned()),
        (&[Untyped], "SELECT $1::text, $2, $3::text".to_owned()),
        (&[StableOfColumn], update("expires_at = expires_at + $4::double precision * interval '1 second'", "")),
        (&[Volatile], update("state = 1", " AND pg_try_advisory_xact_lock($4::bigint)")),
        (
            &[StableInCase],
            update("expires_at = greatest(expires_at, CASE WHEN $4::int IS NULL THEN now() ELSE now() END)", ""),
        ),
        (
            &[Volatile, StableInCase],
            format!(
                "SELECT CASE WHEN record.expires_at > now() THEN 1 WHEN pg_try_advisory_xact_lock($4::bigint) THEN 2 END
                FROM \"s\".idem_records AS record {WHERE}"
            ),
        ),
        // The other ways to do the same.
        (&[StableOfColumn], update("expires_at = $4::interval + expires_at", "")),
        (&[StableOfColumn], update("state = 1", " AND extract(epoch FROM created_at) < 1")),
        (&[StableOfColumn], update("state = 1", " AND \"r\".lease_until - interval '1 second' < now()")),
        (&[StableInCase], update("expires_at = coalesce($4::timestamptz, now())", "")),
        (&[StableInCase], update("expires_at = CASE WHEN true THEN $4::timestamptz + interval '1 second' END", "")),
        (&[StableInCase], "SELECT CASE WHEN (CASE WHEN true THEN true END) THEN CURRENT_TIMESTAMP END".to_owned()),
        (&[Volatile], update("claim = uuid_send(gen_random_uuid())", "")),
        (&[Volatile], update("state = 1", " AND EXISTS (SELECT 1 WHERE pg_try_advisory_xact_lock($4::bigint))")),
        (&[Volatile], format!("WITH a AS (SELECT 1) DELETE FROM \"s\".idem_records {WHERE} AND random() < 0.5")),
        (&[Volatile, Clock], update("completed_at = clock_timestamp()", "")),
        (&[StableInReturning], update("state = 1", " RETURNING now()")),
        (
            &[StableInConflict],
            "INSERT INTO \"s\".idem_records AS r (scope) VALUES ($1::text)
            ON CONFLICT (scope, operation, key_hash) DO UPDATE SET created_at = now() RETURNING 1"
                .to_owned(),
        ),
        (
            &[StableInConflict],
            "INSERT INTO \"s\".idem_records AS r (scope) VALUES ($1::text) ON CONFLICT (scope, operation, key_hash)
            DO UPDATE SET created_at = excluded.created_at WHERE r.expires_at <= now()"
                .to_owned(),
        ),
        (&[OtherArbiter], "INSERT INTO \"s\".idem_records (scope) VALUES ($1::text) ON CONFLICT DO NOTHING".to_owned()),
        (
            &[OtherArbiter],
            "INSERT INTO \"s\".idem_records (scope) VALUES ($1::text) ON CONFLICT (key_hash) DO NOTHING".to_owned(),
        ),
        (&[Place], format!("SELECT ctid FROM \"s\".idem_records {WHERE}")),
        (&[LocksScopes], "SELECT scope FROM \"s\".idem_records WHERE expires_at < now() FOR UPDATE".to_owned()),
        (&[LocksScopes], "SELECT scope FROM \"s\".idem_records FOR SHARE SKIP LOCKED".to_owned()),
        (
            &[LocksScopes],
            "SELECT 1 FROM \"s\".idem_records WHERE state IN (SELECT 1 WHERE scope = $1::text) FOR NO KEY UPDATE"
                .to_owned(),
        ),
        (&[NotOneScope], "UPDATE \"s\".idem_records SET state = 1 WHERE operation = $1::text".to_owned()),
        (
            &[NotOneScope],
            "UPDATE \"s\".idem_records SET state = 1 WHERE scope = $1::text AND operation = $2::text".to_owned(),
        ),
        (
            &[NotOneScope],
            "UPDATE \"s\".idem_records SET state = 1
            WHERE scope = $1::text AND operation = $2::text AND (key_hash = $3::bytea OR true)"
                .to_owned(),
        ),
        (&[NotOneScope], "DELETE FROM \"s\".idem_journal WHERE key_hash = $1::bytea".to_owned()),
        (
            &[NotOneScope],
            "WITH d AS (DELETE FROM \"s\".idem_journal USING r WHERE scope = r.scope) SELECT 1".to_owned(),
        ),
        // What comes close, and is right.
        (&[], update("attempt = attempt + 1, lease_until = greatest(lease_until, now() + interval '1 second')", "")),
        (&[], update("state = coalesce($4::smallint, state)", " AND expires_at <= now() RETURNING attempt")),
        (
            &[],
            format!(
                "WITH free AS MATERIALIZED (SELECT CASE WHEN pg_try_advisory_xact_lock($4::bigint) THEN true END AS got)
                {} AND EXISTS (SELECT 1 FROM free WHERE got)",
                update("completed_at = now()", "")
            ),
        ),
        (&[], format!("SELECT 1 FROM \"s\".idem_records {WHERE} FOR UPDATE")),
        (&[], "SELECT 'It''s $1, and now()', \"ctid $2\"".to_owned()),
    ];
    for (expected, text) in table {
        assert_eq!(faults(text), *expected, "{text}");
    }
    let found: Vec<_> = table.iter().flat_map(|(faults, _)| *faults).collect();
    for fault in [
        Untyped,
        Volatile,
        Clock,
        StableOfColumn,
        StableInCase,
        StableInConflict,
        StableInReturning,
        Place,
        LocksScopes,
        NotOneScope,
        OtherArbiter,
    ] {
        assert!(found.contains(&&fault), "{fault:?} is in the table");
    }
}
