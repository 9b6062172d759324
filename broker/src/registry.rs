//! Who is connected under which client identifier: at most one session each.
//!
//! An identifier belongs to the user whose session holds it: the session of another
//! user is not ended by a client that asks for the same one. What an anonymous
//! client holds anybody may take.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

use crate::roster::Client;

/// The sessions by client identifier; as many as there are connections.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    seats: Mutex<HashMap<Arc<str>, Holder>>,
}

#[derive(Debug, Clone)]
struct Holder {
    owner: Option<Arc<str>>,
    leave: CancellationToken,
    gone: CancellationToken,
    /// Whether it is an operator who wants the session to leave.
    kicked: Arc<AtomicBool>,
    /// The session, once it is established.
    client: Option<Arc<Client>>,
}

/// The right to be the session of a client identifier; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    registry: Arc<Registry>,
    client_id: Arc<str>,
    holder: Holder,
}

/// The session of another user holds the seat.
#[derive(Debug)]
pub(crate) struct Taken;

impl Registry {
    /// Takes the seat of `client_id` for `owner`. A session that holds it is told to
    /// leave and is waited for, so that nothing of it comes after the new one.
    ///
    /// # Errors
    /// When it is another user's.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        owner: Option<&Arc<str>>,
    ) -> Result<Seat, Taken> {
        loop {
            let before = {
                let mut seats = self.lock();
                match seats.get(client_id) {
                    Some(holder) if holder.owner.is_some() && holder.owner.as_ref() != owner => {
                        return Err(Taken);
                    }
                    Some(holder) => holder.clone(),
                    None => {
                        let holder = Holder {
                            owner: owner.cloned(),
                            leave: CancellationToken::new(),
                            gone: CancellationToken::new(),
                            kicked: Arc::default(),
                            client: None,
                        };
                        seats.insert(Arc::clone(client_id), holder.clone());
                        return Ok(Seat {
                            registry: Arc::clone(self),
                            client_id: Arc::clone(client_id),
                            holder,
                        });
                    }
                }
            };
            before.leave.cancel();
            before.gone.cancelled().await;
        }
    }

    /// Tells the session of `client_id` to leave; whether there is one.
    pub(crate) fn kick(&self, client_id: &str) -> bool {
        let seats = self.lock();
        let Some(holder) = seats.get(client_id) else {
            return false;
        };
        // One that gives way to its successor is told so.
        if !holder.leave.is_cancelled() {
            holder.kicked.store(true, Relaxed);
            holder.leave.cancel();
        }
        true
    }

    /// Everybody who is connected, in no order.
    pub(crate) fn clients(&self) -> Vec<Arc<Client>> {
        let seats = self.lock();
        seats
            .values()
            .filter_map(|one| one.client.clone())
            .collect()
    }

    /// The client of that identifier, if it is connected.
    pub(crate) fn client(&self, client_id: &str) -> Option<Arc<Client>> {
        self.lock().get(client_id)?.client.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Holder>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Shows the client that sits here in lists.
    pub(crate) fn show(&self, client: Arc<Client>) {
        if let Some(holder) = self.registry.lock().get_mut(&self.client_id) {
            holder.client = Some(client);
        }
    }

    /// Whether it is an operator who wants the seat to be empty.
    pub(crate) fn is_kicked(&self) -> bool {
        self.holder.kicked.load(Relaxed)
    }

    /// Resolves when another connection wants the seat, or an operator wants it empty.
    pub(crate) async fn asked_to_leave(&self) {
        self.holder.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.client_id);
        self.holder.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seat_changes_hands_only_when_its_holder_is_gone() {
        let registry = Arc::new(Registry::default());
        let id: Arc<str> = Arc::from("x");
        let first = registry.enter(&id, None).await.unwrap();
        let other = tokio::spawn({
            let (registry, id) = (Arc::clone(&registry), Arc::clone(&id));
            async move { registry.enter(&id, None).await }
        });
        first.asked_to_leave().await;
        tokio::task::yield_now().await;
        assert!(!other.is_finished());
        drop(first);
        let second = other.await.unwrap().unwrap();
        assert_eq!(registry.lock().len(), 1);
        drop(second);
        assert_eq!(registry.lock().len(), 0);
    }

    #[tokio::test]
    async fn the_seat_of_one_user_is_not_taken_by_another() {
        let registry = Arc::new(Registry::default());
        let (id, one, other): (Arc<str>, Arc<str>, Arc<str>) =
            (Arc::from("x"), Arc::from("one"), Arc::from("other"));
        let held = registry.enter(&id, Some(&one)).await.unwrap();
        assert!(registry.enter(&id, Some(&other)).await.is_err());
        assert!(registry.enter(&id, None).await.is_err());
        assert!(!held.holder.leave.is_cancelled());
        drop(held);
        assert!(registry.enter(&id, Some(&other)).await.is_ok());
    }
}
