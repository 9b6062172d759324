//! The queues: messages that persistent sessions are owed.

use std::sync::Arc;

use rusqlite::params;

use super::{
    Item, Kept, Op, SessionId,
    job::{Answer, Sub},
    sealed::{Table, opened, sealed},
    stage::PLACE_BYTES,
    writer::Writer,
};
use crate::{
    QoS,
    fanout::Message,
    topic::{matches, shared_filter},
};

/// A queue that gets a message, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) session: SessionId,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: Vec<u32>,
    /// The shared subscription that it is for.
    pub(super) share: Option<Arc<str>>,
}

impl Writer {
    /// Keeps publishes, in order, up to the first for which there is no room. Without
    /// `may_refuse` all of them are: a full queue loses its own.
    pub(super) fn publish(&mut self, ops: &[Op], may_refuse: bool) -> rusqlite::Result<Answer> {
        let mut kept = Vec::with_capacity(ops.len());
        for op in ops {
            let Some(done) = self.publish_one(op, may_refuse)? else {
                break;
            };
            kept.push(done);
        }
        kept.resize(ops.len(), Kept::Refused);
        Ok(Answer::Kept(kept))
    }

    /// What became of it; `None` for no room.
    fn publish_one(&mut self, op: &Op, may_refuse: bool) -> rusqlite::Result<Option<Kept>> {
        let mut message = op.message.clone();
        if let Some(message) = &mut message {
            if may_refuse && !self.may_retain(message, op.by) {
                return Ok(None);
            }
            let mut targets = self.targets(message, op.from);
            let shares = self.share_out(message, &mut targets);
            if !targets.is_empty()
                && !self.make_room(&mut targets, message.len() as u64, may_refuse)?
            {
                return Ok(None);
            }
            if message.retain() {
                *message = self.retain(message, op.by)?;
            } else if message.number() < self.shared.decided() {
                // Numbered before subscriptions changed, and matched with them now.
                let number = self.shared.retained.number();
                *message = message.renumbered(number, &self.shared.budget);
            }
            self.enqueue(message, targets)?;
            if let Some(shares) = shares {
                *message = self.hand_out(message, shares);
            }
        }
        if let (Some(session), Some((packet, token))) = (op.from, &op.exchange) {
            self.exchange_received(session, *packet, token)?;
        }
        Ok(Some(Kept::Done(message)))
    }

    /// The persistent sessions that get a message at QoS 1 or 2, but for members of
    /// shared subscriptions.
    pub(super) fn targets(&self, message: &Message, from: Option<SessionId>) -> Vec<Target> {
        if message.qos() == QoS::AtMostOnce {
            return Vec::new();
        }
        let mut matched: Vec<(SessionId, Sub)> = Vec::new();
        let filters = self.shared.filters();
        filters.visit(message.topic_str(), &mut |key, sub| {
            let session = SessionId::of_key(key);
            if !(sub.no_local && from == Some(session)) {
                matched.push((session, *sub));
            }
            false
        });
        drop(filters);
        // Stable, so that identifiers keep the trie's order.
        matched.sort_by_key(|(session, _)| *session);
        let target = |same: &[(SessionId, Sub)]| {
            let (session, _) = same.first()?;
            let qos = same.iter().map(|(_, sub)| sub.qos).max()?;
            (qos > QoS::AtMostOnce).then(|| Target {
                session: *session,
                qos: qos.min(message.qos()),
                retain: message.retain() && same.iter().any(|(_, sub)| sub.retain_as_published),
                ids: same.iter().filter_map(|(_, sub)| sub.id).collect(),
                share: None,
            })
        };
        matched
            .chunk_by(|one, other| one.0 == other.0)
            .filter_map(target)
            .collect()
    }

    /// The message of a place.
    fn message_at(&mut self, id: SessionId, position: i64) -> rusqlite::Result<Option<Message>> {
        let item = self.read(id, position - 1, 1, u64::MAX)?.items.pop();
        Ok(item
            .filter(|item| item.position == position)
            .and_then(|item| item.message))
    }

    /// Gives a message of a shared subscription, whose session is over, to another member.
    fn hand_over(&mut self, message: &Message, name: &Arc<str>) -> rusqlite::Result<()> {
        let Some(target) = self.heir(name, message) else {
            return Ok(());
        };
        let mut targets = vec![target];
        self.make_room(&mut targets, message.len() as u64, false)?;
        self.enqueue(message, targets)
    }

    /// Empties the queues of sessions that are over, at most `count` places, and gives
    /// what they had of shared subscriptions to the other members; what may have been
    /// sent at QoS 2 no second client may get. The room for that others make.
    pub(super) fn empty_leftovers(&mut self, count: usize) -> rusqlite::Result<()> {
        self.emptying = true;
        let emptied = self.empty_first_leftover(count);
        self.emptying = false;
        emptied
    }

    fn empty_first_leftover(&mut self, count: usize) -> rusqlite::Result<()> {
        let Some((&id, &given)) = self.state.leftovers.first_key_value() else {
            return Ok(());
        };
        let places: Vec<(i64, u8, Option<Arc<str>>)> = self
            .sql(
                "SELECT position, options, iif(message IS NULL, NULL, share) FROM queue
                 WHERE session = ?1 ORDER BY position LIMIT ?2",
            )?
            .query_map(params![id.0, number(count)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let is_last = places.len() < count;
        for (position, options, share) in places {
            let share = share.filter(|_| read_qos(options) != QoS::ExactlyOnce || position > given);
            let message = match share {
                Some(_) => self.message_at(id, position)?,
                None => None,
            };
            // First, because that makes room.
            self.remove_place(id, position)?;
            if let (Some(message), Some(name)) = (message, share) {
                self.hand_over(&message, &name)?;
            }
        }
        if is_last {
            self.sql("DELETE FROM leftovers WHERE session = ?1")?
                .execute([id.0])?;
            self.state.set_leftover(id, None);
        }
        Ok(())
    }

    /// Stores a message once, and a place for it in each queue.
    pub(super) fn enqueue(
        &mut self,
        message: &Message,
        targets: Vec<Target>,
    ) -> rusqlite::Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        let seal = &self.shared.config.seal;
        let mut id: Option<i64> = None;
        if seal.is_on() {
            // Its number first: it is bound to what is sealed.
            id = self
                .sql("SELECT coalesce(max(id), 0) + 1 FROM messages")?
                .query_row([], |row| row.get(0))?;
        }
        let row = id.unwrap_or_default().to_string();
        let frame = sealed(seal, Table::Messages, row.as_bytes(), message.frame());
        self.sql(
            "INSERT INTO messages (id, holders, kept_ms, checksum, frame)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            id,
            number(targets.len()),
            self.shared.kept_ms(message),
            crc32fast::hash(&frame),
            frame
        ])?;
        let stored = self.connection.last_insert_rowid();
        let length = frame.len();
        self.state.survey.stored(stored);
        let bytes = length as u64;
        self.state.total_bytes += bytes;
        for target in targets {
            let Some(session) = self.state.change(target.session) else {
                continue;
            };
            let position = session.next;
            session.next += 1;
            session.count += 1;
            session.bytes += bytes + PLACE_BYTES;
            let item = Item {
                position,
                qos: target.qos,
                retain: target.retain,
                subscription_ids: target.ids,
                dup: false,
                message: Some(message.clone()),
            };
            let identifiers = write_ids(&item.subscription_ids);
            let options = write_options(&item);
            let feed = session.feed.clone().filter(|_| !session.behind);
            match feed {
                Some(feed) if feed.reserve(&item) => {
                    session.loaded = position;
                    session.row.given = session.row.given.max(position);
                    self.state.deliver(&feed, item);
                }
                Some(feed) => {
                    session.behind = true;
                    feed.set_behind(true);
                }
                None => {}
            }
            self.state.total_bytes += PLACE_BYTES;
            self.state.total_count += 1;
            self.sql(
                "INSERT INTO queue
                     (session, position, message, bytes, options, identifiers, share)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                target.session.0,
                position,
                stored,
                number(length),
                options,
                identifiers,
                target.share
            ])?;
        }
        Ok(())
    }

    /// Gives what is queued for some filters of a session the QoS that its subscriptions
    /// have by now, where that is lower; not what may have been sent, which is ended as
    /// it was begun.
    pub(super) fn lower_places(
        &mut self,
        id: SessionId,
        filters: &[Arc<str>],
    ) -> rusqlite::Result<()> {
        let Some(session) = self.state.sessions.get(&id).filter(|_| !filters.is_empty()) else {
            return Ok(());
        };
        let (sent, feed) = (session.sent_before, session.feed.clone());
        let subscriptions = self.subscriptions_of(id)?;
        let mut lowered = Vec::new();
        let mut statement = self.sql(
            "SELECT q.position, q.options, q.share, m.frame, m.checksum, m.id
             FROM queue q JOIN messages m ON m.id = q.message
             WHERE q.session = ?1 AND q.position > ?2 ORDER BY q.position",
        )?;
        let mut rows = statement.query([id.0, sent])?;
        while let Some(row) = rows.next()? {
            let (position, qos) = (row.get(0)?, read_qos(row.get(1)?));
            let share: Option<Arc<str>> = row.get(2)?;
            let (stored, number) = (
                row.get_ref(3)?.as_blob()?,
                row.get::<_, i64>(5)?.to_string(),
            );
            let seal = &self.shared.config.seal;
            let frame = opened(seal, Table::Messages, number.as_bytes(), row.get(4), stored)?;
            let topic = frame.as_deref().and_then(Message::topic_in);
            let topic = topic.unwrap_or_default();
            let is_for = |filter: &str| match &share {
                Some(name) => **name == *filter,
                None => shared_filter(filter).is_none() && matches(topic, filter),
            };
            if !filters.iter().any(|filter| is_for(filter)) {
                continue;
            }
            let by_now = subscriptions.iter().filter(|add| is_for(&add.filter));
            let by_now = by_now.map(|add| add.subscription.qos).max();
            if let Some(by_now) = by_now.filter(|by_now| *by_now < qos) {
                lowered.push((position, by_now));
            }
        }
        drop(rows);
        drop(statement);
        for (position, qos) in &lowered {
            self.sql(
                "UPDATE queue SET options = options & ~3 | ?3 WHERE session = ?1 AND position = ?2",
            )?
            .execute(params![id.0, position, *qos as u8])?;
        }
        if let Some(feed) = feed {
            self.state.lower(&feed, &lowered);
        }
        Ok(())
    }

    /// A place is over; whether it was there.
    pub(super) fn remove_place(&mut self, id: SessionId, position: i64) -> rusqlite::Result<bool> {
        let removed: Vec<(Option<i64>, i64)> = self
            .sql("DELETE FROM queue WHERE session = ?1 AND position = ?2 RETURNING message, bytes")?
            .query_map([id.0, position], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some((message, bytes)) = removed.into_iter().next() else {
            return Ok(false);
        };
        let bytes = bytes.unsigned_abs();
        if let Some(session) = self.state.change(id) {
            session.count -= 1;
            session.bytes -= PLACE_BYTES + if message.is_some() { bytes } else { 0 };
        }
        self.state.total_count -= 1;
        self.state.total_bytes -= PLACE_BYTES;
        if let Some(message) = message {
            self.let_go(message, bytes)?;
        }
        Ok(true)
    }

    /// One queue fewer holds a message.
    fn let_go(&mut self, message: i64, bytes: u64) -> rusqlite::Result<()> {
        let last = self
            .sql("DELETE FROM messages WHERE id = ?1 AND holders <= 1")?
            .execute([message])?;
        if last > 0 {
            // What the survey has still to come to is not there by then.
            if self.state.survey.has(message) {
                self.state.total_bytes -= bytes;
            }
        } else {
            self.sql("UPDATE messages SET holders = holders - 1 WHERE id = ?1")?
                .execute([message])?;
        }
        Ok(())
    }

    /// PUBREC came: the message is the subscriber's, only its PUBREL is owed.
    pub(super) fn place_received(&mut self, id: SessionId, position: i64) -> rusqlite::Result<()> {
        let found: Vec<(i64, i64)> = self
            .sql(
                "SELECT message, bytes FROM queue
                 WHERE session = ?1 AND position = ?2 AND message IS NOT NULL",
            )?
            .query_map([id.0, position], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some((message, bytes)) = found.into_iter().next() else {
            return Ok(());
        };
        self.sql("UPDATE queue SET message = NULL WHERE session = ?1 AND position = ?2")?
            .execute([id.0, position])?;
        if let Some(session) = self.state.change(id) {
            session.bytes -= bytes.unsigned_abs();
        }
        self.let_go(message, bytes.unsigned_abs())
    }
}

pub(super) fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn write_options(item: &Item) -> u8 {
    item.qos as u8 | u8::from(item.retain) << 2
}

pub(super) fn read_qos(options: u8) -> QoS {
    match options & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn write_ids(ids: &[u32]) -> Option<Vec<u8>> {
    (!ids.is_empty()).then(|| ids.iter().flat_map(|id| id.to_be_bytes()).collect())
}

pub(super) fn read_ids(bytes: Option<&[u8]>) -> Vec<u32> {
    let (ids, _) = bytes.unwrap_or_default().as_chunks::<4>();
    ids.iter().map(|id| u32::from_be_bytes(*id)).collect()
}
