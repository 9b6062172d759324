//! A few at a time, and no address before all others.
//!
//! Checks that cost something wait for one of a number of places. Those from one
//! address wait among themselves first, and no more of them than there are places
//! stand in the common queue: who comes from elsewhere waits for few of them,
//! however many there are. An IPv6 address stands for its /64. What waits here is
//! bounded by the connections that there may be.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lockout::network;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    of_one_address: usize,
    addresses: Mutex<HashMap<IpAddr, Turns>>,
}

/// Those of one address, and how many there are.
#[derive(Debug)]
struct Turns {
    places: Arc<Semaphore>,
    count: usize,
}

/// One of the places, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Counts one of an address for as long as it lives.
#[derive(Debug)]
struct Counted {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// `count` places, of which one address has at most `of_one_address`.
    pub(super) fn new(count: usize, of_one_address: usize) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(count)),
            of_one_address: of_one_address.clamp(1, count.max(1)),
            addresses: Mutex::default(),
        })
    }

    /// Waits for a place. `None` only when there will be none any more.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let (own, counted) = self.queue(network(address));
        let own = own.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place {
            _all: all,
            _own: own,
            _counted: counted,
        })
    }

    fn queue(self: &Arc<Self>, address: IpAddr) -> (Arc<Semaphore>, Counted) {
        let mut addresses = self.lock();
        let turns = addresses.entry(address).or_insert_with(|| Turns {
            places: Arc::new(Semaphore::new(self.of_one_address)),
            count: 0,
        });
        turns.count += 1;
        let counted = Counted {
            places: Arc::clone(self),
            address,
        };
        (Arc::clone(&turns.places), counted)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Turns>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut addresses = self.places.lock();
        if let Some(turns) = addresses.get_mut(&self.address) {
            turns.count -= 1;
            if turns.count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn one_address_does_not_keep_the_others_waiting() {
        let places = Places::new(1, 1);
        let first = places.take([10, 0, 0, 1].into()).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = JoinSet::new();
        for address in [[10, 0, 0, 1], [10, 0, 0, 1], [10, 0, 0, 1], [10, 0, 0, 2]] {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            waiting.spawn(async move {
                let place = places.take(address.into()).await.unwrap();
                order.lock().unwrap().push(address[3]);
                drop(place);
            });
            // Queues before the next one does.
            yield_now().await;
        }
        drop(first);
        while waiting.join_next().await.is_some() {}
        assert_eq!(order.lock().unwrap()[0], 2, "{order:?}");
        assert!(places.lock().is_empty(), "nothing is kept of who has gone");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let places = Places::new(1, 1);
        let place = places.take([10, 0, 0, 1].into()).await.unwrap();
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take([10, 0, 0, 2].into()).await.is_some() }
        });
        yield_now().await;
        assert_eq!(places.lock().len(), 2);
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        drop(place);
        assert!(places.lock().is_empty());
        assert!(places.take([10, 0, 0, 2].into()).await.is_some());
    }
}
