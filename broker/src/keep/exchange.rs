//! Inbound QoS 2 exchanges of persistent sessions.
//!
//! One is begun on disk before its message goes anywhere, with a token that makes
//! the message the same when it comes again after a crash, and received when the
//! message is kept. From then on a resent PUBLISH is only answered.

use rusqlite::params;

use super::{Refused, SessionId, Token, job::Answer, writer::Writer};

/// Exchanges of one session that are not over. A client of 3.1.1 has no receive
/// maximum, and could leave one for every packet identifier there is: its session ends
/// beyond this, because what would make room comes behind what has to wait for it.
pub(crate) const EXCHANGES_MAX: usize = if cfg!(test) { 64 } else { 4096 };

impl Writer {
    /// Notes exchanges before anything is done with their messages. Where there are
    /// too many there is no room, until PUBREL ends some.
    pub(super) fn begin_exchanges(
        &mut self,
        id: SessionId,
        exchanges: &[(u16, Token)],
    ) -> rusqlite::Result<Result<Answer, Refused>> {
        if !self.state.sessions.contains_key(&id) {
            return Ok(Err(Refused::Gone));
        }
        let known = self.state.sessions.get(&id).map_or(0, |one| one.exchanges);
        if known + exchanges.len() > EXCHANGES_MAX
            && known + self.not_noted(id, exchanges)? > EXCHANGES_MAX
        {
            return Ok(Err(Refused::Full));
        }
        for (packet, token) in exchanges {
            self.note_exchange(id, *packet, token, false)?;
        }
        Ok(Ok(Answer::Done))
    }

    /// How many of them are not on disk: some may be, where they are tried again.
    fn not_noted(&self, id: SessionId, exchanges: &[(u16, Token)]) -> rusqlite::Result<usize> {
        let mut statement =
            self.sql("SELECT 1 FROM exchanges WHERE session = ?1 AND packet = ?2")?;
        let mut count = 0;
        for (packet, _) in exchanges {
            count += usize::from(!statement.exists(params![id.0, packet])?);
        }
        Ok(count)
    }

    /// Notes that an exchange is received. One that is not here, because there was no
    /// room to note its beginning, is noted now: PUBREC promises that it is.
    pub(super) fn exchange_received(
        &mut self,
        id: SessionId,
        packet: u16,
        token: &Token,
    ) -> rusqlite::Result<()> {
        if self.state.sessions.contains_key(&id) {
            self.note_exchange(id, packet, token, true)?;
        }
        Ok(())
    }

    fn note_exchange(
        &mut self,
        id: SessionId,
        packet: u16,
        token: &Token,
        received: bool,
    ) -> rusqlite::Result<()> {
        let row = params![id.0, packet, token.as_slice(), received];
        let known = self
            .sql(
                "UPDATE exchanges SET token = ?3, received = ?4
                 WHERE session = ?1 AND packet = ?2",
            )?
            .execute(row)?;
        if known == 0 {
            self.sql(
                "INSERT INTO exchanges (session, packet, token, received)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(row)?;
            if let Some(session) = self.state.change(id) {
                session.exchanges += 1;
            }
        }
        Ok(())
    }

    /// Ends an exchange, unless another was begun under its identifier.
    pub(super) fn end_exchange(
        &mut self,
        id: SessionId,
        packet: u16,
        token: &Token,
    ) -> rusqlite::Result<()> {
        let ended = self
            .sql("DELETE FROM exchanges WHERE session = ?1 AND packet = ?2 AND token = ?3")?
            .execute(params![id.0, packet, token.as_slice()])?;
        if ended > 0
            && let Some(session) = self.state.change(id)
        {
            session.exchanges = session.exchanges.saturating_sub(ended);
        }
        Ok(())
    }

    /// Counts the exchanges of every session of the file.
    pub(super) fn load_exchanges(&mut self) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare("SELECT session, count(*) FROM exchanges GROUP BY session")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(session) = self.state.sessions.get_mut(&SessionId(row.get(0)?)) {
                session.exchanges = row.get::<_, u32>(1)? as usize;
            }
        }
        Ok(())
    }

    pub(super) fn exchanges_of(&self, id: SessionId) -> rusqlite::Result<Vec<(u16, Token, bool)>> {
        self.sql("SELECT packet, token, received FROM exchanges WHERE session = ?1")?
            .query_map([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
    }
}
