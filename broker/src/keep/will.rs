//! The wills of persistent sessions, so that one whose delay outlasts the process is
//! published all the same.

use std::sync::Arc;

use rusqlite::params;

use super::{KeptWill, SessionId, job::Answer, writer::Writer};
use crate::{
    clock::{Clock, passed_ms},
    fanout::Message,
};

impl Writer {
    /// Keeps the will of the connection that enters, in place of any before.
    pub(super) fn keep_will(
        &mut self,
        id: SessionId,
        will: Option<&(Message, u32)>,
    ) -> rusqlite::Result<()> {
        let Some((message, delay_secs)) = will else {
            return self.forget_will(id);
        };
        let frame = message.frame();
        self.sql(
            "INSERT OR REPLACE INTO wills (session, delay_secs, due_ms, checksum, frame)
             VALUES (?1, ?2, NULL, ?3, ?4)",
        )?
        .execute(params![id.0, delay_secs, crc32fast::hash(frame), frame])?;
        Ok(())
    }

    pub(super) fn forget_will(&mut self, id: SessionId) -> rusqlite::Result<()> {
        self.sql("DELETE FROM wills WHERE session = ?1")?
            .execute([id.0])?;
        Ok(())
    }

    /// A will that is due is to be published; whether there is one still.
    pub(super) fn take_will(&mut self, id: SessionId) -> rusqlite::Result<bool> {
        let taken = self
            .sql("DELETE FROM wills WHERE session = ?1 AND due_ms IS NOT NULL")?
            .execute([id.0])?;
        Ok(taken > 0)
    }

    /// The connection is gone: the delay begins.
    pub(super) fn will_is_due(&mut self, id: SessionId) -> rusqlite::Result<()> {
        self.sql(
            "UPDATE wills SET due_ms = ?2 + 1000 * delay_secs WHERE session = ?1 AND due_ms IS NULL",
        )?
        .execute(params![id.0, Clock::wall_ms()])?;
        Ok(())
    }

    /// Connections that died with the process have ended: their delays begin.
    pub(super) fn wills_are_due(&mut self) -> rusqlite::Result<()> {
        self.sql("UPDATE wills SET due_ms = ?1 + 1000 * delay_secs WHERE due_ms IS NULL")?
            .execute([Clock::wall_ms()])?;
        Ok(())
    }

    pub(super) fn list_wills(&self) -> rusqlite::Result<Answer> {
        let (wall, now_ms) = (Clock::wall_ms(), self.shared.clock.now_ms());
        let mut statement = self.sql(
            "SELECT session, delay_secs, due_ms, checksum, frame FROM wills
             WHERE due_ms IS NOT NULL",
        )?;
        let mut rows = statement.query([])?;
        let mut wills = Vec::new();
        while let Some(row) = rows.next()? {
            let id = SessionId(row.get(0)?);
            let frame = row.get_ref(4)?.as_blob()?;
            let sound = row.get(3) == Ok(i64::from(crc32fast::hash(frame)));
            let message = Message::restore(frame, 0, now_ms, &self.shared.budget);
            let (Some(message), Some(session)) =
                (message.filter(|_| sound), self.state.sessions.get(&id))
            else {
                continue;
            };
            let delay_ms = 1000 * row.get::<_, i64>(1)?;
            let began: i64 = row.get::<_, i64>(2)? - delay_ms;
            let waited = passed_ms(began, wall);
            wills.push(KeptWill {
                session: id,
                client: Arc::clone(&session.client),
                user: session.row.user.clone(),
                message,
                due_in_ms: delay_ms.unsigned_abs().saturating_sub(waited),
            });
        }
        Ok(Answer::Wills(wills))
    }
}
