//! What the README says, with many calls at once.

use futures_util::future::join_all;
use idem_core::{Kind, observe};
use idem_sqlx::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;
use transfers::accounts::{Moved, Order, TransferError, open_account, transfer};
use transfers::orders::{Done, OrderError, capture, place_order};

struct Bank {
    _folder: TempDir,
    pool: SqlitePool,
    store: SqliteStore,
    ada: i64,
    bob: i64,
}

impl Bank {
    /// Ada has 100, and Bob nothing.
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteConnectOptions::new().filename(folder.path().join("bank.db"));
        let pool = transfers::open(options).await.expect("a database");
        let store = SqliteStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        let ada = open_account(&store, "ada", "a", "ada's", 100).await.expect("an account").id;
        let bob = open_account(&store, "bob", "b", "bob's", 0).await.expect("an account").id;
        Self { _folder: folder, pool, store, ada, bob }
    }

    fn order(&self, amount: i64) -> Order {
        Order { from: self.ada, to: self.bob, amount }
    }

    async fn pay(&self, request: &str, amount: i64) -> Result<Moved, TransferError> {
        transfer(&self.store, "ada", request, &self.order(amount)).await
    }

    async fn balances(&self) -> (i64, i64) {
        let balance = async |id: i64| {
            let query = sqlx::query_scalar("SELECT balance FROM accounts WHERE id = $1").bind(id);
            query.fetch_one(&self.pool).await.expect("an account")
        };
        (balance(self.ada).await, balance(self.bob).await)
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }
}

fn in_flight<T>(result: &Result<T, TransferError>) -> bool {
    matches!(result, Err(TransferError::Store(error)) if error.kind() == Kind::KeyInFlight)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_calls_at_once_move_the_money_once() {
    let bank = Bank::open().await;
    let results = join_all((0..50).map(|_| observe(bank.pay("rent", 30)))).await;
    let moved = results.iter().filter(|seen| seen.result.as_ref().is_ok_and(|moved| moved.left == 70)).count();
    let refused = results.iter().filter(|seen| in_flight(&seen.result)).count();
    assert!(moved >= 1 && moved + refused == 50, "{moved} moved, {refused} refused");
    assert_eq!(bank.balances().await, (70, 30));
    let retry = observe(bank.pay("rent", 30)).await;
    assert!(retry.replayed && retry.result.expect("the first answer").left == 70);
    assert_eq!(bank.balances().await, (70, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_account_goes_below_zero_and_no_money_is_made_or_lost() {
    let bank = Bank::open().await;
    let requests: Vec<_> = (0..20).map(|at| format!("pay-{at}")).collect();
    let results = join_all(requests.iter().map(|request| bank.pay(request, 10))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(TransferError::NotEnough))).count(), 10);
    assert_eq!(bank.balances().await, (0, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_is_never_half() {
    let bank = Bank::open().await;
    // The account that is paid is missing, which is found out after the other one has paid.
    let order = Order { to: 4711, ..bank.order(30) };
    for _ in 0..2 {
        let refused = transfer(&bank.store, "ada", "to-nobody", &order).await;
        assert!(matches!(refused, Err(TransferError::NoSuchAccount)), "{refused:?}");
    }
    assert_eq!(bank.balances().await, (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_stays_also_when_there_is_money() {
    let bank = Bank::open().await;
    assert!(matches!(bank.pay("car", 500).await, Err(TransferError::NotEnough)));
    sqlx::query("UPDATE accounts SET balance = 1000").execute(&bank.pool).await.expect("money");
    assert!(matches!(bank.pay("car", 500).await, Err(TransferError::NotEnough)));
    assert_eq!(bank.pay("car, again", 500).await.expect("moved").left, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_amount_is_another_request_and_another_owner_has_keys_of_their_own() {
    let bank = Bank::open().await;
    bank.pay("rent", 30).await.expect("moved");
    let refused = bank.pay("rent", 31).await;
    assert!(matches!(&refused, Err(TransferError::Store(error)) if error.kind() == Kind::KeyReused), "{refused:?}");
    let bobs = transfer(&bank.store, "bob", "rent", &bank.order(30)).await;
    assert!(matches!(bobs, Err(TransferError::NoSuchAccount)), "it is not Bob's account: {bobs:?}");
    assert_eq!(bank.balances().await, (70, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_opened_once() {
    let bank = Bank::open().await;
    let opened = join_all((0..10).map(|_| open_account(&bank.store, "eve", "open", "eve's", 5))).await;
    assert!(opened.iter().all(|result| result.is_ok() || in_flight(result)));
    assert_eq!(bank.number("SELECT count(*) FROM accounts WHERE owner = 'eve'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_placed_once_without_a_record() {
    let bank = Bank::open().await;
    let placed = join_all((0..50).map(|_| place_order(&bank.pool, "ada", "book-7", 25))).await;
    let placed: Vec<_> = placed.into_iter().map(|order| order.expect("an order").id).collect();
    assert!(placed.iter().all(|id| *id == placed[0]));
    assert!(matches!(place_order(&bank.pool, "ada", "book-7", 26).await, Err(OrderError::OtherOrder)));
    assert_ne!(place_order(&bank.pool, "bob", "book-7", 25).await.expect("an order").id, placed[0]);
    assert_eq!(bank.number("SELECT count(*) FROM orders").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_captured_by_one_of_many() {
    let bank = Bank::open().await;
    let order = place_order(&bank.pool, "ada", "book-7", 25).await.expect("an order");
    let captured = join_all((0..50).map(|_| capture(&bank.pool, order.id))).await;
    let now = captured.iter().filter(|done| matches!(done, Ok(Done::Now))).count();
    let already = captured.iter().filter(|done| matches!(done, Ok(Done::Already))).count();
    assert_eq!((now, already), (1, 49));
    assert!(matches!(capture(&bank.pool, 4711).await, Err(OrderError::NoSuchOrder)));
}
