//! Retained messages on disk. Those below `$SYS/` are in memory only.

use std::sync::Arc;

use rusqlite::params;

use super::{job::Answer, writer::Writer};
use crate::{
    clock::passed_ms,
    fanout::{How, Message},
};

impl Writer {
    /// Makes a message its topic's; the message with its number.
    pub(super) fn retain(&mut self, message: &Message) -> rusqlite::Result<Message> {
        let change = self.shared.retained.change(message);
        let topic = change.message.topic_str();
        self.state.retained_was(Arc::from(topic), change.before);
        if change.how == How::Refused {
            self.state.counts.retained_refused += 1;
        }
        if topic.starts_with("$SYS/") {
            return Ok(change.message);
        }
        if change.how == How::Kept {
            let frame = change.message.frame();
            self.sql(
                "INSERT INTO retained (topic, kept_ms, checksum, frame) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (topic) DO UPDATE SET kept_ms = ?2, checksum = ?3, frame = ?4",
            )?
            .execute(params![
                topic,
                self.shared.kept_ms(&change.message),
                crc32fast::hash(frame),
                frame
            ])?;
        } else {
            self.delete_retained(topic)?;
        }
        Ok(change.message)
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
                let frame = row.get_ref(3)?.as_blob()?;
                let sound = row.get(2) == Ok(i64::from(crc32fast::hash(frame)));
                let age_ms = passed_ms(row.get(1)?, wall);
                let message =
                    Message::restore(frame, age_ms, now_ms, self.shared.retained.budget());
                match message.filter(|message| sound && message.topic_str() == &*topic) {
                    Some(message) => self.shared.retained.restore(&topic, Some(message)),
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
