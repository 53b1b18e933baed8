//! Tells whether a plain function's result was replayed.

use std::cell::Cell;
use std::future::Future;

/// A result, and whether it was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<T> {
    /// The result of the call.
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
/// - Only the awaited call counts, not the calls that its body makes.
/// - A refusal is not a replay.
/// - Calls in tasks that the awaited call spawns are not seen.
pub async fn observe<T>(call: impl Future<Output = T>) -> Observed<T> {
    let observed = async {
        let result = call.await;
        Observed { result, replayed: REPLAYED.with(Cell::get) }
    };
    REPLAYED.scope(Cell::new(false), observed).await
}

/// Notes whether the call was replayed. The outermost call notes it last.
pub(crate) fn note(replayed: bool) {
    // The call may not be observed.
    let _unobserved = REPLAYED.try_with(|cell| cell.set(replayed));
}
