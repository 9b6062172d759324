//! Sessions come, are entered and left, and go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{OptionalExtension, params};

use super::{
    Config, Enter, Entered, Feed, Leave, Refused, SessionId, SessionInfo,
    account::Depth,
    expiry,
    job::Answer,
    stage::{PLACE_BYTES, Row, Session},
    writer::Writer,
};

impl Writer {
    /// Makes a session for a client, or gives it the one it had.
    pub(super) fn enter(&mut self, enter: &Enter) -> rusqlite::Result<Result<Answer, Refused>> {
        let mut known = self.shared.session(&enter.client);
        if known.is_none() && self.state.sessions.len() >= self.shared.config.sessions_max {
            return Ok(Err(Refused::TooMany));
        }
        if self.has_too_many(known, enter.user.as_ref()) {
            return Ok(Err(Refused::TooManyOfUser));
        }
        if enter.clean
            && let Some(id) = known.take()
        {
            self.remove_session(id)?;
        }
        let present = known.is_some();
        let before = known.and_then(|id| self.state.sessions.get(&id));
        let expiry_before = before.map(|session| session.row.expiry_secs);
        let id = match known {
            Some(id) => id,
            None => self.add_session(enter)?,
        };
        self.settle_will(id)?;
        self.state.saved(id);
        let feed = Arc::new(Feed::new(Arc::clone(&enter.outbox), &self.shared.budget));
        let mut dropped = 0;
        self.shared.know(&enter.client, id, enter.user.as_ref());
        self.state.set_due(id, None);
        if let Some(session) = self.state.change(id) {
            session.row.user.clone_from(&enter.user);
            session.sent_before = session.row.given;
            session.loaded = 0;
            session.behind = session.count > 0;
            session.feed = Some(Arc::clone(&feed));
            session.row.expiry_secs = enter.expiry_secs;
            session.row.ended_ms = None;
            dropped = session.row.dropped;
        }
        self.keep_will(id, enter)?;
        self.page(id)?;
        Ok(Ok(Answer::Entered(Box::new(Entered {
            session: id,
            present,
            expiry_before,
            feed,
            subscriptions: self.subscriptions_of(id)?,
            exchanges: self.exchanges_of(id)?,
            dropped,
        }))))
    }

    /// Whether a user has as many sessions as one may have, without `known`. Those of
    /// clients that did not say who they are count as one user's.
    fn has_too_many(&self, known: Option<SessionId>, user: Option<&Arc<str>>) -> bool {
        let known = known.and_then(|id| self.state.sessions.get(&id));
        if known.is_some_and(|session| session.row.user.as_ref() == user) {
            return false;
        }
        self.shared.sessions_of(user) >= self.shared.config.sessions_per_user_max
    }

    fn add_session(&mut self, enter: &Enter) -> rusqlite::Result<SessionId> {
        self.sql(
            "INSERT INTO sessions (client, user, expiry_secs, ended_ms, given, dropped)
             VALUES (?1, ?2, ?3, NULL, 0, 0)",
        )?
        .execute(params![enter.client, enter.user, enter.expiry_secs])?;
        let id = SessionId(self.connection.last_insert_rowid());
        self.last_session = self.last_session.max(id.0);
        let row = Row {
            user: enter.user.clone(),
            expiry_secs: enter.expiry_secs,
            ended_ms: None,
            given: 0,
            dropped: 0,
        };
        self.state.add(
            id,
            Session {
                client: Arc::clone(&enter.client),
                count: 0,
                bytes: 0,
                next: 1,
                sent_before: 0,
                loaded: 0,
                kept_up_to: 0,
                behind: false,
                exchanges: 0,
                feed: None,
                due: None,
                stored: row.clone(),
                row,
            },
        );
        Ok(id)
    }

    /// Ends a connection, and with it a session that was not to outlive it.
    pub(super) fn leave(&mut self, leave: &Leave) -> rusqlite::Result<Result<Answer, Refused>> {
        let id = leave.session;
        self.left(leave);
        if leave.forget_will {
            self.forget_will(id)?;
        } else {
            self.will_is_due(id)?;
        }
        let ends = |session: &Session| session.row.expiry_secs == 0;
        if self.state.sessions.get(&id).is_some_and(ends) {
            self.remove_session(id)?;
        }
        Ok(Ok(Answer::Done))
    }

    /// The part of [`Writer::leave`] that the disk has no part in.
    pub(super) fn left(&mut self, leave: &Leave) {
        let id = leave.session;
        let wall_ms = self.shared.wall_ms();
        let Some(session) = self.state.change(id) else {
            return;
        };
        session.feed = None;
        session.behind = false;
        session.row.given = session.sent_before.max(leave.sent);
        session.kept_up_to = 0;
        session.row.ended_ms = Some(wall_ms);
        if let Some(secs) = leave.expiry_secs {
            session.row.expiry_secs = secs;
        }
        let expiry_secs = session.row.expiry_secs;
        self.state
            .set_due(id, expiry::due(Instant::now(), expiry_secs, 0));
    }

    /// Removes a session and everything of it but its will, which is published now if
    /// it waits, and its queue: that is emptied in slices ([`Writer::empty_leftovers`]),
    /// because it may have thousands of messages.
    pub(super) fn remove_session(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let Some(session) = self.state.sessions.get(&id) else {
            return Ok(());
        };
        let (client, count, given) = (session.client.clone(), session.count, session.row.given);
        self.settle_will(id)?;
        self.state.saved(id);
        for add in self.subscriptions_of(id)? {
            self.unsubscribe(id, &add.filter)?;
        }
        if count > 0 {
            self.sql("INSERT INTO leftovers (session, given) VALUES (?1, ?2)")?
                .execute([id.0, given])?;
            self.state.set_leftover(id, Some(given));
        }
        self.sql("DELETE FROM exchanges WHERE session = ?1")?
            .execute([id.0])?;
        self.sql("DELETE FROM sessions WHERE id = ?1")?
            .execute([id.0])?;
        self.state.remove(id);
        self.shared.forget(&client);
        Ok(())
    }

    /// Removes what is kept for a client; whether there was something.
    pub(super) fn remove_client(&mut self, client: &str) -> rusqlite::Result<Answer> {
        let known = self.shared.session(client);
        if let Some(id) = known {
            self.remove_session(id)?;
        }
        Ok(Answer::Was(known.is_some()))
    }

    /// Removes the sessions that have expired, some at a time.
    pub(super) fn expire_sessions(&mut self) -> rusqlite::Result<()> {
        const AT_ONCE: usize = 16;
        let now = Instant::now();
        for _ in 0..AT_ONCE {
            match self.state.due.first() {
                Some(&(due, id)) if due <= now => self.remove_session(id)?,
                _ => break,
            }
            self.state.counts.sessions_expired += 1;
        }
        Ok(())
    }

    /// Takes up what could not be written when it changed.
    pub(super) fn save_unsaved(&mut self) -> rusqlite::Result<()> {
        const AT_ONCE: usize = if cfg!(test) { 2 } else { 256 };
        let unsaved = self.state.unsaved.keys().take(AT_ONCE);
        let some: Vec<_> = unsaved.copied().collect();
        for id in some {
            // With the will, its row is written.
            self.state.change(id);
            self.settle_will(id)?;
            self.state.saved(id);
        }
        Ok(())
    }

    /// Writes the rows of the sessions that were changed.
    pub(super) fn write_rows(&mut self) -> rusqlite::Result<()> {
        for id in self.state.touched() {
            let Some(session) = self.state.sessions.get_mut(&id) else {
                continue;
            };
            if session.stored == session.row {
                continue;
            }
            let row = session.row.clone();
            let dropped = i64::try_from(row.dropped).unwrap_or(i64::MAX);
            super::writer::cached(
                &self.connection,
                "UPDATE sessions
                 SET user = ?2, expiry_secs = ?3, ended_ms = ?4, given = ?5, dropped = ?6
                 WHERE id = ?1",
            )?
            .execute(params![
                id.0,
                row.user,
                row.expiry_secs,
                row.ended_ms,
                row.given,
                dropped
            ])?;
            session.stored = row;
        }
        Ok(())
    }

    /// Reads the sessions as they are in the file.
    pub(super) fn load_sessions(&mut self) -> rusqlite::Result<()> {
        let now = Instant::now();
        let wall = self.shared.wall_ms();
        let mut depths = self.depths()?;
        let mut found = Vec::new();
        {
            let mut statement = self.connection.prepare(
                "SELECT id, client, user, expiry_secs, ended_ms, given, dropped FROM sessions",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let dropped: i64 = row.get(6)?;
                let as_stored = Row {
                    user: row.get(2)?,
                    expiry_secs: row.get(3)?,
                    ended_ms: row.get(4)?,
                    given: row.get(5)?,
                    dropped: dropped.unsigned_abs(),
                };
                found.push((
                    SessionId(row.get(0)?),
                    row.get::<_, Arc<str>>(1)?,
                    as_stored,
                ));
            }
        }
        for (id, client, stored) in found {
            let mut row = stored.clone();
            row.expiry_secs = capped(&self.shared.config, row.expiry_secs);
            // A connection that was open when the process died ended about now.
            let ended = *row.ended_ms.get_or_insert(wall);
            let waited = crate::clock::passed_ms(ended, wall);
            let due = expiry::due(now, row.expiry_secs, waited);
            let Depth { count, bytes, last } = depths.remove(&id).unwrap_or_default();
            self.shared.know(&client, id, row.user.as_ref());
            self.state.due.extend(due.map(|due| (due, id)));
            self.state.total_count += count;
            self.state.sessions.insert(
                id,
                Session {
                    client,
                    count,
                    bytes,
                    next: last.max(row.given) + 1,
                    sent_before: row.given,
                    loaded: 0,
                    kept_up_to: 0,
                    behind: false,
                    exchanges: 0,
                    feed: None,
                    due,
                    stored,
                    row,
                },
            );
        }
        // What is left belongs to sessions that are over.
        self.state.total_count += depths.values().map(|depth| depth.count).sum::<u64>();
        self.state.total_bytes = self.state.total_count * PLACE_BYTES;
        self.load_leftovers()?;
        // What connections that died left to be written.
        let all: Vec<_> = self.state.sessions.keys().copied().collect();
        for id in all {
            self.state.change(id);
        }
        self.last_session = self
            .connection
            .query_row(
                "SELECT seq FROM sqlite_sequence WHERE name = 'sessions'",
                [],
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or(0);
        Ok(())
    }

    fn load_leftovers(&mut self) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare("SELECT session, given FROM leftovers")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = SessionId(row.get(0)?);
            self.state.leftovers.insert(id, row.get(1)?);
        }
        Ok(())
    }

    pub(super) fn list_sessions(&self) -> Answer {
        let info = |session: &Session| SessionInfo {
            client_id: session.client.to_string(),
            user: session.row.user.as_deref().map(String::from),
            connected: session.feed.is_some(),
            expiry_secs: session.row.expiry_secs,
            ended_ms: session.row.ended_ms,
            queued: session.count,
            queued_bytes: session.bytes,
            dropped: session.row.dropped,
        };
        let mut all: Vec<_> = self.state.sessions.values().map(info).collect();
        all.sort_unstable_by(|one, other| one.client_id.cmp(&other.client_id));
        Answer::Sessions(all)
    }

    /// When the next session expires, if that is within `limit`.
    pub(super) fn next_expiry(&self, limit: Duration) -> Duration {
        self.state.due.first().map_or(limit, |(due, _)| {
            due.saturating_duration_since(Instant::now()).min(limit)
        })
    }
}

/// The operator may have lowered the limit since.
fn capped(config: &Config, secs: u32) -> u32 {
    secs.min(config.expiry_secs_max())
}
