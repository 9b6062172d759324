//! What is made of the next batch while another one is on its way.
//!
//! Only made, and on another thread: nothing of it is handed over or sent before its turn,
//! and where another batch comes instead it is made anew. At most one is there at a time.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinHandle;

use super::batch::{Batch, Item};

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead<T>(Mutex<Option<Making<T>>>);

#[derive(Debug)]
struct Making<T> {
    batch: Batch,
    made: JoinHandle<T>,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Begins; what was made before and not taken is forgotten.
    pub(super) fn begin(&self, batch: Batch, make: impl FnOnce(&[Item]) -> T + Send + 'static) {
        let items = batch.items.clone();
        let made = tokio::task::spawn_blocking(move || make(&items));
        *self.lock() = Some(Making { batch, made });
    }

    /// What was made of this very batch.
    pub(super) async fn take(&self, batch: &Batch) -> Option<T> {
        let making = self
            .lock()
            .take_if(|making| is_same(&making.batch, batch))?;
        making.made.await.ok()
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Making<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two batches have the same records: a position is given once.
fn is_same(one: &Batch, other: &Batch) -> bool {
    let positions = |batch: &Batch| batch.items.iter().map(Item::position).collect::<Vec<_>>();
    one.items.len() == other.items.len() && positions(one) == positions(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::batch;

    #[tokio::test]
    async fn what_was_made_is_for_the_very_batch_and_once() {
        let ahead = Ahead::default();
        let count = |items: &[Item]| items.len();
        ahead.begin(batch([3, 4]), count);
        assert_eq!(ahead.take(&batch([1, 2])).await, None);
        assert_eq!(ahead.take(&batch([3])).await, None);
        assert_eq!(ahead.take(&batch([3, 4])).await, Some(2));
        assert_eq!(ahead.take(&batch([3, 4])).await, None);
        ahead.begin(batch([5]), count);
        ahead.begin(batch([6]), count);
        assert_eq!(ahead.take(&batch([5])).await, None);
        assert_eq!(ahead.take(&batch([6])).await, Some(1));
    }
}
