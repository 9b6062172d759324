//! Nodes say that they, or devices behind them, were born or died.

use std::sync::Arc;

use penstock_broker::Addressee;
use rusqlite::Connection;

use super::{cost_bytes, presence::news};
use crate::{
    event::Timestamp,
    fleet::{
        Device,
        announce::Announce,
        rows::{self, Presence},
    },
    normalise::protocol::Life,
    store::{Edit, Edited, NewEvent},
};

/// Devices that are told of in one transaction.
pub(in crate::fleet) const SLICE: usize = 256;

/// Devices that die in one transaction: how many there are is not known before, and room is
/// asked for as if there were so many.
const DYING: usize = 16;

/// Who says it.
#[derive(Debug, Clone)]
pub(in crate::fleet) struct Node {
    pub(in crate::fleet) client_id: Arc<str>,
    pub(in crate::fleet) user: Option<Arc<str>>,
    /// It is at another broker.
    pub(in crate::fleet) is_elsewhere: bool,
}

impl Node {
    /// Whether it may say so: of a device whose client is known, nobody else.
    pub(in crate::fleet) fn may_tell_of(&self, device: &Device) -> bool {
        match device.addressee() {
            Addressee::Name(_) => true,
            known => !self.is_elsewhere && known.is(&self.client_id, self.user.as_deref()),
        }
    }

    const fn born(&self) -> Presence {
        match self.is_elsewhere {
            true => Presence::BornElsewhere,
            false => Presence::Born,
        }
    }
}

/// Births and deaths, but for deaths of nodes.
#[derive(Debug)]
pub(in crate::fleet) struct Lives {
    /// At most [`SLICE`].
    pub(in crate::fleet) lives: Vec<Life>,
    pub(in crate::fleet) node: Node,
    /// Tells what is told of it from what is told at the same moment.
    pub(in crate::fleet) token: u64,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// A node died, and with it every device behind it.
#[derive(Debug)]
pub(in crate::fleet) struct Death {
    pub(in crate::fleet) device: String,
    pub(in crate::fleet) node: Node,
    /// Devices behind it are dead up to this one.
    pub(in crate::fleet) after: String,
    pub(in crate::fleet) token: u64,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// Devices whose node went without a word.
#[derive(Debug)]
pub(in crate::fleet) struct Lost {
    pub(in crate::fleet) ids: Vec<String>,
    pub(in crate::fleet) token: u64,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// What is written down, and told, in one transaction.
struct Telling<'t> {
    tables: &'t Connection,
    now: Timestamp,
    token: u64,
    announce: &'t dyn Announce,
    events: Vec<NewEvent>,
    changed: bool,
}

impl<'t> Telling<'t> {
    fn new(tables: &'t Connection, now: Timestamp, token: u64, announce: &'t dyn Announce) -> Self {
        Self {
            tables,
            now,
            token,
            announce,
            events: Vec::new(),
            changed: false,
        }
    }

    /// Notes how a device is; tells of it where that is another thing to others.
    fn note(&mut self, device: &Device, to: Presence) -> rusqlite::Result<()> {
        let Some(before) = rows::set_heard(self.tables, &device.id, to)? else {
            return Ok(());
        };
        self.changed |= before != to;
        if before.is_online() != to.is_online() {
            let apart = format!("{:x}:{}", self.token, self.events.len());
            self.events.push(news(
                device,
                to.is_online(),
                self.now,
                &apart,
                self.announce,
            ));
        }
        Ok(())
    }

    fn end<A>(self, answer: A) -> Edited<A> {
        Edited {
            answer,
            events: self.events,
            changed: self.changed,
            are_copies: false,
            told: Vec::new(),
        }
    }
}

impl Edit for Lives {
    /// Devices of the registry that are meant.
    type Answer = Vec<String>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let mut telling = Telling::new(tables, now, self.token, &*self.announce);
        let mut noted = Vec::new();
        for life in &self.lives {
            let Some(device) = rows::device(tables, &life.device)? else {
                continue;
            };
            if !self.node.may_tell_of(&device) {
                continue;
            }
            let to = match life.is_birth {
                true => self.node.born(),
                false => Presence::Dead,
            };
            telling.note(&device, to)?;
            noted.push(device.id);
        }
        Ok(telling.end(noted))
    }

    fn cost_bytes(&self) -> usize {
        self.lives.len() * cost_bytes(512)
    }
}

impl Edit for Death {
    /// There are more, after this one.
    type Answer = Option<String>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let mut telling = Telling::new(tables, now, self.token, &*self.announce);
        let mut ids = rows::born_behind(tables, &self.device, &self.after, DYING)?;
        let next = ids.last().filter(|_| ids.len() == DYING).cloned();
        if self.after.is_empty() {
            ids.push(self.device.clone());
        }
        for id in ids {
            if let Some(device) = rows::device(tables, &id)?
                && self.node.may_tell_of(&device)
            {
                telling.note(&device, Presence::Dead)?;
            }
        }
        Ok(telling.end(next))
    }

    fn cost_bytes(&self) -> usize {
        DYING * cost_bytes(512)
    }
}

impl Edit for Lost {
    type Answer = ();

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<()>> {
        let mut telling = Telling::new(tables, now, self.token, &*self.announce);
        for id in &self.ids {
            if let Some(device) = rows::device(tables, id)?
                && device.heard == Some(true)
            {
                telling.note(&device, Presence::Dead)?;
            }
        }
        Ok(telling.end(()))
    }

    fn cost_bytes(&self) -> usize {
        self.ids.len() * cost_bytes(512)
    }
}
