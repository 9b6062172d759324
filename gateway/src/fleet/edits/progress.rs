//! Commands go on: sent, answered, expired, forgotten.

use std::sync::Arc;

use rusqlite::Connection;
use serde_json::Value;

use super::{ROW_BYTES, cost_bytes, enter, tell};
use crate::{
    event::Timestamp,
    fleet::{Command, State, announce::Announce, requests, rows},
    store::{Edit, Edited, Turn},
};

/// Who takes the steps that nobody asks for.
pub(super) const GATEWAY: &str = "penstock";
/// Commands that expire, or are forgotten, in one transaction.
pub(in crate::fleet) const SLICE: usize = 256;

/// Commands were handed to the broker.
#[derive(Debug)]
pub(in crate::fleet) struct Sent {
    pub(in crate::fleet) ids: Vec<String>,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

impl Edit for Sent {
    /// How many of them were not noted before.
    type Answer = usize;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<usize>> {
        let mut events = Vec::new();
        for id in &self.ids {
            // One that is over was answered before this.
            if let Some(mut command) = rows::command_by_id(tables, id)?
                && command.state == State::Queued
            {
                let announce = &*self.announce;
                events.push(enter(
                    tables,
                    announce,
                    now,
                    &mut command,
                    State::Sent,
                    GATEWAY,
                )?);
            }
        }
        Ok(Edited::change(events.len(), events))
    }

    fn kept(&self, answer: &usize) {
        self.announce.entered(State::Sent, *answer as u64);
    }

    fn cost_bytes(&self) -> usize {
        self.ids.len() * cost_bytes(0)
    }
}

/// What a device said of a command.
#[derive(Debug, Clone)]
pub(in crate::fleet) struct Reply {
    pub(in crate::fleet) device: String,
    pub(in crate::fleet) id: String,
    /// Who says it.
    pub(in crate::fleet) client_id: Arc<str>,
    pub(in crate::fleet) user: Option<Arc<str>>,
    pub(in crate::fleet) done: bool,
    pub(in crate::fleet) value: Value,
    pub(in crate::fleet) bytes: usize,
}

impl Reply {
    /// How the command stands by it.
    const fn state(&self) -> State {
        match self.done {
            true => State::Acknowledged,
            false => State::Failed,
        }
    }
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) enum Heard {
    /// It is noted; `ended` where the command is over with it.
    Noted {
        /// See there.
        ended: bool,
    },
    /// There is no such command.
    Unknown,
    /// It is another device's.
    NotYours,
}

/// Devices answer.
#[derive(Debug)]
pub(in crate::fleet) struct Replied {
    pub(in crate::fleet) replies: Vec<Reply>,
    /// The table has no room for what they say: only the event has it.
    pub(in crate::fleet) is_full: bool,
    /// Their place among what the device publishes.
    pub(in crate::fleet) turn: Option<Turn>,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

impl Replied {
    /// Keeps only the size of a reply that the event has, where the table has no room.
    fn leave_out(
        &self,
        tables: &Connection,
        command: &mut Command,
        bytes: usize,
    ) -> rusqlite::Result<()> {
        if !self.is_full {
            return Ok(());
        }
        command.reply = Some(serde_json::json!({ "left_out_bytes": bytes }));
        rows::put_command(tables, command)
    }
}

impl Edit for Replied {
    type Answer = Vec<Heard>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Vec<Heard>>> {
        let mut heard = Vec::with_capacity(self.replies.len());
        let mut events = Vec::new();
        for reply in &self.replies {
            let command = rows::command(tables, &reply.device, &reply.id)?;
            let device = rows::device(tables, &reply.device)?;
            let (Some(mut command), Some(device)) = (command, device) else {
                heard.push(Heard::Unknown);
                continue;
            };
            if !device
                .addressee()
                .is(&reply.client_id, reply.user.as_deref())
            {
                heard.push(Heard::NotYours);
                continue;
            }
            let announce = &*self.announce;
            let actor = reply.user.as_ref().unwrap_or(&reply.client_id);
            let ended = !command.state.is_over();
            if ended {
                // Faster than it was noted that the command was sent.
                command.sent_ms.get_or_insert(now.as_millis());
                command.reply = Some(reply.value.clone());
                let state = reply.state();
                events.push(enter(tables, announce, now, &mut command, state, actor)?);
                self.leave_out(tables, &mut command, reply.bytes)?;
            } else if command.state == State::Expired && command.reply.is_none() {
                command.reply = Some(reply.value.clone());
                command.late_ms = Some(now.as_millis());
                rows::put_command(tables, &command)?;
                let (site, kind) = (device.fields.site.as_deref(), "penstock.command.late");
                events.push(tell(&command, site, kind, "late", now, actor, announce));
                self.leave_out(tables, &mut command, reply.bytes)?;
            }
            // Anything else is the same said again.
            heard.push(Heard::Noted { ended });
        }
        let changed = !events.is_empty();
        Ok(Edited {
            answer: heard,
            events,
            changed,
            are_copies: false,
            told: Vec::new(),
        })
    }

    fn kept(&self, answer: &Vec<Heard>) {
        for (reply, heard) in self.replies.iter().zip(answer) {
            if *heard == (Heard::Noted { ended: true }) {
                self.announce.entered(reply.state(), 1);
            }
        }
    }

    fn cost_bytes(&self) -> usize {
        self.replies
            .iter()
            .map(|reply| cost_bytes(reply.bytes))
            .sum()
    }

    fn turn(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }
}

/// Deadlines pass.
#[derive(Debug)]
pub(in crate::fleet) struct Expire {
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// What expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) struct Expired {
    pub(in crate::fleet) commands: usize,
    /// Those of them that are damaged, and were forgotten.
    pub(in crate::fleet) damaged: usize,
    /// There is more.
    pub(in crate::fleet) is_more: bool,
}

impl Edit for Expire {
    type Answer = Expired;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Expired>> {
        if now.is_unset() {
            // Nobody knows what is due.
            return Ok(Edited::nothing(Expired {
                commands: 0,
                damaged: 0,
                is_more: false,
            }));
        }
        let due = rows::due(tables, now.as_millis(), SLICE)?;
        for number in &due.damaged {
            // Nobody can say any more what it was.
            tracing::error!(row = number, "a command is damaged, and forgotten");
            rows::forget_command(tables, *number)?;
        }
        let mut expired = Expired {
            commands: due.damaged.len(),
            damaged: due.damaged.len(),
            is_more: due.is_more,
        };
        let mut events = Vec::with_capacity(due.commands.len());
        for mut command in due.commands {
            expired.commands += 1;
            command.reason = Some(
                match command.state {
                    State::Queued => "it was never sent: the device did not subscribe in time",
                    _ => "the device did not answer in time",
                }
                .to_owned(),
            );
            let announce = &*self.announce;
            events.push(enter(
                tables,
                announce,
                now,
                &mut command,
                State::Expired,
                GATEWAY,
            )?);
        }
        Ok(Edited {
            answer: expired,
            changed: expired.commands > 0,
            are_copies: false,
            told: Vec::new(),
            events,
        })
    }

    fn kept(&self, expired: &Expired) {
        let ended = expired.commands - expired.damaged;
        self.announce.entered(State::Expired, ended as u64);
    }

    fn cost_bytes(&self) -> usize {
        // Rows change in place, and the events have no payloads.
        SLICE * ROW_BYTES
    }
}

/// What was over for long enough, and what is too much, is forgotten.
#[derive(Debug)]
pub(in crate::fleet) struct Trim {
    pub(in crate::fleet) keep_ms: i64,
    /// Commands beyond as many as are kept.
    pub(in crate::fleet) more: u64,
}

/// What was forgotten.
#[derive(Debug, Clone, Copy)]
pub(in crate::fleet) struct Trimmed {
    pub(in crate::fleet) commands: u64,
    pub(in crate::fleet) requests: usize,
}

impl Edit for Trim {
    type Answer = Trimmed;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Trimmed>> {
        if now.is_unset() {
            return Ok(Edited::nothing(Trimmed {
                commands: 0,
                requests: 0,
            }));
        }
        let before = now.as_millis().saturating_sub(self.keep_ms);
        let trimmed = Trimmed {
            commands: rows::trim(tables, before, self.more, SLICE)?,
            requests: requests::trim(tables, now, 256)?,
        };
        Ok(Edited {
            answer: trimmed,
            events: Vec::new(),
            changed: trimmed.commands > 0 || trimmed.requests > 0,
            are_copies: false,
            told: Vec::new(),
        })
    }

    fn cost_bytes(&self) -> usize {
        // It makes room.
        0
    }
}
