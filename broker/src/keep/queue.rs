//! The queues: messages that persistent sessions are owed.

use std::sync::Arc;

use rusqlite::params;

use super::{
    Item, Kept, Op, QueueFull, SessionId,
    job::{Answer, Sub},
    stage::PLACE_BYTES,
    writer::{Writer, cached},
};
use crate::{
    QoS,
    clock::{Clock, passed_ms},
    fanout::Message,
};

/// Places read at once.
const PAGE: usize = 256;

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
            let mut targets = self.targets(message, op.from);
            let served = self.share_out(message, &mut targets);
            if !targets.is_empty()
                && !self.make_room(&mut targets, message.len() as u64, may_refuse)?
            {
                return Ok(None);
            }
            if message.retain() {
                *message = self.retain(message)?;
            } else if message.number() < self.shared.decided() {
                // Numbered before subscriptions changed, and matched with them now.
                let number = self.shared.retained.number();
                *message = message.renumbered(number, &self.shared.budget);
            }
            self.enqueue(message, targets)?;
            if let Some(served) = served {
                *message = self.hand_out(message, served);
            }
        }
        if let (Some(session), Some((packet, token))) = (op.from, &op.exchange) {
            self.exchange_received(session, *packet, token)?;
        }
        Ok(Some(Kept::Done(message)))
    }

    /// The persistent sessions that get a message at QoS 1 or 2, but for members of
    /// shared subscriptions.
    fn targets(&self, message: &Message, from: Option<SessionId>) -> Vec<Target> {
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

    /// Gives what a session that ends had of shared subscriptions to their other
    /// members. It is no member any more.
    pub(super) fn hand_over(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let given = self.state.sessions.get(&id).map_or(0, |one| one.row.given);
        let places: Vec<(i64, u8, Arc<str>)> = self
            .sql(
                "SELECT position, options, share FROM queue
                 WHERE session = ?1 AND share IS NOT NULL AND message IS NOT NULL
                 ORDER BY position",
            )?
            .query_map([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (position, options, name) in places {
            if read_qos(options) == QoS::ExactlyOnce && position <= given {
                continue;
            }
            let item = self.read(id, position - 1, 1)?.pop();
            let Some(message) = item
                .filter(|item| item.position == position)
                .and_then(|item| item.message)
            else {
                continue;
            };
            let Some(target) = self.heir(&name, &message) else {
                continue;
            };
            let mut targets = vec![target];
            self.make_room(&mut targets, message.len() as u64, false)?;
            self.enqueue(&message, targets)?;
        }
        Ok(())
    }

    /// Sees to it that all targets have room, by the operator's choice: drops what
    /// is older, or takes targets out, or says that there is none.
    pub(super) fn make_room(
        &mut self,
        targets: &mut Vec<Target>,
        bytes: u64,
        may_refuse: bool,
    ) -> rusqlite::Result<bool> {
        let policy = self.shared.config.queue_full;
        let all = bytes + PLACE_BYTES * targets.len() as u64;
        if policy == QueueFull::Refuse && may_refuse {
            let full = |target: &Target| self.is_full(target.session, bytes, all);
            return Ok(!targets.iter().any(full));
        }
        // What no queue can hold must not empty one.
        let config = &self.shared.config;
        let fits = bytes + PLACE_BYTES <= config.queue_bytes_max.min(config.queue_total_bytes_max);
        let makes_room = fits && policy == QueueFull::DropOldest;
        let mut kept = Vec::with_capacity(targets.len());
        for target in targets.drain(..) {
            let mut room = !self.is_full(target.session, bytes, all);
            while !room && makes_room && self.drop_oldest(target.session)? {
                self.count_dropped(target.session);
                room = !self.is_full(target.session, bytes, all);
            }
            if room {
                kept.push(target);
            } else {
                self.count_dropped(target.session);
            }
        }
        *targets = kept;
        Ok(true)
    }

    pub(super) fn is_full(&self, id: SessionId, bytes: u64, all: u64) -> bool {
        let config = &self.shared.config;
        self.state.sessions.get(&id).is_none_or(|session| {
            session.count >= config.queue_messages_max
                || session.bytes + bytes + PLACE_BYTES > config.queue_bytes_max
                || self.state.total_bytes + all > config.queue_total_bytes_max
        })
    }

    fn count_dropped(&mut self, id: SessionId) {
        if let Some(session) = self.state.change(id) {
            session.row.dropped += 1;
            self.state.dropped += 1;
        }
    }

    /// Drops the oldest message that cannot have been sent; whether there was one.
    fn drop_oldest(&mut self, id: SessionId) -> rusqlite::Result<bool> {
        let given = self.state.sessions.get(&id).map_or(0, |one| one.row.given);
        let oldest: Option<i64> = self
            .sql("SELECT min(position) FROM queue WHERE session = ?1 AND position > ?2")?
            .query_row([id.0, given], |row| row.get(0))?;
        match oldest {
            Some(position) => self.remove_place(id, position),
            None => Ok(false),
        }
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
        let frame = message.frame();
        self.sql(
            "INSERT INTO messages (holders, kept_ms, checksum, frame) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            number(targets.len()),
            Clock::wall_ms(),
            crc32fast::hash(frame),
            frame
        ])?;
        let stored = self.connection.last_insert_rowid();
        let bytes = frame.len() as u64;
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
                number(frame.len()),
                options,
                identifiers,
                target.share
            ])?;
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
            self.state.total_bytes -= bytes;
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

    pub(super) fn empty_queue(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let positions: Vec<i64> = self
            .sql("SELECT position FROM queue WHERE session = ?1")?
            .query_map([id.0], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for position in positions {
            self.remove_place(id, position)?;
        }
        Ok(())
    }

    /// Brings more of a queue into the feed of its connected session.
    pub(super) fn page(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let Some(session) = self.state.sessions.get(&id) else {
            return Ok(());
        };
        let (Some(feed), true) = (session.feed.clone(), session.behind) else {
            return Ok(());
        };
        let (mut loaded, sent_before) = (session.loaded, session.sent_before);
        let items = self.read(id, loaded, PAGE)?;
        let mut behind = items.len() == PAGE;
        for mut item in items {
            item.dup = item.position <= sent_before;
            if !feed.reserve(&item) {
                behind = true;
                break;
            }
            loaded = item.position;
            self.state.deliver(&feed, item);
        }
        feed.set_behind(behind);
        if let Some(session) = self.state.change(id) {
            session.behind = behind;
            session.loaded = loaded;
            session.row.given = session.row.given.max(loaded);
        }
        Ok(())
    }

    /// Places behind `after`; what is damaged among them is gone.
    fn read(&mut self, id: SessionId, after: i64, count: usize) -> rusqlite::Result<Vec<Item>> {
        let (wall, now_ms) = (Clock::wall_ms(), self.shared.clock.now_ms());
        let budget = Arc::clone(&self.shared.budget);
        let mut items = Vec::new();
        let mut damaged = Vec::new();
        {
            let mut statement = cached(
                &self.connection,
                "SELECT q.position, q.options, q.identifiers, q.message, m.kept_ms, m.checksum, m.frame
                 FROM queue q LEFT JOIN messages m ON m.id = q.message
                 WHERE q.session = ?1 AND q.position > ?2 ORDER BY q.position LIMIT ?3",
            )?;
            let mut rows = statement.query(params![id.0, after, number(count)])?;
            while let Some(row) = rows.next()? {
                let position: i64 = row.get(0)?;
                let options: u8 = row.get(1)?;
                let waiting: Option<i64> = row.get(3)?;
                let message = match waiting {
                    None => None,
                    Some(_) => {
                        let frame: Option<&[u8]> = row.get_ref(6)?.as_blob_or_null()?;
                        let sound = frame
                            .filter(|frame| row.get(5) == Ok(i64::from(crc32fast::hash(frame))));
                        let age_ms = passed_ms(row.get::<_, Option<i64>>(4)?.unwrap_or(0), wall);
                        let message = sound
                            .and_then(|frame| Message::restore(frame, age_ms, now_ms, &budget));
                        if message.is_none() {
                            damaged.push(position);
                            continue;
                        }
                        message
                    }
                };
                items.push(Item {
                    position,
                    qos: read_qos(options),
                    retain: options & 0b100 != 0,
                    subscription_ids: read_ids(row.get_ref(2)?.as_blob_or_null()?),
                    dup: false,
                    message,
                });
            }
        }
        for position in damaged {
            tracing::error!(session = id.0, position, "a queued message was damaged");
            self.shared.counters.kept_damaged.add(1);
            self.remove_place(id, position)?;
        }
        Ok(items)
    }

    /// Messages and bytes of a queue, and its last place.
    pub(super) fn depth(&self, id: SessionId) -> rusqlite::Result<(u64, u64, i64)> {
        self.sql(
            "SELECT count(*), coalesce(sum(iif(message IS NULL, 0, bytes)), 0),
                    coalesce(max(position), 0)
             FROM queue WHERE session = ?1",
        )?
        .query_row([id.0], |row| {
            let count = row.get::<_, i64>(0)?.unsigned_abs();
            let bytes = row.get::<_, i64>(1)?.unsigned_abs();
            Ok((count, bytes + count * PLACE_BYTES, row.get(2)?))
        })
    }
}

fn number(n: usize) -> i64 {
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

fn read_ids(bytes: Option<&[u8]>) -> Vec<u32> {
    let (ids, _) = bytes.unwrap_or_default().as_chunks::<4>();
    ids.iter().map(|id| u32::from_be_bytes(*id)).collect()
}
