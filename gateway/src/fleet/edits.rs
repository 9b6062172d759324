//! The changes of the fleet's tables, each decided in the transaction that writes it.

pub(super) mod cancel;
pub(super) mod device;
pub(super) mod doubt;
pub(super) mod life;
pub(super) mod order;
pub(super) mod presence;
pub(super) mod press;
pub(super) mod progress;
pub(super) mod shadow;

use rusqlite::Connection;

use super::{
    Command, State,
    announce::{Announce, News},
    rows,
};
use crate::{event::Timestamp, store::NewEvent};

/// What a row takes beside its body, with its indexes, and an event beside its own.
const ROW_BYTES: usize = 512;

/// What a change takes whose body has so many bytes: the row, the event that tells of it,
/// and once more for the answer of a request.
pub(super) const fn cost_bytes(body: usize) -> usize {
    3 * (body + ROW_BYTES)
}

/// A command enters a state: writes it, and gives what tells of it.
fn enter(
    tables: &Connection,
    announce: &dyn Announce,
    now: Timestamp,
    command: &mut Command,
    state: State,
    actor: &str,
) -> rusqlite::Result<NewEvent> {
    command.state = state;
    if state == State::Sent {
        command.sent_ms = Some(now.as_millis());
    }
    if state.is_over() {
        // Where the time is not known it is over when it was placed, at least.
        command.ended_ms = Some(now.as_millis().max(command.created_ms));
    }
    rows::put_command(tables, command)?;
    let site = rows::device(tables, &command.device)?.and_then(|device| device.fields.site);
    Ok(tell(
        command,
        site.as_deref(),
        state.kind(),
        state.word(),
        now,
        actor,
        announce,
    ))
}

/// What tells of a command; `word` is what tells it from all else that is told of it.
fn tell(
    command: &Command,
    site: Option<&str>,
    kind: &'static str,
    word: &str,
    now: Timestamp,
    actor: &str,
    announce: &dyn Announce,
) -> NewEvent {
    let mut value = command.show();
    if let Some(members) = value.as_object_mut() {
        // It is of this gateway's table, and a new command has none yet.
        members.remove("number");
        if kind != State::Queued.kind() {
            // The first event has it.
            members.remove("payload");
        }
    }
    News {
        kind,
        device: &command.device,
        site,
        id: format!("{}:{word}", command.id),
        at: now,
        actor,
        key: Some(&command.key),
        rules: command.rules.as_deref(),
        what: "command",
        value,
    }
    .entry(announce)
}
