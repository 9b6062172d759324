//! What was heard of devices behind nodes since the start: in memory, with bounds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::fleet::edits::life::Node;

/// Births that are remembered of devices that the registry does not have.
const STRANGERS_MAX: usize = 10_000;

pub(super) type Client = (Arc<str>, Option<Arc<str>>);

/// What was heard of devices since the start.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Born {
    /// By which clients of this broker devices of the registry were born, and are alive: as
    /// many as there may be devices.
    alive: Mutex<HashMap<String, Alive>>,
    /// By whom others were born, at most [`STRANGERS_MAX`].
    strangers: Mutex<HashMap<String, (Node, Instant)>>,
    /// Devices of the registry that were born in an earlier session of their node, and not
    /// in the one that began then.
    doubted: Mutex<HashMap<String, Instant>>,
}

#[derive(Debug, Clone)]
pub(super) struct Alive {
    pub(super) client: Client,
    pub(super) since: Instant,
}

impl Born {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, Alive>) -> T) -> T {
        change(&mut lock(&self.alive))
    }

    /// Births and deaths were heard, of which those of some devices were `noted`.
    pub(super) fn heard(&self, lives: &[(String, bool)], noted: &[String], node: &Node) {
        let (mut strangers, mut doubted) = (lock(&self.strangers), lock(&self.doubted));
        for (device, is_birth) in lives {
            let is_noted = noted.contains(device);
            if is_noted {
                doubted.remove(device);
            }
            if is_noted || !is_birth {
                strangers.remove(device);
            } else if strangers.contains_key(device) || strangers.len() < STRANGERS_MAX {
                strangers.insert(device.clone(), (node.clone(), Instant::now()));
            }
        }
    }

    /// A node died, and with it whatever is behind it.
    pub(super) fn died(&self, is_meant: impl Fn(&str) -> bool, node: &Node) {
        let client = (node.client_id.clone(), node.user.clone());
        let is_of = |other: &Client| *other == client;
        lock(&self.alive).retain(|known, alive| !is_meant(known) || !is_of(&alive.client));
        lock(&self.strangers).retain(|known, (node, _)| {
            !is_meant(known) || !is_of(&(node.client_id.clone(), node.user.clone()))
        });
    }

    /// These were born before the session of their node that begins now.
    pub(super) fn doubt(&self, devices: Vec<String>) {
        let now = Instant::now();
        let mut doubted = lock(&self.doubted);
        for device in devices {
            doubted.entry(device).or_insert(now);
        }
    }

    /// Those who have been doubted for so long are dead.
    pub(super) fn dead_by_doubt(&self, patience: Duration) -> BTreeSet<String> {
        let mut doubted = lock(&self.doubted);
        let due = doubted.extract_if(|_, since| since.elapsed() >= patience);
        let due: BTreeSet<String> = due.map(|(device, _)| device).collect();
        drop(doubted);
        let mut alive = lock(&self.alive);
        for device in &due {
            alive.remove(device);
        }
        due
    }

    /// Who was born and is not in the registry, but for those whose client is gone.
    pub(super) fn strangers(
        &self,
        known: impl Fn(&Client) -> bool,
        patience: Duration,
    ) -> Vec<String> {
        let mut strangers = lock(&self.strangers);
        strangers.retain(|_, (node, since)| {
            let client = (node.client_id.clone(), node.user.clone());
            node.is_elsewhere || since.elapsed() < patience || known(&client)
        });
        strangers.keys().cloned().collect()
    }

    /// By whom one of them was born.
    pub(super) fn node_of(&self, stranger: &str) -> Option<Node> {
        let strangers = lock(&self.strangers);
        strangers.get(stranger).map(|(node, _)| node.clone())
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
