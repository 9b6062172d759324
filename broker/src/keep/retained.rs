//! Retained messages on disk. Those below `$SYS/` are in memory only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::params;

use super::{
    RetainedFull,
    job::Answer,
    sealed::{Table, opened, sealed},
    writer::Writer,
};
use crate::{
    QoS,
    clock::passed_ms,
    fanout::{How, Message, Owner},
};

/// How often it is said that there is no more room.
const SAID: Duration = Duration::from_mins(1);

impl Writer {
    /// Makes a message its topic's; the message with its number.
    pub(super) fn retain(
        &mut self,
        message: &Message,
        by: Option<Owner>,
    ) -> rusqlite::Result<Message> {
        let change = self.shared.retained.change(message, by);
        let topic = change.message.topic_str();
        self.state.retained_was(Arc::from(topic), change.before);
        if change.how == How::Refused {
            self.cannot_retain();
        }
        if topic.starts_with("$SYS/") {
            return Ok(change.message);
        }
        if change.how == How::Kept {
            self.write_retained(&change.message)?;
        } else {
            self.delete_retained(topic)?;
        }
        self.is_paid(topic)?;
        Ok(change.message)
    }

    /// Whether a message has room among those that are retained, or needs none: at QoS 0
    /// it need not be retained.
    pub(super) fn may_retain(&mut self, message: &Message, by: Option<Owner>) -> bool {
        let has_room = !message.retain()
            || message.qos() == QoS::AtMostOnce
            || self.shared.retained.has_room(message, by);
        if !has_room {
            self.cannot_retain();
        }
        has_room
    }

    /// Counts and says that there are as many retained messages as there may be, or as one
    /// client may have; nothing of it where the operator wants none.
    pub(super) fn cannot_retain(&mut self) {
        self.state.counts.retained_refused += 1;
        let is_said = self.said_full.is_some_and(|when| when.elapsed() < SAID);
        if is_said || self.shared.retained.is_off() {
            return;
        }
        self.said_full = Some(Instant::now());
        let topics = self.shared.counters.retained.get();
        match self.shared.config.retained_full {
            RetainedFull::Refuse => tracing::warn!(
                topics,
                "retained messages have no more room (retained_max, retained_bytes_max), or one \
                 client has its share of it: who publishes more of them is pushed back"
            ),
            RetainedFull::NotRetained => tracing::warn!(
                topics,
                "retained messages have no more room (retained_max, retained_bytes_max), or one \
                 client has its share of it: more of them are delivered and not retained"
            ),
        }
    }

    pub(super) fn write_retained(&self, message: &Message) -> rusqlite::Result<()> {
        let (seal, topic) = (&self.shared.config.seal, message.topic_str());
        let frame = sealed(seal, Table::Retained, topic.as_bytes(), message.frame());
        self.sql(
            "INSERT INTO retained (topic, kept_ms, checksum, frame) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (topic) DO UPDATE SET kept_ms = ?2, checksum = ?3, frame = ?4",
        )?
        .execute(params![
            topic,
            self.shared.kept_ms(message),
            crc32fast::hash(&frame),
            frame
        ])?;
        Ok(())
    }

    pub(super) fn delete_retained(&self, topic: &str) -> rusqlite::Result<()> {
        self.sql("DELETE FROM retained WHERE topic = ?1")?
            .execute([topic])?;
        Ok(())
    }

    /// Forgets the message of a topic; whether there was one.
    pub(super) fn clear_retained(&mut self, topic: &Arc<str>) -> rusqlite::Result<Answer> {
        let before = self.shared.retained.forget(topic);
        let was = before.is_some();
        self.state.retained_was(Arc::clone(topic), before);
        self.delete_retained(topic)?;
        self.is_paid(topic)?;
        Ok(Answer::Was(was))
    }

    /// Forgets messages that have outlived themselves, some at a time; whether those
    /// were all.
    pub(super) fn expire_retained(&mut self) -> rusqlite::Result<bool> {
        const AT_ONCE: usize = 1024;
        let mut expired = self.shared.retained.expired(self.shared.clock.now_ms());
        let were_all = expired.len() <= AT_ONCE;
        expired.truncate(AT_ONCE);
        for topic in &expired {
            self.clear_retained(topic)?;
        }
        self.state.counts.retained_expired += expired.len();
        Ok(were_all)
    }

    /// Reads the messages of the file; the topics of those that are damaged.
    pub(super) fn load_retained(&mut self) -> rusqlite::Result<Vec<Arc<str>>> {
        let (wall, now_ms) = (self.shared.wall_ms(), self.shared.clock.now_ms());
        let mut damaged = Vec::new();
        {
            let mut statement = self
                .connection
                .prepare("SELECT topic, kept_ms, checksum, frame FROM retained")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let topic: Arc<str> = row.get(0)?;
                let (seal, stored) = (&self.shared.config.seal, row.get_ref(3)?.as_blob()?);
                let frame = opened(seal, Table::Retained, topic.as_bytes(), row.get(2), stored)?;
                let age_ms = passed_ms(row.get(1)?, wall);
                let budget = self.shared.retained.budget();
                let message =
                    frame.and_then(|frame| Message::restore(&frame, age_ms, now_ms, budget));
                match message.filter(|message| message.topic_str() == &*topic) {
                    Some(message) => self.shared.retained.restore(&topic, Some(message.into())),
                    None => damaged.push(topic),
                }
            }
        }
        for topic in &damaged {
            tracing::error!(%topic, "a retained message was damaged");
            self.shared.counters.kept_damaged.add(1);
        }
        Ok(damaged)
    }
}
