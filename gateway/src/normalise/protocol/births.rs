//! What Sparkplug nodes said at their birth: later messages name metrics by their
//! numbers alone.
//!
//! Kept in memory, within a bound, for each client by itself: what one client says
//! of a node never changes what another's messages mean, and beyond the bound the
//! client that keeps most gives way with its oldest node. After a restart nothing
//! is known, and messages that need it are quarantined as `state` until the node
//! is born again, which it is [asked](Rebirths) for.
//!
//! The last birth to arrive counts, whatever the node's clock says. A message that
//! is tried again out of quarantine teaches nothing, and learns only from births
//! that came before it. What is [heard](Heard) in a message of its node's order counts
//! once the message is kept, or one that is turned away would be missed when it comes
//! again.

mod rebirths;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use rebirths::Rebirths;

use crate::event::Timestamp;

/// What all births together may take, about.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A metric in two maps takes about so much besides its name; so does a device, a
/// node or a client without any.
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
    /// `None` for a number that was given to two metrics: it tells neither.
    by_alias: HashMap<u64, Option<Metric>>,
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
                all.by_alias
                    .entry(alias)
                    .and_modify(|other| *other = other.take().filter(|other| *other == metric))
                    .or_insert_with(|| Some(metric.clone()));
            }
        }
        all
    }

    pub(super) fn by_alias(&self, alias: u64) -> Option<&Metric> {
        self.by_alias.get(&alias)?.as_ref()
    }

    /// The type of a metric, where its birth gave one.
    pub(super) fn datatype(&self, name: &str) -> Option<u64> {
        *self.by_name.get(name)?
    }
}

/// What a message says of its node: where it stands among the node's messages, and
/// whether something before it was missed.
#[derive(Debug)]
pub struct Heard {
    /// As in [`Births::node`].
    pub(super) node: String,
    pub(super) number: Option<Number>,
    /// A birth that the message needs.
    pub(super) missed: bool,
    /// Whether it may be asked to be born again.
    pub(super) may_be_asked: bool,
    pub(super) received: Timestamp,
}

/// The number of a message among those of its node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    /// That of the node's birth.
    First(u8),
    Next(u8),
}

/// A node, and what was said of its devices since it was born.
#[derive(Debug, Default)]
struct Born {
    own: Option<Arc<Metrics>>,
    devices: HashMap<Box<str>, Arc<Metrics>>,
    /// The number of its session, which its death repeats.
    bd_seq: Option<u64>,
    /// The number of its last message that was kept; unknown until its birth is.
    seq: Option<u8>,
    bytes: usize,
    /// The order of births: the oldest is forgotten first.
    turn: u64,
}

/// All nodes that are born. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub struct Births {
    known: Arc<Known>,
    only_read: bool,
    /// Nodes that cannot be reached from here are not asked for anything.
    silent: bool,
}

#[derive(Debug, Default)]
struct Known {
    nodes: Mutex<Nodes>,
    rebirths: Rebirths,
}

#[derive(Debug, Default)]
struct Nodes {
    clients: HashMap<Box<str>, Client>,
    bytes: usize,
    turn: u64,
}

/// What one client said.
#[derive(Debug, Default)]
struct Client {
    nodes: HashMap<Box<str>, Born>,
    bytes: usize,
}

impl Births {
    /// The same births, for messages that are tried again: nothing that these say
    /// holds for messages of today.
    pub fn only_read(&self) -> Self {
        Self {
            known: self.known.clone(),
            only_read: true,
            silent: true,
        }
    }

    /// Whether a message is tried again.
    pub(super) const fn is_only_read(&self) -> bool {
        self.only_read
    }

    /// The same births, for messages of nodes that are not connected here, and so hear
    /// nothing that is said here.
    pub fn silent(&self) -> Self {
        Self {
            known: self.known.clone(),
            only_read: self.only_read,
            silent: true,
        }
    }

    /// Nodes that should be asked to be born again.
    pub fn rebirths(&self) -> &Rebirths {
        &self.known.rebirths
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
        let born = nodes.clients.get(client_id)?.nodes.get(node)?;
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

    /// A message is kept, or was before (`again`), in which this was heard. Of a resend
    /// nothing is missed; what it needed was asked for when it came first.
    pub fn learn(&self, client_id: &str, heard: &Heard, again: bool) {
        if self.only_read {
            return;
        }
        let Heard { node, number, .. } = heard;
        let gap = number.is_some_and(|number| self.is_gap(client_id, node, number, again));
        let rebirths = &self.known.rebirths;
        if gap {
            rebirths.gap();
        }
        let missed = gap || heard.missed && !again;
        if missed && heard.may_be_asked && !self.silent {
            rebirths.want(client_id, node, heard.received);
        }
    }

    /// A node has sent the message of a number; whether one before it is missing. Of a
    /// node whose birth was not seen it is not known where it stands.
    fn is_gap(&self, client_id: &str, node: &str, number: Number, again: bool) -> bool {
        let mut nodes = self.lock();
        let client = nodes.clients.get_mut(client_id);
        let born = client.and_then(|client| client.nodes.get_mut(node));
        let Some(born) = born.filter(|born| born.own.is_some()) else {
            return false;
        };
        let seq = match number {
            Number::First(seq) => {
                born.seq = Some(seq);
                return false;
            }
            Number::Next(seq) => seq,
        };
        let Some(last) = born.seq else {
            return false;
        };
        // The same once more is a resend.
        let gap = seq != last && seq != last.wrapping_add(1);
        if gap && again {
            return false;
        }
        born.seq = Some(seq);
        gap
    }

    /// What a node said, or what it said of a device, holds no longer.
    pub(super) fn forget(&self, client_id: &str, node: &str, device: Option<&str>) {
        if self.only_read {
            return;
        }
        let mut nodes = self.lock();
        match device {
            None => nodes.remove(client_id, node),
            Some(device) => {
                let known = nodes.clients.get(client_id);
                let known = known.and_then(|client| client.nodes.get(node));
                if known.is_some_and(|known| known.devices.contains_key(device)) {
                    nodes.change(client_id, node, |known| {
                        known.devices.remove(device);
                    });
                }
            }
        }
    }

    /// A node has died: its aliases mean nothing any more. The death of an earlier
    /// session may come late.
    pub(super) fn death(&self, client_id: &str, node: &str, bd_seq: Option<u64>) {
        let known = {
            let nodes = self.lock();
            let client = nodes.clients.get(client_id);
            let born = client.and_then(|client| client.nodes.get(node));
            born.map(|born| born.bd_seq)
        };
        let another = |known: Option<u64>| known.zip(bd_seq).is_some_and(|(a, b)| a != b);
        if known.is_some_and(|known| !another(known)) {
            self.forget(client_id, node, None);
        }
    }

    /// Whether the birth of a node is known that no death has ended.
    pub fn is_born(&self, client_id: &str, node: &str) -> bool {
        let nodes = self.lock();
        let client = nodes.clients.get(client_id);
        let born = client.and_then(|client| client.nodes.get(node));
        born.is_some_and(|born| born.own.is_some())
    }

    /// The number of the session of a node whose birth is known and that no death has ended;
    /// its birth may have said none.
    pub fn session(&self, client_id: &str, node: &str) -> Option<Option<u64>> {
        let nodes = self.lock();
        let client = nodes.clients.get(client_id);
        let born = client.and_then(|client| client.nodes.get(node))?;
        born.own.as_ref().map(|_| born.bd_seq)
    }

    /// What all of it takes, about.
    #[cfg(test)]
    pub(in crate::normalise) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn change(&self, client_id: &str, node: &str, how: impl FnOnce(&mut Born)) {
        if !self.only_read {
            self.lock().change(client_id, node, how);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Nothing panics while the lock is held, and a map is whole even so.
        let nodes = &self.known.nodes;
        nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    fn change(&mut self, client_id: &str, node: &str, how: impl FnOnce(&mut Born)) {
        let client = match self.clients.get_mut(client_id) {
            Some(client) => client,
            None => {
                let bytes = METRIC_BYTES + client_id.len();
                self.bytes += bytes;
                let nodes = HashMap::new();
                let client = Client { nodes, bytes };
                self.clients.entry(client_id.into()).or_insert(client)
            }
        };
        let mut born = client.nodes.remove(node).unwrap_or_default();
        self.bytes -= born.bytes;
        client.bytes -= born.bytes;
        how(&mut born);
        self.turn += 1;
        born.turn = self.turn;
        let devices = born.devices.iter().map(|(name, m)| name.len() + m.bytes);
        let own = born.own.as_ref().map_or(0, |own| own.bytes);
        born.bytes = METRIC_BYTES + node.len() + own + devices.sum::<usize>();
        self.bytes += born.bytes;
        client.bytes += born.bytes;
        client.nodes.insert(node.into(), born);
        while self.bytes > BYTES_MAX && self.give_way() {}
    }

    /// The client that keeps most forgets its oldest node.
    fn give_way(&mut self) -> bool {
        let largest = self.clients.iter().max_by_key(|(_, client)| client.bytes);
        let Some((client_id, client)) = largest else {
            return false;
        };
        let oldest = client.nodes.iter().min_by_key(|(_, born)| born.turn);
        let Some((node, _)) = oldest else {
            return false;
        };
        let (client_id, node) = (client_id.clone(), node.clone());
        self.remove(&client_id, &node);
        true
    }

    fn remove(&mut self, client_id: &str, node: &str) {
        let Some(client) = self.clients.get_mut(client_id) else {
            return;
        };
        if let Some(forgotten) = client.nodes.remove(node) {
            client.bytes -= forgotten.bytes;
            self.bytes -= forgotten.bytes;
        }
        if client.nodes.is_empty() {
            self.bytes -= client.bytes;
            self.clients.remove(client_id);
        }
    }
}

#[cfg(test)]
mod tests;
