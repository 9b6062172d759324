//! What Sparkplug nodes said at their birth: later messages name metrics by their
//! numbers alone.
//!
//! Kept in memory, within a bound, for each client by itself: what one client says
//! of a node never changes what another's messages mean. After a restart nothing
//! is known, and messages that need it are quarantined as `state` until the node
//! is born again.
//!
//! The last birth to arrive counts, whatever the node's clock says. A message that
//! is tried again out of quarantine teaches nothing, and learns only from births
//! that came before it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::event::Timestamp;

/// What all births together may take, about.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A metric in two maps takes about so much besides its name; so does a device or
/// a node without any.
const METRIC_BYTES: usize = 192;

/// A metric as its birth described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: Arc<str>,
    pub(super) datatype: Option<u64>,
}

/// What a node said of itself, or of one of its devices.
#[derive(Debug)]
pub(super) struct Metrics {
    /// When it was received.
    received: Timestamp,
    /// When it was sent, in the node's own milliseconds.
    pub(super) sent: u64,
    by_alias: HashMap<u64, Metric>,
    by_name: HashMap<Arc<str>, Option<u64>>,
    bytes: usize,
}

impl Metrics {
    pub(super) fn new(received: Timestamp, sent: u64, metrics: Vec<(Option<u64>, Metric)>) -> Self {
        let mut all = Self {
            received,
            sent,
            by_alias: HashMap::new(),
            by_name: HashMap::with_capacity(metrics.len()),
            bytes: METRIC_BYTES,
        };
        for (alias, metric) in metrics {
            all.bytes += metric.name.len() + METRIC_BYTES;
            all.by_name.insert(metric.name.clone(), metric.datatype);
            if let Some(alias) = alias {
                all.by_alias.insert(alias, metric);
            }
        }
        all
    }

    pub(super) fn by_alias(&self, alias: u64) -> Option<&Metric> {
        self.by_alias.get(&alias)
    }

    /// The type of a metric, where its birth gave one.
    pub(super) fn datatype(&self, name: &str) -> Option<u64> {
        *self.by_name.get(name)?
    }
}

/// A node, and what was said of its devices since it was born.
#[derive(Debug, Default)]
struct Born {
    own: Option<Arc<Metrics>>,
    devices: HashMap<Box<str>, Arc<Metrics>>,
    /// The number of its session, which its death repeats.
    bd_seq: Option<u64>,
    bytes: usize,
    /// The order of births: the oldest is forgotten first.
    turn: u64,
}

/// All nodes that are born.
#[derive(Debug, Default)]
pub struct Births {
    nodes: Arc<Mutex<Nodes>>,
    only_read: bool,
}

#[derive(Debug, Default)]
struct Nodes {
    born: HashMap<Box<str>, Born>,
    bytes: usize,
    turn: u64,
}

impl Births {
    /// The same births, for messages that are tried again: nothing that these say
    /// holds for messages of today.
    pub fn only_read(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            only_read: true,
        }
    }

    /// What a node said of itself, or of a device, if it is known.
    pub(super) fn get(
        &self,
        client_id: &str,
        node: &str,
        device: Option<&str>,
        received: Timestamp,
    ) -> Option<Arc<Metrics>> {
        let nodes = self.lock();
        let born = nodes.born.get(&*key(client_id, node))?;
        let known = match device {
            None => born.own.as_ref(),
            Some(device) => born.devices.get(device),
        };
        known
            .filter(|known| !self.only_read || known.received < received)
            .cloned()
    }

    /// A node was born, or born again: its aliases and those of its devices are new.
    pub(super) fn node(&self, client_id: &str, node: &str, bd_seq: Option<u64>, metrics: Metrics) {
        let born = Born {
            own: Some(metrics.into()),
            bd_seq,
            ..Born::default()
        };
        self.change(client_id, node, |known| *known = born);
    }

    /// A device of a node was born, or born again.
    pub(super) fn device(&self, client_id: &str, node: &str, device: &str, metrics: Metrics) {
        self.change(client_id, node, |known| {
            known.devices.insert(device.into(), metrics.into());
        });
    }

    /// What a node said, or what it said of a device, holds no longer.
    pub(super) fn forget(&self, client_id: &str, node: &str, device: Option<&str>) {
        if self.only_read {
            return;
        }
        let key = key(client_id, node);
        let mut nodes = self.lock();
        match device {
            None => nodes.remove(&key),
            Some(device) => {
                let known = nodes.born.get(&key);
                if known.is_some_and(|known| known.devices.contains_key(device)) {
                    nodes.change(key, |known| {
                        known.devices.remove(device);
                    });
                }
            }
        }
    }

    /// A node has died: its aliases mean nothing any more. The death of an earlier
    /// session may come late.
    pub(super) fn death(&self, client_id: &str, node: &str, bd_seq: Option<u64>) {
        let known = self
            .lock()
            .born
            .get(&*key(client_id, node))
            .map(|b| b.bd_seq);
        let another = |known: Option<u64>| known.zip(bd_seq).is_some_and(|(a, b)| a != b);
        if known.is_some_and(|known| !another(known)) {
            self.forget(client_id, node, None);
        }
    }

    /// What all of it takes, about.
    #[cfg(test)]
    pub(in crate::normalise) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn change(&self, client_id: &str, node: &str, how: impl FnOnce(&mut Born)) {
        if !self.only_read {
            self.lock().change(key(client_id, node), how);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Nothing panics while the lock is held, and a map is whole even so.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    fn change(&mut self, key: Box<str>, how: impl FnOnce(&mut Born)) {
        let mut born = self.born.remove(&key).unwrap_or_default();
        self.bytes -= born.bytes;
        how(&mut born);
        self.turn += 1;
        born.turn = self.turn;
        let devices = born.devices.iter().map(|(name, m)| name.len() + m.bytes);
        let own = born.own.as_ref().map_or(0, |own| own.bytes);
        born.bytes = METRIC_BYTES + key.len() + own + devices.sum::<usize>();
        self.bytes += born.bytes;
        self.born.insert(key, born);
        while self.bytes > BYTES_MAX {
            let oldest = self.born.iter().min_by_key(|(_, born)| born.turn);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(forgotten) = self.born.remove(key) {
            self.bytes -= forgotten.bytes;
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

    fn named(name: &str) -> Metric {
        Metric {
            name: name.into(),
            datatype: Some(10),
        }
    }

    fn metrics(at: i64, alias: u64, name: &str) -> Metrics {
        Metrics::new(
            Timestamp::from_millis(at),
            0,
            vec![(Some(alias), named(name))],
        )
    }

    fn known(births: &Births, device: Option<&str>, alias: u64, at: i64) -> Option<String> {
        let known = births.get("c", "G/N", device, Timestamp::from_millis(at))?;
        known.by_alias(alias).map(|metric| metric.name.to_string())
    }

    #[test]
    fn a_birth_replaces_the_one_before() {
        let births = Births::default();
        births.node("c", "G/N", None, metrics(5, 1, "a"));
        births.device("c", "G/N", "D", metrics(6, 2, "b"));
        assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
        assert_eq!(known(&births, Some("D"), 2, 9).as_deref(), Some("b"));
        assert_eq!(known(&births, Some("D"), 1, 9), None);
        // The aliases of the device's former birth are gone with it.
        births.device("c", "G/N", "D", metrics(7, 3, "c"));
        assert_eq!(known(&births, Some("D"), 2, 9), None);
        assert_eq!(known(&births, Some("D"), 3, 9).as_deref(), Some("c"));
        // The gateway's clock may have been set back.
        births.node("c", "G/N", None, metrics(4, 1, "new"));
        assert_eq!(known(&births, None, 1, 9).as_deref(), Some("new"));
        assert_eq!(known(&births, Some("D"), 3, 9), None);
    }

    #[test]
    fn a_death_ends_its_own_session_alone() {
        let births = Births::default();
        births.node("c", "G/N", Some(2), metrics(5, 1, "a"));
        births.death("c", "G/N", Some(1));
        assert!(known(&births, None, 1, 9).is_some());
        births.death("c", "G/N", Some(2));
        assert!(known(&births, None, 1, 9).is_none());
    }

    #[test]
    fn what_is_tried_again_teaches_nothing_and_learns_from_what_was_before_it() {
        let births = Births::default();
        births.node("c", "G/N", Some(2), metrics(5, 1, "a"));
        births.device("c", "G/N", "D", metrics(7, 2, "b"));
        let again = births.only_read();
        assert_eq!(known(&again, None, 1, 6).as_deref(), Some("a"));
        assert_eq!(known(&again, Some("D"), 2, 6), None);
        again.node("c", "G/N", Some(2), metrics(4, 1, "old"));
        again.device("c", "G/N", "D", metrics(4, 2, "old"));
        again.forget("c", "G/N", Some("D"));
        again.forget("c", "G/N", None);
        again.death("c", "G/N", Some(2));
        assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
        assert_eq!(known(&births, Some("D"), 2, 9).as_deref(), Some("b"));
    }

    #[test]
    fn one_client_does_not_say_what_anothers_messages_mean() {
        let births = Births::default();
        births.node("c", "G/N", None, metrics(5, 1, "a"));
        births.node("d", "G/N", None, metrics(6, 1, "other"));
        assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
    }

    #[test]
    fn births_stay_within_their_bound_and_the_oldest_goes_first() {
        let births = Births::default();
        let long = "n".repeat(10_000);
        for node in 0..3_000 {
            births.node("c", &format!("G/{node}"), None, metrics(1, 1, &long));
            // The same node again and again is one node, and so is its device.
            births.device("c", "G/again", "D", metrics(1, 1, &long));
        }
        let there = |node| {
            births
                .get("c", node, None, Timestamp::from_millis(9))
                .is_some()
        };
        assert!(!there("G/0"));
        assert!(there("G/2999"));
        let nodes = births.lock();
        assert!(nodes.born[&key("c", "G/again")].bytes < 11_000);
        assert!(nodes.bytes <= BYTES_MAX);
        let sum: usize = nodes.born.values().map(|born| born.bytes).sum();
        assert_eq!(nodes.bytes, sum);
    }
}
