//! The live view.

use std::time::{Duration, SystemTime};

use idem_core::observer::Backlog;
use idem_core::operate::{Counts, Inspect};
use serde_json::{Value, json};

use crate::args::Options;
use crate::database::Database;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{duration, table};

/// Shows the counts until Ctrl-C or a failure: the person who watches has to see a failure.
pub(super) async fn watch(once: bool, every: Duration, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let database = Database::open(options).await?;
    loop {
        let (counts, backlog) = look(database.operate()).await?;
        let (json, text) = (counts_json(&counts, backlog), counts_text(&counts, backlog));
        let is_view = !once && output.is_screen();
        // The view begins at the top of an empty screen each time.
        let screen = if is_view { "\x1b[H\x1b[2J" } else { "" };
        output.result(&json, format!("{screen}{text}"));
        if once {
            return Ok(Exit::Done);
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn look(store: &(impl Inspect + ?Sized)) -> Result<(Counts, Backlog), Failure> {
    Ok((store.counts().await?, store.backlog().await?))
}

/// By the clock here: without a record the store has told no time.
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn counts_json(counts: &Counts, backlog: Backlog) -> Value {
    let counted = counts.counted.iter().map(|counted| {
        json!({
            "operation": counted.operation,
            "state": counted.condition.name(),
            "records": counted.records,
            "today": counted.today,
        })
    });
    json!({
        "now": now(),
        "counts": counted.collect::<Vec<_>>(),
        "is_complete": counts.is_complete,
        "expired": backlog.expired,
        "oldest_expired_seconds": backlog.oldest.as_secs(),
        "abandoned": backlog.abandoned,
    })
}

fn counts_text(counts: &Counts, backlog: Backlog) -> String {
    let rows: Vec<_> = counts
        .counted
        .iter()
        .map(|counted| {
            let numbers = (counted.records.to_string(), counted.today.to_string());
            vec![counted.operation.clone(), counted.condition.name().to_owned(), numbers.0, numbers.1]
        })
        .collect();
    let mut text = format!("{}\n\n{}", now(), table(&["operation", "state", "records", "today"], &rows));
    if !counts.is_complete {
        text += &format!("only the {} records that expire last are counted\n", Counts::MOST);
    }
    let oldest =
        if backlog.expired == 0 { String::new() } else { format!(", the oldest for {}", duration(backlog.oldest)) };
    text + &format!("\nexpired, not swept: {}{oldest}\nabandoned runs: {}\n", backlog.expired, backlog.abandoned)
}
