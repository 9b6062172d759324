//! Inbound QoS 2 exchanges of persistent sessions.
//!
//! One is begun on disk before its message goes anywhere, with a token that makes
//! the message the same when it comes again after a crash, and received when the
//! message is kept. From then on a resent PUBLISH is only answered.

use rusqlite::params;

use super::{Refused, SessionId, Token, job::Answer, writer::Writer};

impl Writer {
    pub(super) fn begin_exchanges(
        &mut self,
        id: SessionId,
        exchanges: &[(u16, Token)],
    ) -> rusqlite::Result<Result<Answer, Refused>> {
        if !self.state.sessions.contains_key(&id) {
            return Ok(Err(Refused::Gone));
        }
        for (packet, token) in exchanges {
            self.sql(
                "INSERT OR REPLACE INTO exchanges (session, packet, token, received)
                 VALUES (?1, ?2, ?3, 0)",
            )?
            .execute(params![id.0, packet, token.as_slice()])?;
        }
        Ok(Ok(Answer::Done))
    }

    /// Notes that an exchange is received. One that is not here, because there was no
    /// room to note its beginning, is noted now: PUBREC promises that it is.
    pub(super) fn exchange_received(
        &mut self,
        id: SessionId,
        packet: u16,
        token: &Token,
    ) -> rusqlite::Result<()> {
        if !self.state.sessions.contains_key(&id) {
            return Ok(());
        }
        self.sql(
            "INSERT INTO exchanges (session, packet, token, received) VALUES (?1, ?2, ?3, 1)
             ON CONFLICT (session, packet) DO UPDATE SET token = ?3, received = 1",
        )?
        .execute(params![id.0, packet, token.as_slice()])?;
        Ok(())
    }

    /// Ends an exchange, unless another was begun under its identifier.
    pub(super) fn end_exchange(
        &mut self,
        id: SessionId,
        packet: u16,
        token: &Token,
    ) -> rusqlite::Result<()> {
        self.sql("DELETE FROM exchanges WHERE session = ?1 AND packet = ?2 AND token = ?3")?
            .execute(params![id.0, packet, token.as_slice()])?;
        Ok(())
    }

    pub(super) fn exchanges_of(&self, id: SessionId) -> rusqlite::Result<Vec<(u16, Token, bool)>> {
        self.sql("SELECT packet, token, received FROM exchanges WHERE session = ?1")?
            .query_map([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
    }
}
