//! What Sparkplug nodes said at their birth: later messages name metrics by their
//! numbers alone.
//!
//! Kept in memory, within a bound, for each client by itself: what one client says
//! of a node never changes what another's messages mean. After a restart nothing
//! is known, and messages that need it are quarantined as `state` until the node
//! is born again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What all births together may take, about.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A metric in two maps takes about so much besides its name.
const METRIC_BYTES: usize = 192;

/// A metric as its birth described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    /// The device of the node, empty for the node itself.
    pub(super) device: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) datatype: Option<u64>,
}

/// What a node and its devices said.
#[derive(Debug, Clone, Default)]
pub(super) struct Born {
    /// When the node was born, in its own milliseconds.
    pub(super) at: u64,
    by_alias: HashMap<u64, Metric>,
    by_name: HashMap<(Arc<str>, Arc<str>), Option<u64>>,
    bytes: usize,
    /// The order of births: the oldest is forgotten first.
    turn: u64,
}

impl Born {
    pub(super) fn by_alias(&self, alias: u64) -> Option<&Metric> {
        self.by_alias.get(&alias)
    }

    /// The type of a metric, where its birth gave one.
    pub(super) fn datatype(&self, device: &str, name: &str) -> Option<u64> {
        *self.by_name.get(&(device.into(), name.into()))?
    }

    fn add(&mut self, alias: Option<u64>, metric: Metric) {
        self.bytes += metric.name.len() + METRIC_BYTES;
        let key = (metric.device.clone(), metric.name.clone());
        self.by_name.insert(key, metric.datatype);
        if let Some(alias) = alias {
            self.by_alias.insert(alias, metric);
        }
    }
}

/// All nodes that are born.
#[derive(Debug, Default)]
pub struct Births(Mutex<Nodes>);

#[derive(Debug, Default)]
struct Nodes {
    born: HashMap<Box<str>, Arc<Born>>,
    bytes: usize,
    turn: u64,
}

impl Births {
    /// What a node said, if it is known.
    pub(super) fn get(&self, client_id: &str, node: &str) -> Option<Arc<Born>> {
        self.lock().born.get(&*key(client_id, node)).cloned()
    }

    /// A node was born, or born again: its aliases and those of its devices are new.
    /// A birth from before the known one, out of quarantine say, changes nothing.
    pub(super) fn node(
        &self,
        client_id: &str,
        node: &str,
        at: u64,
        metrics: Vec<(Option<u64>, Metric)>,
    ) {
        let mut nodes = self.lock();
        let key = key(client_id, node);
        if nodes.born.get(&key).is_some_and(|known| known.at > at) {
            return;
        }
        let mut born = Born {
            at,
            ..Born::default()
        };
        for (alias, metric) in metrics {
            born.add(alias, metric);
        }
        nodes.keep(key, born);
    }

    /// A device of a node was born, or born again.
    pub(super) fn device(
        &self,
        client_id: &str,
        node: &str,
        at: u64,
        metrics: Vec<(Option<u64>, Metric)>,
    ) {
        let mut nodes = self.lock();
        let key = key(client_id, node);
        let known = nodes.born.get(&key);
        if known.is_some_and(|known| known.at > at) {
            return;
        }
        let mut born = known.map_or_else(Born::default, |known| Born::clone(known));
        for (alias, metric) in metrics {
            born.add(alias, metric);
        }
        nodes.keep(key, born);
    }

    /// A node has died: its aliases mean nothing any more.
    pub(super) fn death(&self, client_id: &str, node: &str) {
        let mut nodes = self.lock();
        if let Some(dead) = nodes.born.remove(&*key(client_id, node)) {
            nodes.bytes -= dead.bytes;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Nodes> {
        // Nothing panics while the lock is held, and a map is whole even so.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    fn keep(&mut self, key: Box<str>, mut born: Born) {
        self.turn += 1;
        born.turn = self.turn;
        // Maps without metrics take something too.
        born.bytes = born.bytes.max(METRIC_BYTES) + key.len();
        self.bytes += born.bytes;
        if let Some(before) = self.born.insert(key, Arc::new(born)) {
            self.bytes -= before.bytes;
        }
        while self.bytes > BYTES_MAX {
            let oldest = self.born.iter().min_by_key(|(_, born)| born.turn);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            if let Some(forgotten) = self.born.remove(&oldest) {
                self.bytes -= forgotten.bytes;
            }
        }
    }
}

fn key(client_id: &str, node: &str) -> Box<str> {
    // No identifier of MQTT has a null character in it.
    format!("{client_id}\0{node}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str) -> Metric {
        Metric {
            device: "".into(),
            name: name.into(),
            datatype: Some(10),
        }
    }

    #[test]
    fn a_birth_replaces_the_one_before_and_not_the_one_after() {
        let births = Births::default();
        births.node("c", "G/N", 5, vec![(Some(1), metric("a"))]);
        births.device("c", "G/N", 6, vec![(Some(2), metric("b"))]);
        births.node("c", "G/N", 4, vec![(Some(1), metric("old"))]);
        let known = births.get("c", "G/N").unwrap();
        assert_eq!(known.by_alias(1), Some(&metric("a")));
        assert_eq!(known.by_alias(2), Some(&metric("b")));
        births.node("c", "G/N", 7, vec![(Some(1), metric("new"))]);
        let known = births.get("c", "G/N").unwrap();
        assert_eq!(known.by_alias(1), Some(&metric("new")));
        assert_eq!(known.by_alias(2), None);
        births.death("c", "G/N");
        assert!(births.get("c", "G/N").is_none());
    }

    #[test]
    fn one_client_does_not_say_what_anothers_messages_mean() {
        let births = Births::default();
        births.node("c", "G/N", 5, vec![(Some(1), metric("a"))]);
        births.node("d", "G/N", 6, vec![(Some(1), metric("other"))]);
        assert_eq!(
            births.get("c", "G/N").unwrap().by_alias(1),
            Some(&metric("a"))
        );
    }

    #[test]
    fn births_stay_within_their_bound_and_the_oldest_goes_first() {
        let births = Births::default();
        let long = "n".repeat(10_000);
        for node in 0..3_000 {
            births.node("c", &format!("G/{node}"), 1, vec![(Some(1), metric(&long))]);
            // The same node again and again is one node.
            births.node("c", "G/again", 1, vec![(Some(1), metric(&long))]);
        }
        assert!(births.get("c", "G/0").is_none());
        assert!(births.get("c", "G/2999").is_some());
        assert!(births.get("c", "G/again").is_some());
        let nodes = births.lock();
        assert!(nodes.bytes <= BYTES_MAX);
        let sum: usize = nodes.born.values().map(|born| born.bytes).sum();
        assert_eq!(nodes.bytes, sum);
    }
}
