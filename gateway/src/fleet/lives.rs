//! Devices behind Sparkplug nodes: they are there from their birth to their death, whoever
//! is connected.
//!
//! What was heard last is in the table of devices, in the commit before the message is
//! acknowledged, so it outlives a restart. A node that is connected here is born anew each
//! time it connects: one that went without a death, or did not come back after a restart,
//! is dead when it has been away for as long as a client may be. Of a node at another broker
//! nothing but a death says so.
//!
//! What was heard since the start is in memory too, before the table says so. Connections
//! have no order among each other, so the death of an earlier one may be written down after
//! the birth of a later: where the two differ the table is put right with the next look.
//!
//! A node that is born in another session than before says nothing of devices behind it that
//! are not born again: those are dead when they have had as long for it. Births of devices
//! that the registry does not have are remembered too, up to a bound, so that one that is
//! added is there with the next look.

mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use tokio::time::Instant;

pub(super) use self::memory::Born;
use self::memory::{Alive, Client};
use super::{
    Fleet,
    edits::life::{Death, Lives, Lost, Node, SLICE},
    rows,
};
use crate::{normalise::protocol::Life, store::NotEdited};

/// Devices behind a node that are read at a time.
const BEHIND: usize = 1_000;

impl Fleet {
    /// Whether there are devices that births could be of.
    pub(super) fn has_devices(&self) -> bool {
        self.0.devices.load(Relaxed) > 0
    }

    /// Takes in what a node says, in this order.
    pub(super) async fn live(&self, lives: Vec<Life>, node: &Node) -> Result<(), NotEdited> {
        let mut together = Vec::new();
        for life in lives {
            let is_end = life.node.is_some() && !life.is_birth;
            if is_end || together.len() == SLICE {
                self.note_lives(std::mem::take(&mut together), node).await?;
            }
            match is_end {
                true => self.die(life.device, node).await?,
                false => together.push(life),
            }
        }
        self.note_lives(together, node).await
    }

    async fn note_lives(&self, lives: Vec<Life>, node: &Node) -> Result<(), NotEdited> {
        if lives.is_empty() {
            return Ok(());
        }
        let said = lives.iter();
        let said: Vec<_> = said
            .map(|life| (life.device.clone(), life.is_birth))
            .collect();
        if !self.has_devices() {
            self.0.born.heard(&said, &[], node);
            return Ok(());
        }
        let alive = Alive {
            client: (node.client_id.clone(), node.user.clone()),
            since: Instant::now(),
        };
        // What another client said stays, where this one may not.
        let mut others: Vec<(String, Alive)> = Vec::new();
        self.0.born.change(|born| {
            for life in &lives {
                let is_of_other = |one: &&Alive| one.client != alive.client;
                if let Some(other) = born.get(&life.device).filter(is_of_other) {
                    others.push((life.device.clone(), other.clone()));
                }
                match life.is_birth && !node.is_elsewhere {
                    true => born.insert(life.device.clone(), alive.clone()),
                    false => born.remove(&life.device),
                };
            }
        });
        let edit = Lives {
            lives,
            node: node.clone(),
            token: rand::random(),
            announce: self.announce(),
        };
        let noted = self.0.store.edit(edit).await;
        // Only devices of the registry are remembered.
        self.0.born.change(|born| {
            let noted = noted.as_deref().unwrap_or_default();
            for (name, _) in &said {
                let is_ours = |one: &Alive| one.since == alive.since;
                if !noted.contains(name) && born.get(name).is_some_and(is_ours) {
                    born.remove(name);
                }
            }
            for (name, other) in others {
                if !noted.contains(&name) {
                    born.entry(name).or_insert(other);
                }
            }
        });
        let noted = noted?;
        self.0.born.heard(&said, &noted, node);
        Ok(())
    }

    /// A node was born in another session than before: what is behind it was alive in that,
    /// and is dead unless it is born again.
    pub(super) async fn doubt(&self, device: &str, node: &Node) {
        if !self.has_devices() {
            return;
        }
        let (device, node) = (device.to_owned(), node.clone());
        let behind = self.read(move |tables| {
            let (mut behind, mut after) = (Vec::new(), String::new());
            loop {
                let page = rows::born_behind(tables, &device, &after, BEHIND)?;
                let Some(last) = page.last() else {
                    return Ok(behind);
                };
                after.clone_from(last);
                for id in page {
                    if rows::device(tables, &id)?.is_some_and(|one| node.may_tell_of(&one)) {
                        behind.push(id);
                    }
                }
            }
        });
        match behind.await {
            Ok(behind) => self.0.born.doubt(behind),
            Err(error) => tracing::warn!(%error, "could not read which devices are behind a node"),
        }
    }

    /// A node died.
    async fn die(&self, device: String, node: &Node) -> Result<(), NotEdited> {
        let behind = format!("{device}/");
        let is_meant = |known: &str| *known == *device || known.starts_with(&behind);
        self.0.born.died(is_meant, node);
        if !self.has_devices() {
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let death = Death {
                device: device.clone(),
                node: node.clone(),
                after,
                token: rand::random(),
                announce: self.announce(),
            };
            match self.0.store.edit(death).await? {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// Puts right what the table says of devices that were born here, `in_table` by name:
    /// dead are those whose client is none of `known` and that were not born in the last
    /// `patience`; the others that were heard of since the start are alive.
    pub(super) async fn reconcile_lives(
        &self,
        in_table: &BTreeSet<String>,
        known: impl Fn(&Client) -> bool,
        patience: Duration,
    ) -> Result<(), NotEdited> {
        let doubted = self.0.born.dead_by_doubt(patience);
        let strangers = self.0.born.strangers(&known, patience);
        let (lost, missing) = self.0.born.change(|born| {
            born.retain(|_, alive| alive.since.elapsed() < patience || known(&alive.client));
            let lost = in_table.iter().filter(|device| !born.contains_key(*device));
            let lost: BTreeSet<String> = lost.cloned().chain(doubted).collect();
            let lost: Vec<String> = lost.into_iter().collect();
            let mut missing: BTreeMap<Client, Vec<Life>> = BTreeMap::new();
            for (device, alive) in born.iter().filter(|(name, _)| !in_table.contains(*name)) {
                let lives = missing.entry(alive.client.clone()).or_default();
                lives.push(born_again(device));
            }
            (lost, missing)
        });
        for ids in lost.chunks(SLICE) {
            let lost = Lost {
                ids: ids.to_vec(),
                token: rand::random(),
                announce: self.announce(),
            };
            self.0.store.edit(lost).await?;
        }
        for ((client_id, user), lives) in missing {
            let node = Node {
                client_id,
                user,
                is_elsewhere: false,
            };
            for some in lives.chunks(SLICE) {
                self.note_lives(some.to_vec(), &node).await?;
            }
        }
        self.meet(strangers).await
    }

    /// Notes the births of those who are in the registry by now.
    async fn meet(&self, strangers: Vec<String>) -> Result<(), NotEdited> {
        if strangers.is_empty() || !self.has_devices() {
            return Ok(());
        }
        let known = self.read(move |tables| {
            let mut known = Vec::new();
            for id in strangers {
                if rows::device(tables, &id)?.is_some() {
                    known.push(id);
                }
            }
            Ok(known)
        });
        let known = known.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not read the tables of devices");
            Vec::new()
        });
        for device in known {
            if let Some(node) = self.0.born.node_of(&device) {
                self.note_lives(vec![born_again(&device)], &node).await?;
            }
        }
        Ok(())
    }
}

/// The birth of a device, said once more.
fn born_again(device: &str) -> Life {
    Life {
        device: device.to_owned(),
        node: None,
        is_birth: true,
    }
}
