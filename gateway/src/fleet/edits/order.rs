//! Commands are placed.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;

use super::{cost_bytes, enter};
use crate::{
    dedup::key,
    event::Timestamp,
    fleet::{
        Asked, Change, Command, Config, Order, Refusal, State,
        announce::Announce,
        command::Deadline,
        names::{check_depth, check_key},
        requests, rows,
    },
    store::{Edit, Edited},
};

/// Places a command.
#[derive(Debug)]
pub(in crate::fleet) struct Place {
    order: Order,
    asked: Asked,
    id: String,
    digest: String,
    deadline: Duration,
    deadline_max: Duration,
    open_max: u32,
    bytes: usize,
    /// Only answers whether it was placed before, and why it is not now.
    is_question: Option<&'static str>,
    announce: Arc<dyn Announce>,
}

impl Place {
    /// Prepares it, under an id of its own.
    pub(in crate::fleet) fn new(
        order: Order,
        asked: Asked,
        now: Timestamp,
        config: &Config,
        announce: Arc<dyn Announce>,
    ) -> Result<Self, Refusal> {
        if let Some(key) = &asked.key {
            check_key(key)?;
        }
        check_depth("the payload of a command", &order.payload)?;
        let bytes = serde_json::to_vec(&order.payload).map_or(usize::MAX, |text| text.len());
        if bytes > config.payload_bytes_max {
            return Err(Refusal::invalid(format!(
                "the payload of a command has {} bytes at most",
                config.payload_bytes_max
            )));
        }
        let id = key::random(now, rand::random(), 0);
        Ok(Self {
            digest: requests::digest(&serde_json::json!(order)),
            order,
            asked,
            id: uuid::Uuid::from_bytes(id.0).to_string(),
            deadline: config.deadline,
            deadline_max: config.deadline_max,
            open_max: config.open_per_device_max,
            bytes,
            is_question: None,
            announce,
        })
    }

    /// Changes nothing: only says what became of it if it was placed before.
    pub(in crate::fleet) const fn only_if_known(mut self, why: &'static str) -> Self {
        self.is_question = Some(why);
        self
    }

    /// Whose it is.
    pub(in crate::fleet) fn device(&self) -> &str {
        &self.order.device
    }

    /// Until when it is to be done, in milliseconds since 1970.
    fn deadline_ms(&self, now: Timestamp) -> Result<i64, Refusal> {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let now = now.as_millis();
        let deadline = match self.order.deadline {
            Deadline::Default => now.saturating_add(ms(self.deadline)),
            Deadline::Secs(secs) => now.saturating_add(ms(Duration::from_secs(secs))),
            Deadline::At(at) => at,
        };
        if deadline <= now {
            return Err(Refusal::invalid("the deadline has passed"));
        }
        if deadline > now.saturating_add(ms(self.deadline_max)) {
            return Err(Refusal::invalid(format!(
                "the deadline is {} seconds from now at most",
                self.deadline_max.as_secs()
            )));
        }
        Ok(deadline)
    }
}

impl Edit for Place {
    type Answer = Result<Change<Command>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let (order, asked) = (&self.order, &self.asked);
        let refuse = |refusal| Ok(Edited::nothing(Err(refusal)));
        // Its own id stands for a key that nobody gave: no request has the same.
        let key = asked.key.as_deref().unwrap_or(&self.id);
        if let Some(value) = rows::command_by_key(tables, &order.device, key)? {
            if value.digest != self.digest {
                return refuse(Refusal::KeyReused);
            }
            return Ok(Edited::nothing(Ok(Change { value, again: true })));
        }
        if rows::is_key_taken(tables, &order.device, key)? {
            // It is damaged: nobody knows what it was.
            return refuse(Refusal::KeyReused);
        }
        if now.is_unset() {
            return refuse(Refusal::NotYet(
                "the gateway does not know the time yet, and a command has a deadline".to_owned(),
            ));
        }
        if rows::device(tables, &order.device)?.is_none() {
            return refuse(Refusal::no_device(&order.device));
        }
        if let Some(why) = self.is_question {
            return refuse(Refusal::TooMany(why.to_owned()));
        }
        let deadline_ms = match self.deadline_ms(now) {
            Ok(deadline) => deadline,
            Err(refusal) => return refuse(refusal),
        };
        if rows::count_open(tables, &order.device)? >= self.open_max {
            return refuse(Refusal::TooMany(format!(
                "{:?} has {} commands that are not over, which is as many as there may be",
                order.device, self.open_max
            )));
        }
        let mut command = Command {
            number: 0,
            id: self.id.clone(),
            device: order.device.clone(),
            key: key.to_owned(),
            name: order.name.clone(),
            payload: order.payload.clone(),
            qos: order.qos,
            actor: asked.actor.to_string(),
            rules: order.rules.clone(),
            digest: self.digest.clone(),
            state: State::Queued,
            created_ms: now.as_millis(),
            deadline_ms,
            sent_ms: None,
            ended_ms: None,
            reply: None,
            late_ms: None,
            reason: None,
        };
        let (announce, state) = (&*self.announce, State::Queued);
        let event = enter(tables, announce, now, &mut command, state, &asked.actor)?;
        command.number = u64::try_from(tables.last_insert_rowid()).unwrap_or_default();
        let change = Change {
            value: command,
            again: false,
        };
        Ok(Edited::change(Ok(change), vec![event]))
    }

    fn kept(&self, answer: &Self::Answer) {
        if answer.as_ref().is_ok_and(|placed| !placed.again) {
            self.announce.entered(State::Queued, 1);
        }
    }

    fn cost_bytes(&self) -> usize {
        if self.is_question.is_some() {
            return 0;
        }
        cost_bytes(self.bytes)
    }
}
