//! Clients that send an order until it is answered, to whatever shop is open.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use hyper::Request;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::demo::client::{self, Answer, post_order};
use crate::demo::program::Program;

/// How many orders a client tries at a time, in turn: one that a killed shop has begun has to wait for its lease.
const OPEN: usize = 8;

#[derive(Debug, Clone, Copy)]
pub(super) struct Order(usize);

impl Order {
    pub(super) fn key(self) -> String {
        format!("k-{}", self.0)
    }

    pub(super) fn card(self) -> String {
        let kind = if self.0.is_multiple_of(5) { "declined" } else { "visa" };
        format!("{kind}-{}", self.0)
    }

    /// Relics are withdrawn from sale now and then.
    pub(super) fn item(self) -> &'static str {
        if self.0.is_multiple_of(3) { "relic" } else { "lamp" }
    }

    pub(super) fn quantity(self) -> i64 {
        1 + i64::try_from(self.0 % 4).expect("a small number")
    }

    fn request(self) -> Request<String> {
        let (item, quantity, card) = (self.item(), self.quantity(), self.card());
        post_order("ada", &self.key(), format!(r#"{{"item": "{item}", "quantity": {quantity}, "card": "{card}"}}"#))
    }
}

pub(super) struct Clients {
    shop: watch::Sender<SocketAddr>,
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<(Order, Answer)>>,
}

#[derive(Default)]
struct Shared {
    /// No new orders.
    is_closing: AtomicBool,
    orders: AtomicUsize,
}

impl Clients {
    pub(super) fn start(number: usize, shop: SocketAddr) -> Self {
        let (shop, shared) = (watch::Sender::new(shop), Arc::<Shared>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..number {
            tasks.spawn(order(shop.subscribe(), Arc::clone(&shared)));
        }
        Self { shop, shared, tasks }
    }

    pub(super) fn turn_to(&self, shop: SocketAddr) {
        self.shop.send_replace(shop);
    }

    /// Lets them get the answers that they wait for. Each order with its final answer.
    pub(super) async fn finish(&mut self) -> Vec<(Order, Answer)> {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        let mut answered = Vec::new();
        while let Some(client) = self.tasks.join_next().await {
            answered.extend(client.expect("a client that got answers it knows"));
        }
        answered
    }
}

async fn order(shop: watch::Receiver<SocketAddr>, shared: Arc<Shared>) -> Vec<(Order, Answer)> {
    let (mut open, mut answered) = (VecDeque::new(), Vec::new());
    loop {
        if open.len() < OPEN && !shared.is_closing.load(Ordering::SeqCst) {
            open.push_front(Order(shared.orders.fetch_add(1, Ordering::SeqCst)));
        }
        let Some(order) = open.pop_front() else { return answered };
        let address = *shop.borrow();
        match client::send(address, order.request()).await {
            Ok(answer) if is_final(&answer) => answered.push((order, answer)),
            Ok(answer) => {
                assert!(is_to_come_again(&answer), "{order:?}: {answer:?}");
                open.push_back(order);
            }
            // Killed, or not there yet.
            Err(_) => open.push_back(order),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn is_final(answer: &Answer) -> bool {
    matches!(answer.status, StatusCode::CREATED | StatusCode::PAYMENT_REQUIRED | StatusCode::GONE)
}

/// Whether it is an answer that a client may get whose provider and whose server fail. `sold_out` is what a relic is
/// that is not on sale.
fn is_to_come_again(answer: &Answer) -> bool {
    const CONFLICTS: [&str; 3] = ["key_in_flight", "lease_lost", "sold_out"];
    const UNAVAILABLE: [&str; 5] =
        ["attempt_too_soon", "payment_pending", "retry_later", "store_unavailable", "undo_failed"];
    let is = |status, codes: &[&str]| codes.iter().any(|code| answer.is_refusal(status, code));
    is(StatusCode::CONFLICT, &CONFLICTS) || is(StatusCode::SERVICE_UNAVAILABLE, &UNAVAILABLE)
}

/// Each order once more: the first answer comes back.
pub(super) async fn assert_replayed(server: &Program, answered: &[(Order, Answer)]) {
    for (order, first) in answered {
        let again = server.send(order.request()).await.expect("an answer");
        // The answer itself may have been a replay, of one that was lost.
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{order:?}");
        assert!(!again.is_fresh(again.status), "{order:?}: {again:?}");
    }
}
