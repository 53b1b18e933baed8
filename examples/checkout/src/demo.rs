//! `demo`: starts the shop and a provider, sends orders, kills the shop at each point of an order, and reports whether
//! the promises are kept.

pub(crate) mod client;
pub(crate) mod halt;
pub(crate) mod program;
pub(crate) mod scratch;

use std::env;
use std::io::Read;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::standin::Mood;
use client::{Answer, order};
use program::{Program, Provider, Shop};
use scratch::Scratch;

/// Where an order is interrupted: the event, in the words of the shop's log.
const PAID: [(&str, &str); 7] = [
    ("in \"reserve\"", "reserving"),
    ("behind \"reserve\"", "reserved"),
    ("in \"charge\", not charged", "charging"),
    ("in \"charge\", charged", "/charges answered status=201"),
    ("behind \"charge\"", "paid"),
    ("in the last commit", "confirming"),
    ("behind it, not answered", "answering status=201"),
];
const DECLINED: [(&str, &str); 3] = [
    ("in \"charge\", declined", "/charges answered status=402"),
    ("giving back", "giving back"),
    ("behind it, not answered", "answering status=402"),
];
const WITHDRAWN: [(&str, &str); 4] = [
    ("refunding, not refunded", "refunding"),
    ("refunding, refunded", "/refunds answered status=201"),
    ("giving back", "giving back"),
    ("behind it, not answered", "answering status=410"),
];

/// Runs all scenes. A broken promise is a failure.
pub(crate) async fn play() -> Result<(), Failure> {
    // Declared first, so dropped last: the servers have ended by then.
    let database = Scratch::create("checkout_demo").await?;
    let provider = Provider::start(&env::current_exe()?).await?;
    let broken = tokio::select! {
        broken = scenes(&database, &provider) => broken?,
        () = crate::stop_signal() => return Err("the demo was interrupted".into()),
    };
    provider.0.kill().await?;
    match broken {
        0 => {
            println!("\nevery promise was kept");
            Ok(())
        }
        1 => Err("a promise was broken".into()),
        _ => Err(format!("{broken} promises were broken").into()),
    }
}

/// A program under the demo: the usual one, but it ends with its parent, even if the parent is killed.
pub(crate) async fn serve(program: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    std::thread::spawn(|| {
        // Nothing is ever sent. The read ends when the other end is closed.
        let _closed = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    program.await
}

async fn scenes(database: &Scratch, provider: &Provider) -> Result<u32, Failure> {
    let program = env::current_exe()?;
    let shop = Shop { program: &program, database_url: &database.url, provider: provider.0.address };
    let server = shop.open().await?;
    let mut table = Table::begin(database, provider);

    let first = server.send(order("ada", "order-1", "visa-1")).await?;
    table.line("two lamps", &first, SOLD, first.is_fresh(StatusCode::CREATED)).await?;
    let again = server.send(order("ada", "order-1", "visa-1")).await?;
    table.line("the same request again", &again, NOTHING, again.is_replay_of(&first)).await?;

    let declined = server.send(order("ada", "order-2", "declined-2")).await?;
    table.line("a card that is declined", &declined, NOTHING, declined.is_fresh(StatusCode::PAYMENT_REQUIRED)).await?;
    let again = server.send(order("ada", "order-2", "declined-2")).await?;
    table.line("the same request again", &again, NOTHING, again.is_replay_of(&declined)).await?;

    provider.is(Mood::Down).await?;
    let failed = server.send(order("ada", "order-3", "visa-3")).await?;
    table.line("the provider is down", &failed, RESERVED, is_pending(&failed)).await?;
    provider.is(Mood::Well).await?;
    let again = server.send(order("ada", "order-3", "visa-3")).await?;
    table.line("again, it is up", &again, SOLD.less(RESERVED), again.is_fresh(StatusCode::CREATED)).await?;

    provider.is(Mood::Cut).await?;
    let failed = server.send(order("ada", "order-4", "visa-4")).await?;
    let charged = Change { charges: 1, ..RESERVED };
    table.line("the provider charges and hangs up", &failed, charged, is_pending(&failed)).await?;
    provider.is(Mood::Well).await?;
    let again = server.send(order("ada", "order-4", "visa-4")).await?;
    table.line("again, it answers", &again, SOLD.less(charged), again.is_fresh(StatusCode::CREATED)).await?;
    server.kill().await?;

    table.heading("SIGKILL TO THE SHOP, AND A RETRY");
    for (number, (place, words)) in PAID.into_iter().enumerate() {
        let (key, card) = (format!("paid-{number}"), format!("visa-paid-{number}"));
        let answer = cut_short(shop, words, &key, &card).await?;
        table.line(place, &answer, SOLD, answer.status == StatusCode::CREATED).await?;
    }
    let answer = cut_short_at_the_provider(shop, provider).await?;
    table.line("while the provider has charged", &answer, SOLD, answer.status == StatusCode::CREATED).await?;

    table.heading("A CARD THAT IS DECLINED");
    for (number, (place, words)) in DECLINED.into_iter().enumerate() {
        let (key, card) = (format!("declined-{number}"), format!("declined-{number}"));
        let answer = cut_short(shop, words, &key, &card).await?;
        table.line(place, &answer, NOTHING, answer.status == StatusCode::PAYMENT_REQUIRED).await?;
    }

    table.heading("LAMPS WITHDRAWN WHILE THEY ARE PAID");
    for (number, (place, words)) in WITHDRAWN.into_iter().enumerate() {
        let (key, card) = (format!("withdrawn-{number}"), format!("visa-withdrawn-{number}"));
        let answer = withdrawn_and_cut_short(shop, database, provider, words, &key, &card).await?;
        table.line(place, &answer, REFUNDED, answer.status == StatusCode::GONE).await?;
        database.sell_lamps(true).await?;
    }
    Ok(table.broken)
}

/// The shop is killed when its log has these words. A new shop gets the retry.
async fn cut_short(shop: Shop<'_>, words: &str, key: &str, card: &str) -> Result<Answer, Failure> {
    let mut server = shop.open_until(words).await?;
    let unanswered = tokio::spawn(client::send(server.address, order("ada", key, card)));
    server.wait_for(words).await?;
    server.kill().await?;
    retry(shop, unanswered.await?, key, card).await
}

/// The shop is killed when the provider has charged but not answered.
async fn cut_short_at_the_provider(shop: Shop<'_>, provider: &Provider) -> Result<Answer, Failure> {
    let server = shop.open().await?;
    provider.is(Mood::Slow).await?;
    let (key, card) = ("unanswered", "visa-unanswered");
    let unanswered = tokio::spawn(client::send(server.address, order("ada", key, card)));
    charged(provider, card).await?;
    server.kill().await?;
    provider.is(Mood::Well).await?;
    retry(shop, unanswered.await?, key, card).await
}

/// The lamps are withdrawn while they are paid, and the shop is killed when its log has these words.
async fn withdrawn_and_cut_short(
    shop: Shop<'_>,
    database: &Scratch,
    provider: &Provider,
    words: &str,
    key: &str,
    card: &str,
) -> Result<Answer, Failure> {
    let mut server = shop.open_until(words).await?;
    provider.is(Mood::Slow).await?;
    let unanswered = tokio::spawn(client::send(server.address, order("ada", key, card)));
    charged(provider, card).await?;
    database.sell_lamps(false).await?;
    provider.is(Mood::Well).await?;
    server.wait_for(words).await?;
    server.kill().await?;
    retry(shop, unanswered.await?, key, card).await
}

/// What a client does after it got no answer.
async fn retry(shop: Shop<'_>, unanswered: Result<Answer, Failure>, key: &str, card: &str) -> Result<Answer, Failure> {
    if let Ok(answer) = unanswered {
        return Err(format!("the shop was killed, and answered {answer}").into());
    }
    let server = shop.open().await?;
    let answer = when_free(&server, key, card).await?;
    server.kill().await?;
    Ok(answer)
}

/// Sends the order again until the answer no longer asks for a retry: the lease of the killed shop has to end.
async fn when_free(server: &Program, key: &str, card: &str) -> Result<Answer, Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = server.send(order("ada", key, card)).await?;
        if !answer.is_refusal(StatusCode::CONFLICT, "key_in_flight") || Instant::now() > deadline {
            return Ok(answer);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the provider has charged this card.
async fn charged(provider: &Provider, card: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !provider.ledger().await?.charges.iter().any(|charge| charge.asked.card == card) {
        if Instant::now() > deadline {
            return Err("the shop did not charge".into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn is_pending(answer: &Answer) -> bool {
    answer.is_refusal(StatusCode::SERVICE_UNAVAILABLE, "payment_pending")
}

/// The changes that an answer caused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    orders: i64,
    lamps: i64,
    charges: i64,
    refunds: i64,
}

const NOTHING: Change = Change { orders: 0, lamps: 0, charges: 0, refunds: 0 };
const RESERVED: Change = Change { lamps: -2, ..NOTHING };
const SOLD: Change = Change { orders: 1, lamps: -2, charges: 1, refunds: 0 };
const REFUNDED: Change = Change { charges: 1, refunds: 1, ..NOTHING };

impl Change {
    /// The changes since an earlier state.
    fn less(self, done: Change) -> Change {
        Change {
            orders: self.orders - done.orders,
            lamps: self.lamps - done.lamps,
            charges: self.charges - done.charges,
            refunds: self.refunds - done.refunds,
        }
    }
}

/// What was sent, what was answered, and the state afterwards, in the database and at the provider.
struct Table<'a> {
    database: &'a Scratch,
    provider: &'a Provider,
    before: Change,
    broken: u32,
}

impl<'a> Table<'a> {
    fn begin(database: &'a Scratch, provider: &'a Provider) -> Self {
        println!("{:34} {:28} {:>6} {:>6} {:>7} {:>7}", "SENT", "ANSWERED", "ORDERS", "LAMPS", "CHARGES", "REFUNDS");
        Self { database, provider, before: Change { lamps: 100, ..NOTHING }, broken: 0 }
    }

    fn heading(&self, words: &str) {
        println!("\n{words}");
    }

    /// One line. It is ok if the answer and the change are as promised.
    async fn line(&mut self, sent: &str, answer: &Answer, change: Change, promised: bool) -> Result<(), Failure> {
        let now = self.look().await?;
        let verdict = match (now.less(self.before) == change, promised) {
            (true, true) => "ok".to_owned(),
            (true, false) => "BROKEN: another answer was promised".to_owned(),
            (false, _) => format!("BROKEN: {change:?} was promised"),
        };
        let Change { orders, lamps, charges, refunds } = now;
        let answer = answer.to_string();
        println!("{sent:34} {answer:28} {orders:>6} {lamps:>6} {charges:>7} {refunds:>7}  {verdict}");
        self.broken += u32::from(verdict != "ok");
        // A broken promise is reported once.
        self.before = now;
        Ok(())
    }

    async fn look(&self) -> Result<Change, Failure> {
        let (orders, lamps) = self.database.rows().await?;
        let ledger = self.provider.ledger().await?;
        let charges = ledger.charges.iter().filter(|charge| !charge.declined).count();
        Ok(Change { orders, lamps, charges: i64::try_from(charges)?, refunds: i64::try_from(ledger.refunds.len())? })
    }
}
