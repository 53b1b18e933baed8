//! A hint in the memory of the process.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Hint;
use super::secret::{Name, Secret};
use crate::observer::Source;

/// Replies in the memory of the process, up to a size.
///
/// # Rules
/// - Its secret is random, and lives as long as the process.
/// - If it is full, entries go that were not asked for lately.
/// - A reply that would take more than an eighth of it is not kept.
pub struct Memory {
    secret: Secret,
    table: Mutex<Table>,
}

/// What an entry takes beside its value: its two names, and its places in both collections.
const SLOT: usize = 160;

impl Memory {
    /// A memory of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        // Without randomness nothing is kept.
        let (secret, most) = Secret::random().map_or((Secret::of(&[]), 0), |secret| (secret, bytes));
        Self { secret, table: Mutex::new(Table { most, ..Table::default() }) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics half way through a change of the table.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hint for Memory {
    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(ready(self.table().get(name)))
    }

    fn put<'a>(&'a self, name: &'a Name, value: Bytes, _lifetime: Duration) -> BoxFuture<'a, ()> {
        self.table().put(*name, value);
        Box::pin(ready(()))
    }

    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, ()> {
        self.table().put(*name, Bytes::new());
        Box::pin(ready(()))
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn source(&self) -> Source {
        Source::Memory
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Table {
    most: usize,
    size: usize,
    slots: HashMap<Name, Slot>,
    /// Each name once, in the order in which they are looked at when the table is full.
    order: VecDeque<Name>,
}

struct Slot {
    value: Bytes,
    /// Whether it was asked for since it was last looked at.
    is_used: bool,
}

impl Table {
    fn get(&mut self, name: &Name) -> Option<Bytes> {
        let slot = self.slots.get_mut(name)?;
        slot.is_used = true;
        Some(slot.value.clone())
    }

    fn put(&mut self, name: Name, value: Bytes) {
        let len = value.len();
        // An earlier value would be as wrong as none.
        let value = if len + SLOT > self.most / 8 { Bytes::new() } else { value };
        match self.slots.get_mut(&name) {
            Some(slot) => {
                self.size = self.size + value.len() - slot.value.len();
                slot.value = value;
            }
            None if value.is_empty() => {}
            None => {
                self.size += value.len() + SLOT;
                self.slots.insert(name, Slot { value, is_used: false });
                self.order.push_back(name);
            }
        }
        self.make_room();
    }

    /// Second chance: an entry that was asked for goes to the end of the order once.
    fn make_room(&mut self) {
        while self.size > self.most {
            let Some(name) = self.order.pop_front() else { return };
            match self.slots.get_mut(&name) {
                Some(slot) if slot.is_used => {
                    slot.is_used = false;
                    self.order.push_back(name);
                }
                Some(slot) => {
                    self.size -= slot.value.len() + SLOT;
                    self.slots.remove(&name);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn names() -> impl Fn(usize) -> Name {
        let secret = Secret::random().expect("randomness");
        move |number| {
            let identity = Identity::new("scope", "hint", &format!("k{number}")).expect("an identity");
            secret.name(&identity.digest())
        }
    }

    fn value(len: usize) -> Bytes {
        vec![1; len].into()
    }

    #[test]
    fn r38_a_memory_has_a_size_and_keeps_what_is_asked_for() {
        let name = names();
        let mut table = Table { most: 100 * (SLOT + 100), ..Table::default() };
        for number in 0..1000 {
            table.put(name(number), value(100));
            assert!(table.get(&name(0)).is_some(), "asked for each time: {number}");
            assert!(table.size <= table.most && table.slots.len() == table.order.len());
        }
        assert_eq!(table.slots.len(), 100);
        assert!(table.get(&name(999)).is_some() && table.get(&name(500)).is_none());
    }

    #[test]
    fn r38_a_value_is_replaced_and_removed_and_a_large_one_is_not_kept() {
        let name = names();
        let mut table = Table { most: 8 * (SLOT + 100), ..Table::default() };
        table.put(name(1), value(10));
        table.put(name(1), value(100));
        assert_eq!((table.get(&name(1)), table.size), (Some(value(100)), SLOT + 100));
        table.put(name(1), value(101));
        assert_eq!((table.get(&name(1)), table.size), (Some(Bytes::new()), SLOT), "neither it nor the earlier one");
        table.put(name(2), Bytes::new());
        assert_eq!((table.get(&name(2)), table.order.len()), (None, 1));
    }
}
