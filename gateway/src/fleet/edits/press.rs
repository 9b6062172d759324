//! Room for what is new, where the tables come near their bound in bytes.

use rusqlite::Connection;

use super::progress::SLICE;
use crate::{
    event::Timestamp,
    fleet::rows,
    store::{Edit, Edited},
};

/// What was over, or answered, a moment ago is not forgotten: whoever did not hear it asks
/// again under the same key.
const RECENT_MS: i64 = 600_000;

/// Forgets the oldest commands that are over, and the oldest answers to requests.
#[derive(Debug)]
pub(in crate::fleet) struct Press;

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::fleet) struct Pressed {
    pub(in crate::fleet) commands: u64,
    pub(in crate::fleet) requests: u64,
    /// What they took.
    pub(in crate::fleet) bytes: u64,
}

impl Edit for Press {
    type Answer = Pressed;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Pressed>> {
        if now.is_unset() {
            return Ok(Edited::nothing(Pressed::default()));
        }
        let before = now.as_millis().saturating_sub(RECENT_MS);
        let (commands, of_commands) = rows::press_commands(tables, before, SLICE)?;
        let (requests, of_requests) = rows::press_requests(tables, before, SLICE)?;
        let pressed = Pressed {
            commands,
            requests,
            bytes: of_commands + of_requests,
        };
        Ok(Edited {
            answer: pressed,
            events: Vec::new(),
            changed: commands + requests > 0,
            are_copies: false,
            told: Vec::new(),
        })
    }

    fn cost_bytes(&self) -> usize {
        // It makes room.
        0
    }
}
