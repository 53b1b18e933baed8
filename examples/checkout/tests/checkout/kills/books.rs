//! What there must be when all is answered: in the database, at the provider, and in a log of the finished steps.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::clients::Order;
use crate::database::Pool;
use crate::demo::client::Answer;
use crate::shop::{END_PAUSES, Town, random};

/// More than is ever sold.
const PLENTY: i64 = 1_000_000_000;

/// The database's clock counts milliseconds on SQLite, and the provider's microseconds.
const ROUNDING: i64 = 2_000;

/// Each finished step, with the client's key and when it was finished: the steps themselves go with their run's end. A
/// call is inserted when it is made (kind 6), and becomes a finished step by an update.
#[cfg(feature = "postgres")]
const STEP_LOG: &str = "
CREATE TABLE step_log (number bigint GENERATED ALWAYS AS IDENTITY, key_hash text, kind bigint, name text, at bigint);
CREATE FUNCTION log_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO step_log (key_hash, kind, name, at)
    VALUES (encode(NEW.key_hash, 'hex'), NEW.kind, NEW.name, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    RETURN NEW;
END $$;
CREATE TRIGGER log_step AFTER INSERT ON idem_journal FOR EACH ROW WHEN (NEW.kind <> 6) EXECUTE FUNCTION log_step();
CREATE TRIGGER log_call AFTER UPDATE ON idem_journal FOR EACH ROW WHEN (OLD.kind = 6 AND NEW.kind <> 6)
    EXECUTE FUNCTION log_step();";
#[cfg(not(feature = "postgres"))]
const STEP_LOG: &str = "
CREATE TABLE step_log (number integer PRIMARY KEY, key_hash text, kind integer, name text, at integer);
CREATE TRIGGER log_step AFTER INSERT ON idem_journal WHEN NEW.kind <> 6 BEGIN
    INSERT INTO step_log (key_hash, kind, name, at) VALUES (
        lower(hex(NEW.key_hash)), NEW.kind, NEW.name, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
    );
END;
CREATE TRIGGER log_call AFTER UPDATE ON idem_journal WHEN OLD.kind = 6 AND NEW.kind <> 6 BEGIN
    INSERT INTO step_log (key_hash, kind, name, at) VALUES (
        lower(hex(NEW.key_hash)), NEW.kind, NEW.name, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
    );
END;";

/// As `idem_journal.kind` has it.
const TRANSACTION: i64 = 1;
const CALL: i64 = 2;
const REJECTION: i64 = 3;
const UNDO: i64 = 4;

#[derive(Clone)]
pub(super) struct Books {
    pool: Pool,
}

/// How much was checked.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "they are printed")]
pub(super) struct Figures {
    pub(super) orders: usize,
    pub(super) sold: usize,
    pub(super) declined: usize,
    pub(super) refunded: usize,
    /// Charges and refunds that the provider was asked for again.
    pub(super) asked_again: u32,
    /// Runs that took more than one attempt.
    pub(super) resumed: i64,
}

type Log = BTreeMap<String, Vec<(i64, String, i64)>>;

impl Books {
    /// Of a town whose shop has been open once, so that its tables are there.
    pub(super) async fn open(town: &Town) -> Self {
        let pool = crate::database::open(&town.database.url).await.expect("a pool");
        let books = Self { pool };
        books.execute(&format!("INSERT INTO stock VALUES ('relic', 7, {PLENTY}, true)")).await;
        books.execute(&format!("UPDATE stock SET available = {PLENTY}")).await;
        books.execute(STEP_LOG).await;
        books
    }

    pub(super) async fn sell_relics(&self, on_sale: bool) {
        let is = if on_sale { "true" } else { "false" };
        self.execute(&format!("UPDATE stock SET on_sale = {is} WHERE item = 'relic'")).await;
    }

    /// So often that some orders are reserved before, and confirmed after.
    pub(super) async fn withdraw_now_and_then(self, mut is_open: oneshot::Receiver<()>) {
        for on_sale in [false, true].into_iter().cycle() {
            if timeout(Duration::from_millis(10 + random(60)), &mut is_open).await.is_ok() {
                return;
            }
            self.sell_relics(on_sale).await;
            self.end_pauses().await;
        }
    }

    /// These clients fail far more often than they should wait for.
    pub(super) async fn end_pauses(&self) {
        self.execute(END_PAUSES).await;
    }

    async fn execute(&self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
        sqlx::Executor::execute(&self.pool, statements).await.expect("statements");
    }

    pub(super) async fn check(&self, town: &Town, answered: &[(Order, Answer)]) -> Figures {
        let ledger = town.provider.ledger().await.expect("a ledger");
        let mut log = self.step_log().await;
        let mut orders = self.orders().await;
        let mut figures = Figures { orders: answered.len(), ..Figures::default() };
        let (mut charges, mut refunds) = (ledger.charges, ledger.refunds);

        for (order, answer) in answered {
            let sold = answer.status == StatusCode::CREATED;
            let withdrawn = answer.status == StatusCode::GONE;

            let mut charged = charges.extract_if(.., |charge| charge.asked.card == order.card());
            let charge = charged.next().unwrap_or_else(|| panic!("{order:?} was not charged: {answer:?}"));
            assert!(charged.next().is_none(), "{order:?} was charged twice");
            drop(charged);
            assert_eq!(charge.declined, !sold && !withdrawn, "{order:?}: {answer:?}");
            let refunded: Vec<_> = refunds.extract_if(.., |refund| refund.asked.charge == charge.id).collect();
            assert_eq!(refunded.len(), usize::from(withdrawn), "{order:?}: {refunded:?}");

            let confirmed = orders.remove(&charge.id).unwrap_or_default();
            let expected = if sold { vec![(order.item().to_owned(), order.quantity())] } else { Vec::new() };
            assert_eq!(confirmed, expected, "{order:?}: {answer:?}");

            // Each step was finished once, and where it is one of the provider's, not entered behind that.
            let finished = log.remove(&hex_digest(&order.key())).unwrap_or_default();
            let names: Vec<_> = finished.iter().map(|(kind, name, _)| (*kind, name.as_str())).collect();
            let mut expected = vec![(TRANSACTION, "reserve"), (CALL, "charge")];
            if !sold {
                expected.push((REJECTION, ""));
                expected.extend(withdrawn.then_some((UNDO, "charge")));
                expected.push((UNDO, "reserve"));
            }
            assert_eq!(names, expected, "{order:?}: {answer:?}");
            let calls = [(CALL, Some((charge.times, charge.last)))];
            let calls = calls.into_iter().chain([(UNDO, refunded.first().map(|refund| (refund.times, refund.last)))]);
            for (kind, asked) in calls {
                let Some((times, last)) = asked else { continue };
                let at =
                    finished.iter().find(|(of, name, _)| *of == kind && name == "charge").expect("a finished step").2;
                assert!(last <= at + ROUNDING, "{order:?} was finished at {at}, and entered at {last}");
                figures.asked_again += times - 1;
            }
            figures.sold += usize::from(sold);
            figures.declined += usize::from(charge.declined);
            figures.refunded += refunded.len();
        }
        assert!(charges.is_empty() && refunds.is_empty() && orders.is_empty(), "{charges:?}, {refunds:?}, {orders:?}");
        for item in ["lamp", "relic"] {
            let sold =
                answered.iter().filter(|(order, answer)| order.item() == item && answer.status == StatusCode::CREATED);
            let sold: i64 = sold.map(|(order, _)| order.quantity()).sum();
            assert_eq!(self.available(item).await, PLENTY - sold, "{item}");
        }
        let resumed = sqlx::query_scalar("SELECT count(*) FROM idem_records WHERE attempt > 1");
        figures.resumed = resumed.fetch_one(&self.pool).await.expect("a number");
        figures
    }

    /// By the client's key, in the order in which they were finished.
    async fn step_log(&self) -> Log {
        let rows: Vec<(String, i64, String, i64)> =
            sqlx::query_as("SELECT key_hash, kind, name, at FROM step_log ORDER BY number")
                .fetch_all(&self.pool)
                .await
                .expect("a log");
        let mut log = Log::new();
        for (key, kind, name, at) in rows {
            log.entry(key).or_default().push((kind, name, at));
        }
        log
    }

    /// By the charge, of which each order has one.
    async fn orders(&self) -> BTreeMap<String, Vec<(String, i64)>> {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT charge, item, quantity FROM orders").fetch_all(&self.pool).await.expect("orders");
        let mut orders = BTreeMap::<_, Vec<_>>::new();
        for (charge, item, quantity) in rows {
            orders.entry(charge).or_default().push((item, quantity));
        }
        orders
    }

    async fn available(&self, item: &str) -> i64 {
        let available = sqlx::query_scalar("SELECT available FROM stock WHERE item = $1").bind(item);
        available.fetch_one(&self.pool).await.expect("a number")
    }
}

fn hex_digest(key: &str) -> String {
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}
