//! Commands of which a damaged journal says that they are queued.
//!
//! They may have been sent since, and carried out. Those of QoS 0 and 1 may come more than
//! once anyway, under the same id and key, and are sent. One of QoS 2 must not: it is
//! reported as failed, with the reason, and whoever placed it decides.

use std::sync::Arc;

use rusqlite::Connection;

use super::{ROW_BYTES, enter, progress::GATEWAY, progress::SLICE};
use crate::{
    event::Timestamp,
    fleet::{State, announce::Announce, rows},
    store::{Edit, Edited},
};

/// Says what becomes of them: how many there were, at most [`SLICE`].
#[derive(Debug)]
pub(in crate::fleet) struct Settle {
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// What became of commands in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) struct Settled {
    pub(in crate::fleet) commands: usize,
    /// Those of them that failed.
    pub(in crate::fleet) failed: usize,
}

impl Edit for Settle {
    type Answer = Settled;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Settled>> {
        let (commands, damaged) = rows::in_doubt(tables, SLICE)?;
        let count = commands.len() + damaged.len();
        for number in damaged {
            tracing::error!(row = number, "a command is damaged, and forgotten");
            rows::forget_command(tables, number)?;
        }
        let mut events = Vec::new();
        for mut command in commands {
            if command.qos < 2 {
                rows::put_command(tables, &command)?;
                continue;
            }
            let reason = "the journal was damaged, and it is not known whether it was sent";
            command.reason = Some(reason.to_owned());
            let (announce, state) = (&*self.announce, State::Failed);
            events.push(enter(tables, announce, now, &mut command, state, GATEWAY)?);
        }
        let settled = Settled {
            commands: count,
            failed: events.len(),
        };
        Ok(Edited {
            answer: settled,
            events,
            changed: count > 0,
            are_copies: false,
            told: Vec::new(),
        })
    }

    fn kept(&self, settled: &Settled) {
        self.announce.entered(State::Failed, settled.failed as u64);
    }

    fn cost_bytes(&self) -> usize {
        // Rows change in place, and the events have no payloads.
        SLICE * ROW_BYTES
    }
}
