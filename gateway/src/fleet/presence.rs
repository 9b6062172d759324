//! Tells of devices that come and go: `penstock.device.online` and
//! `penstock.device.offline`.
//!
//! A device is online from the moment at which a client that it is was seen, and offline
//! when none was for a while: one that comes back at once was not away, and after a start
//! of the gateway all have that while to come back. What was told last is in the table, so
//! a restart tells nothing twice. Every such while the table is compared with who is there,
//! so nothing is left out for longer: what could not be noted is told then.
//!
//! Devices of which Sparkplug births tell (`lives`) go by these, and not by who is connected.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Fleet, Online, edits::presence::Presence, rows};
use crate::store::Error;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a device may be away without being offline.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Devices that are told of in one transaction.
const SLICE: usize = 256;

type Client = (Arc<str>, Option<Arc<str>>);

/// See the module.
#[derive(Debug)]
pub struct Watch {
    fleet: Fleet,
    /// Who was connected at the last look.
    clients: BTreeSet<Client>,
    /// Who is not any more, since when.
    gone: HashMap<Client, Instant>,
}

impl Watch {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            clients: BTreeSet::new(),
            gone: HashMap::new(),
        }
    }

    /// Looks until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let looking = async {
            let mut reconciled = Instant::now();
            loop {
                self.look().await;
                if reconciled.elapsed() >= AWAY_MAX {
                    reconciled = Instant::now();
                    self.reconcile().await;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    pub(super) async fn look(&mut self) {
        let now: BTreeSet<Client> = self.fleet.connected().into_iter().collect();
        let came: Vec<Client> = now.difference(&self.clients).cloned().collect();
        for left in self.clients.difference(&now) {
            self.gone.insert(left.clone(), Instant::now());
        }
        for client in &came {
            self.gone.remove(client);
        }
        self.clients = now;
        if !came.is_empty() {
            let devices = self
                .read(move |tables| rows::devices_of(tables, &came))
                .await;
            let devices = devices.unwrap_or_default();
            self.tell(devices.into_iter().collect(), true).await;
        }
        let is_due = |(_, since): &(&Client, &Instant)| since.elapsed() >= AWAY_MAX;
        let due = self.gone.iter().filter(is_due);
        let due: Vec<Client> = due.map(|(client, _)| client.clone()).collect();
        if !due.is_empty() {
            for client in &due {
                self.gone.remove(client);
            }
            let devices = self
                .read(move |tables| rows::devices_of(tables, &due))
                .await;
            self.tell_offline(devices.unwrap_or_default()).await;
        }
    }

    /// Compares what the table says with who is there. What could not be noted when it
    /// happened is told now, and so is what changed with the registry: a device that was
    /// added while its client was connected, or is another client from now on; and, after a
    /// start, those who were online at the last end and did not come back.
    pub(super) async fn reconcile(&self) {
        let here: Vec<Client> = self.clients.iter().cloned().collect();
        let left: Vec<Client> = self.gone.keys().cloned().collect();
        let read = move |tables: &rusqlite::Connection| {
            let here = rows::devices_of(tables, &here)?;
            let left = rows::devices_of(tables, &left)?;
            let (online, born) = (rows::online(tables)?, rows::born(tables)?);
            Ok((here, left, online, born))
        };
        let Some((here, left, online, born)) = self.read(read).await else {
            return;
        };
        let is_known =
            |client: &Client| self.clients.contains(client) || self.gone.contains_key(client);
        let lives = self.fleet.reconcile_lives(&born, is_known, AWAY_MAX);
        if let Err(error) = lives.await {
            tracing::warn!(%error, "could not note which devices are online");
        }
        self.tell(here.difference(&online).cloned().collect(), true)
            .await;
        let is_away = |id: &&String| !here.contains(*id) && !left.contains(*id);
        let away = online.iter().filter(is_away).cloned().collect();
        self.tell_offline(away).await;
    }

    /// Tells that devices are offline, those of them that no client is any more.
    async fn tell_offline(&self, devices: BTreeSet<String>) {
        let online: Online = self.fleet.online();
        let still = self
            .read(move |tables| {
                let mut away = Vec::new();
                for id in devices {
                    if let Some(device) = rows::device(tables, &id)?
                        && !online.is_online(&device)
                    {
                        away.push(id);
                    }
                }
                Ok(away)
            })
            .await;
        self.tell(still.unwrap_or_default(), false).await;
    }

    async fn tell(&self, devices: Vec<String>, online: bool) {
        for ids in devices.chunks(SLICE) {
            let presence = Presence {
                ids: ids.to_vec(),
                online,
                announce: self.fleet.announce(),
            };
            if let Err(error) = self.fleet.store().edit(presence).await {
                tracing::warn!(%error, "could not note which devices are online");
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<T> {
        let read: Result<T, Error> = self.fleet.read(read).await;
        read.inspect_err(|error| tracing::warn!(%error, "could not read the tables of devices"))
            .ok()
    }
}
