//! Commands are taken back.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::OwnedRwLockReadGuard;

use super::{cost_bytes, enter};
use crate::{
    event::Timestamp,
    fleet::{Asked, Change, Command, Refusal, State, announce::Announce, rows},
    store::{Edit, Edited},
};

/// Takes a command back that was not sent. Not while one may be in hand.
#[derive(Debug)]
pub(in crate::fleet) struct Cancel {
    pub(in crate::fleet) device: String,
    pub(in crate::fleet) id: String,
    pub(in crate::fleet) asked: Asked,
    #[expect(
        dead_code,
        reason = "held, not read: while the edit waits nothing is sent"
    )]
    pub(in crate::fleet) guard: OwnedRwLockReadGuard<()>,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

impl Edit for Cancel {
    type Answer = Result<Change<Command>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let Some(mut command) = rows::command(tables, &self.device, &self.id)? else {
            let what = format!("{:?} has no command {:?}", self.device, self.id);
            return Ok(Edited::nothing(Err(Refusal::NotFound(what))));
        };
        match command.state {
            State::Queued if rows::is_in_doubt(tables, &command)? => {
                let what = "the journal was damaged, and it is not known yet whether it was sent";
                return Ok(Edited::nothing(Err(Refusal::NotYet(what.to_owned()))));
            }
            State::Queued => {}
            State::Cancelled => {
                return Ok(Edited::nothing(Ok(Change {
                    value: command,
                    again: true,
                })));
            }
            state => {
                let what = format!("the command is {} by now", state.word());
                return Ok(Edited::nothing(Err(Refusal::Over(what))));
            }
        }
        let (announce, state) = (&*self.announce, State::Cancelled);
        let event = enter(
            tables,
            announce,
            now,
            &mut command,
            state,
            &self.asked.actor,
        )?;
        let change = Change {
            value: command,
            again: false,
        };
        Ok(Edited::change(Ok(change), vec![event]))
    }

    fn kept(&self, answer: &Self::Answer) {
        if answer.as_ref().is_ok_and(|cancelled| !cancelled.again) {
            self.announce.entered(State::Cancelled, 1);
        }
    }

    fn cost_bytes(&self) -> usize {
        cost_bytes(0)
    }
}
