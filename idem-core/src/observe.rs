//! Whether a plain function's result is of this call or of an earlier one.

use std::cell::Cell;
use std::future::Future;

/// A result, and where it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<T> {
    /// What the call gave.
    pub result: T,
    /// Whether it is the stored result of an earlier run.
    pub replayed: bool,
}

tokio::task_local! {
    static REPLAYED: Cell<bool>;
}

/// Awaits the call of an idempotent function, and tells whether its result was replayed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # async fn on_shipped() -> u8 { 1 }
/// let seen = idem_core::observe(on_shipped()).await;
/// assert!(!seen.replayed);
/// # }
/// ```
///
/// # Rules
/// - It is about the call that is awaited, not about calls that its body makes.
/// - A refusal is not a replay.
/// - The call is awaited here: what it spawns is not seen.
pub async fn observe<T>(call: impl Future<Output = T>) -> Observed<T> {
    let observed = async {
        let result = call.await;
        Observed { result, replayed: REPLAYED.with(Cell::get) }
    };
    REPLAYED.scope(Cell::new(false), observed).await
}

/// The outermost call is the last to say so.
pub(crate) fn note(replayed: bool) {
    // Nobody may be looking.
    let _unobserved = REPLAYED.try_with(|cell| cell.set(replayed));
}
