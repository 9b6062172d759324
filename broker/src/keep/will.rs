//! The wills of persistent sessions, so that none is lost with the process: neither one
//! that waits for its delay, nor one that is being published.
//!
//! A will is forgotten only after it was published. It has an identity of its own
//! ([`WillId::identity`]), so one that is published again after a crash in between is
//! the same to the journal. It outlasts its session: one that expired while nothing ran,
//! or was ended by a clean start or the operator, leaves its will to be published. A
//! client that comes back calls off the will that waits, not one that was due before: a
//! session may have several of those.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};

use super::{
    Enter, KeptWill, SessionId, Token,
    job::Answer,
    sealed::{Table, opened, sealed},
    writer::Writer,
};
use crate::{clock::passed_ms, fanout::Message};

/// A will whose connection is gone, as it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WillId {
    /// Its row, which may be given again.
    id: i64,
    /// Random, and in the file from CONNECT on: no later write has to find room for it.
    token: Token,
}

impl WillId {
    pub(super) const fn of(id: i64, token: Token) -> Self {
        Self { id, token }
    }

    /// What makes it the same will when it is published again.
    pub(crate) const fn identity(self) -> Token {
        self.token
    }
}

/// Calls off the will that waits, not one that was due before.
pub(super) const CALL_OFF: &str =
    "DELETE FROM wills WHERE session = ?1 AND (due_ms IS NULL OR due_ms > ?2)
     AND id NOT IN (SELECT will FROM shown_wills)";
/// The will of a session's last connection.
pub(super) const LAST: &str = "SELECT id, token, delay_secs, due_ms FROM wills
     WHERE session = ?1 AND id NOT IN (SELECT will FROM shown_wills)
     ORDER BY id DESC LIMIT 1";

impl Writer {
    /// Keeps the will of the connection that enters, in place of one that waits.
    pub(super) fn keep_will(&mut self, id: SessionId, enter: &Enter) -> rusqlite::Result<()> {
        self.sql(CALL_OFF)?.execute([id.0, self.shared.wall_ms()])?;
        let Some((message, delay_secs)) = &enter.will else {
            return Ok(());
        };
        let token: Token = rand::random();
        let seal = &self.shared.config.seal;
        let frame = sealed(seal, Table::Wills, &token, message.frame());
        self.sql(
            "INSERT INTO wills (session, client, user, delay_secs, due_ms, checksum, frame, token)
             VALUES (?1, ?2, ?3, ?4, NULL, ?5, ?6, ?7)",
        )?
        .execute(params![
            id.0,
            enter.client,
            enter.user,
            delay_secs,
            crc32fast::hash(&frame),
            frame,
            token
        ])?;
        Ok(())
    }

    /// The connection has ended in a way that needs no will.
    pub(super) fn forget_will(&mut self, id: SessionId) -> rusqlite::Result<()> {
        self.sql("DELETE FROM wills WHERE session = ?1 AND due_ms IS NULL")?
            .execute([id.0])?;
        Ok(())
    }

    /// The will of the session's last connection, if that is gone and left one.
    pub(super) fn due_will(&self, id: SessionId) -> rusqlite::Result<Answer> {
        let last = self
            .sql(LAST)?
            .query_row([id.0], |row| {
                let will = WillId::of(row.get(0)?, row.get(1)?);
                Ok((will, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let due = last.and_then(|(will, delay_secs, due_ms)| {
            self.due_of(id, delay_secs, due_ms)?;
            Some(will)
        });
        Ok(Answer::Due(due))
    }

    /// When a will is due, or was; `None` while its connection is there.
    fn due_of(&self, id: SessionId, delay_secs: i64, due_ms: Option<i64>) -> Option<i64> {
        // Its connection ended while nothing could be written.
        let unsaved = || {
            let is_left = self.state.unsaved.get(&id) == Some(&false);
            let ended_ms = self.state.sessions.get(&id)?.row.ended_ms?;
            is_left.then_some(ended_ms + 1000 * delay_secs)
        };
        due_ms.or_else(unsaved)
    }

    /// Whether a will is still to be published.
    pub(super) fn is_will_due(&self, will: WillId) -> rusqlite::Result<Answer> {
        let found = self
            .sql(
                "SELECT session, delay_secs, due_ms FROM wills
                 WHERE id = ?1 AND token = ?2 AND id NOT IN (SELECT will FROM shown_wills)",
            )?
            .query_row(params![will.id, will.token], |row| {
                Ok((SessionId(row.get(0)?), row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let due = found.and_then(|(id, delay_secs, due_ms)| self.due_of(id, delay_secs, due_ms));
        Ok(Answer::Was(due.is_some()))
    }

    /// A will is published: forgets it, unless its retained copy is owed still.
    pub(super) fn will_was_published(&mut self, will: WillId) -> rusqlite::Result<()> {
        match self.state.debts.has(will) {
            true => Ok(()),
            false => self.will_is_over(will),
        }
    }

    /// Everybody has seen a will, and its retained copy is owed.
    pub(super) fn will_was_shown(&mut self, will: WillId, shown_ms: i64) -> rusqlite::Result<()> {
        self.date_will(will)?;
        // Not in its own row, which would be written anew as a whole.
        self.sql(
            "INSERT OR IGNORE INTO shown_wills (will, shown_ms)
             SELECT id, ?3 FROM wills WHERE id = ?1 AND token = ?2",
        )?
        .execute(params![will.id, will.token, shown_ms])?;
        Ok(())
    }

    /// Nothing of a will is owed any more.
    pub(super) fn will_is_over(&mut self, will: WillId) -> rusqlite::Result<()> {
        let deleted = self
            .sql("DELETE FROM wills WHERE id = ?1 AND token = ?2")?
            .execute(params![will.id, will.token])?;
        if deleted > 0 {
            self.sql("DELETE FROM shown_wills WHERE will = ?1")?
                .execute([will.id])?;
        }
        Ok(())
    }

    /// Notes when a will was due whose connection ended while nothing could be written.
    fn date_will(&mut self, will: WillId) -> rusqlite::Result<()> {
        let undated: Option<i64> = self
            .sql("SELECT session FROM wills WHERE id = ?1 AND token = ?2 AND due_ms IS NULL")?
            .query_row(params![will.id, will.token], |row| row.get(0))
            .optional()?;
        if let Some(session) = undated {
            self.settle_will(SessionId(session))?;
        }
        Ok(())
    }

    /// The connection is gone: the delay began when it went.
    pub(super) fn will_is_due(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let session = self.state.sessions.get(&id);
        let ended_ms = session.and_then(|session| session.row.ended_ms);
        let ended_ms = ended_ms.unwrap_or_else(|| self.shared.wall_ms());
        self.sql(
            "UPDATE wills SET due_ms = ?2 + 1000 * delay_secs WHERE session = ?1 AND due_ms IS NULL",
        )?
        .execute(params![id.0, ended_ms])?;
        Ok(())
    }

    /// What became of the will of a connection that ended while nothing could be written.
    pub(super) fn settle_will(&mut self, id: SessionId) -> rusqlite::Result<()> {
        match self.state.unsaved.get(&id) {
            Some(true) => self.forget_will(id),
            Some(false) => self.will_is_due(id),
            None => Ok(()),
        }
    }

    /// Connections that died with the process have ended: their delays begin.
    pub(super) fn wills_are_due(&mut self) -> rusqlite::Result<()> {
        self.sql("UPDATE wills SET due_ms = ?1 + 1000 * delay_secs WHERE due_ms IS NULL")?
            .execute([self.shared.wall_ms()])?;
        Ok(())
    }

    pub(super) fn list_wills(&mut self) -> rusqlite::Result<Answer> {
        let (wall, now_ms) = (self.shared.wall_ms(), self.shared.clock.now_ms());
        let mut damaged = Vec::new();
        let mut statement = self.sql(
            "SELECT session, delay_secs, due_ms, checksum, frame, client, user, id, token FROM wills
             WHERE id NOT IN (SELECT will FROM shown_wills) ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        let mut wills = Vec::new();
        while let Some(row) = rows.next()? {
            let session = SessionId(row.get(0)?);
            let Some(due_ms) = self.due_of(session, row.get(1)?, row.get(2)?) else {
                continue;
            };
            let will = WillId::of(row.get(7)?, row.get(8)?);
            let client: Arc<str> = row.get(5)?;
            let (seal, stored) = (&self.shared.config.seal, row.get_ref(4)?.as_blob()?);
            let frame = opened(seal, Table::Wills, &will.token, row.get(3), stored)?;
            let budget = &self.shared.budget;
            let message = frame.and_then(|frame| Message::restore(&frame, 0, now_ms, budget));
            let Some(message) = message else {
                damaged.push((will, client));
                continue;
            };
            let delay_ms = 1000 * row.get::<_, i64>(1)?;
            let began = due_ms - delay_ms;
            let waited = passed_ms(began, wall);
            // No longer than its session.
            let due_in_ms = match self.state.sessions.contains_key(&session) {
                true => delay_ms.unsigned_abs().saturating_sub(waited),
                false => 0,
            };
            wills.push(KeptWill {
                id: will,
                client,
                user: row.get(6)?,
                message,
                due_in_ms,
            });
        }
        drop(rows);
        drop(statement);
        for (will, client) in damaged {
            // Not with this: a full disk can be read all the same.
            if self.state.debts.discard(will) {
                tracing::error!(client.id = %client, "a will was damaged");
                self.shared.counters.kept_damaged.add(1);
            }
        }
        Ok(Answer::Wills(wills))
    }
}
