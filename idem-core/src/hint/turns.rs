//! One look-up at a time for one identity.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets one request after the other look its identity up. The first one's answer answers the others.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<[u8; 32], Arc<Semaphore>>>>);

impl Turns {
    /// The next turn of the identity with this [digest](crate::Identity::digest): at once, if no other request has it.
    ///
    /// # Cancel safety
    /// Dropped, it has no turn.
    pub async fn next(&self, digest: [u8; 32]) -> Turn {
        let turns = {
            let mut table = self.table();
            table.entry(digest).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        let mut turn = Turn { turns: self.clone(), digest, queue: Some(turns.clone()), permit: None };
        // A semaphore that is never closed. Its queue is fair.
        turn.permit = turns.acquire_owned().await.ok();
        turn
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Semaphore>>> {
        // No code panics half way through a change of the table.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

/// The turn of one request. The next one's begins when it is dropped.
pub struct Turn {
    turns: Turns,
    digest: [u8; 32],
    queue: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        self.queue = None;
        if let Entry::Occupied(queue) = self.turns.table().entry(self.digest)
            && Arc::strong_count(queue.get()) == 1
        {
            // Nobody has it or waits for it. Who comes next has to ask the table.
            queue.remove();
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn r38_one_request_at_a_time_looks_an_identity_up() {
        let (turns, at_work) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
        let mut requests = JoinSet::new();
        for number in 0..64 {
            let (turns, at_work) = (turns.clone(), at_work.clone());
            requests.spawn(async move {
                let turn = turns.next([7; 32]).await;
                assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                yield_now().await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                drop(turn);
                drop(turns.next([number; 32]).await);
            });
        }
        while let Some(done) = requests.join_next().await {
            done.expect("no panic");
        }
        assert!(turns.table().is_empty(), "nothing is left");
    }

    #[test]
    fn r38_a_dropped_wait_has_no_turn() {
        let turns = Turns::default();
        let first = turns.next([7; 32]).now_or_never().expect("at once");
        assert!(turns.next([8; 32]).now_or_never().is_some(), "another identity");
        assert!(turns.next([7; 32]).now_or_never().is_none());
        let mut waiting = pin!(turns.next([7; 32]));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!(turns.next([7; 32]).now_or_never().is_none(), "it is the turn of the one that waits");
        assert!(waiting.now_or_never().is_some());
        assert!(turns.table().is_empty());
    }
}
