//! Devices behind Sparkplug nodes: they are there from their birth to their death, whoever
//! is connected.
//!
//! What was heard last is in the table of devices, in the commit before the message is
//! acknowledged, so it outlives a restart. A node that is connected here is born anew each
//! time it connects: one that went without a death, or did not come back after a restart,
//! is dead when it has been away for as long as a client may be. Of a node at another broker
//! nothing but a death says so.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use super::{
    Fleet,
    edits::life::{Death, Lives, Lost, Node, SLICE},
};
use crate::{normalise::protocol::Life, store::NotEdited};

type Client = (Arc<str>, Option<Arc<str>>);

/// By which clients devices of the registry were born since the start: as many as there may
/// be devices.
#[derive(Debug, Default)]
pub(super) struct Born(Mutex<HashMap<String, Client>>);

impl Born {
    fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, Client>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

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
        let edit = Lives {
            lives,
            node: node.clone(),
            token: rand::random(),
            announce: self.announce(),
        };
        let noted = self.0.store.edit(edit).await?;
        let client = (node.client_id.clone(), node.user.clone());
        self.0.born.change(|born| {
            for (device, is_birth) in noted {
                match is_birth && !node.is_elsewhere {
                    true => born.insert(device, client.clone()),
                    false => born.remove(&device),
                };
            }
        });
        Ok(())
    }

    /// A node died.
    async fn die(&self, device: String, node: &Node) -> Result<(), NotEdited> {
        let mut after = String::new();
        loop {
            let death = Death {
                device: device.clone(),
                node: node.clone(),
                after,
                token: rand::random(),
                announce: self.announce(),
            };
            let dead = self.0.store.edit(death).await?;
            self.0.born.change(|born| {
                for device in &dead.devices {
                    born.remove(device);
                }
            });
            match dead.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// Of the devices that were born here, those whose client is none of `known`.
    pub(super) fn lost(
        &self,
        here: &BTreeSet<String>,
        known: impl Fn(&Client) -> bool,
    ) -> Vec<String> {
        self.0.born.change(|born| {
            // What is not in the registry any more is not asked for again.
            born.retain(|device, _| here.contains(device));
            let is_lost = |device: &&String| !born.get(*device).is_some_and(&known);
            here.iter().filter(is_lost).cloned().collect()
        })
    }

    /// Notes that devices are gone without a word of their node.
    pub(super) async fn lose(&self, devices: &[String]) -> Result<(), NotEdited> {
        for ids in devices.chunks(SLICE) {
            let lost = Lost {
                ids: ids.to_vec(),
                token: rand::random(),
                announce: self.announce(),
            };
            self.0.store.edit(lost).await?;
        }
        Ok(())
    }
}
