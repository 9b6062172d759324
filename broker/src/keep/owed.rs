//! Retained messages that the file owes: wills that were published while it had no room.
//!
//! Nobody can be pushed back for a will, its client is gone. So where the disk is full a
//! will becomes its topic's message in memory at once, within the bounds of all that is
//! retained, and is written when there is room. Whatever changes the topic in between is
//! newer, and what is owed ends with it, in the same commit: what is written is always what
//! memory has by then.
//!
//! The will of a persistent session stays in the file until then. Once it is noted there
//! that it was shown (`shown_wills`), for which a full disk may have no room either, the
//! next process only owes it too; before that it publishes it again. A will that is in
//! memory only is lost with the process.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Error, Op, Refused,
    job::Answer,
    sealed::{Table, opened},
    will::WillId,
    writer::Writer,
};
use crate::{
    clock::passed_ms,
    fanout::{How, Message},
};

/// How long nothing is tried after there was no room.
const PAUSE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 1 });

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// Topics whose message in the file is not the one in memory, and the will of the
    /// file that it is.
    topics: BTreeMap<Arc<str>, Option<WillId>>,
    /// Those wills, and whether the file says that they were shown.
    wills: HashMap<WillId, bool>,
    /// Wills that newer ones have taken the place of, still in the file.
    over: Vec<WillId>,
    /// The topic that was tried last.
    tried: Option<Arc<str>>,
    /// When to try again.
    again: Option<Instant>,
}

/// What a commit has paid.
#[derive(Debug, Clone)]
pub(super) struct Paid {
    topic: Arc<str>,
    /// The will, and whether the file says that it was shown.
    will: Option<(WillId, bool)>,
    over: Vec<WillId>,
}

impl Debts {
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether a will stays in the file although it was published.
    pub(super) fn has(&self, will: WillId) -> bool {
        self.wills.contains_key(&will)
    }

    fn is_due(&self) -> bool {
        !(self.topics.is_empty() && self.over.is_empty())
            && self.again.is_none_or(|again| again <= Instant::now())
    }

    /// A will of the file that nothing comes of is to be forgotten there; whether that
    /// is news.
    pub(super) fn discard(&mut self, will: WillId) -> bool {
        let is_new = !self.over.contains(&will);
        self.over.extend(is_new.then_some(will));
        is_new
    }

    /// A topic is owed, in place of what was owed of it.
    fn add(&mut self, topic: Arc<str>, will: Option<WillId>, shown: bool) {
        if let Some(Some(before)) = self.topics.insert(topic, will) {
            self.wills.remove(&before);
            self.over.push(before);
        }
        self.wills.extend(will.map(|will| (will, shown)));
    }

    /// Nothing is owed of a topic any more; what was, with all that is over: were a will
    /// that was replaced by the one of this topic still there, the next process would
    /// owe that.
    fn remove(&mut self, topic: &str) -> Option<Paid> {
        let (topic, will) = self.topics.remove_entry(topic)?;
        let will = will.map(|will| (will, self.wills.remove(&will).unwrap_or_default()));
        let over = std::mem::take(&mut self.over);
        Some(Paid { topic, will, over })
    }

    /// The way back.
    pub(super) fn restore(&mut self, paid: Paid) {
        self.topics
            .insert(paid.topic, paid.will.map(|(will, _)| will));
        self.wills.extend(paid.will);
        self.over.extend(paid.over);
    }

    /// The next topic to be tried, in turn: one that is too large for the room there is
    /// must not keep others from it.
    fn next(&self) -> Option<Arc<str>> {
        let from = self
            .tried
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.topics.range::<str, _>((from, Bound::Unbounded));
        let next = behind.next().or_else(|| self.topics.first_key_value());
        next.map(|(topic, _)| Arc::clone(topic))
    }

    /// Of a file that is gone: its wills are not there any more.
    pub(super) fn without_file(&mut self) {
        self.wills.clear();
        self.over.clear();
        self.topics.values_mut().for_each(|will| *will = None);
    }
}

impl Writer {
    /// Makes a will its topic's message in memory, to be written when there is room; the
    /// message with its number. Between commits.
    fn owe(&mut self, message: &Message, will: Option<WillId>) -> Message {
        let change = self.shared.retained.change(message, None);
        let counters = &self.shared.counters;
        let topic: Arc<str> = Arc::from(change.message.topic_str());
        // Where there is no room in memory either only the older one is to go.
        let will = will.filter(|_| change.how != How::Refused);
        counters
            .retained_refused
            .add(usize::from(change.how == How::Refused));
        let debts = &mut self.state.debts;
        let was_owed = debts.topics.contains_key(&topic);
        if change.how == How::Kept || change.before.is_some() || was_owed {
            debts.add(topic, will, false);
        }
        self.state.count_retained(&self.shared);
        change.message
    }

    /// The same of a will that is to be retained; no other is owed.
    pub(super) fn owe_of(&mut self, op: &Op, will: Option<WillId>) -> Result<Answer, Refused> {
        match &op.message {
            Some(message) if message.retain() => Ok(Answer::Owed(self.owe(message, will))),
            _ => Err(Refused::Full),
        }
    }

    /// The topic's message is written with this commit: nothing is owed of it then.
    pub(super) fn is_paid(&mut self, topic: &str) -> rusqlite::Result<()> {
        if self.state.debts.is_empty() {
            return Ok(());
        }
        let Some(paid) = self.state.debts.remove(topic) else {
            return Ok(());
        };
        self.state.paid(paid.clone());
        for will in paid.over.into_iter().chain(paid.will.map(|(will, _)| will)) {
            self.will_is_over(will)?;
        }
        Ok(())
    }

    pub(super) fn debts_are_due(&self) -> bool {
        self.state.debts.is_due() && !self.is_held()
    }

    /// Writes something of what is owed, if there is room, in a commit of its own: what
    /// is too large for the disk must cost nobody else theirs.
    pub(super) fn pay_debts(&mut self) -> Result<(), Error> {
        if !self.debts_are_due() {
            return Ok(());
        }
        if let Some(topic) = self.state.debts.next() {
            self.state.debts.tried = Some(Arc::clone(&topic));
            if self.is_done(|writer| writer.pay(&topic))? {
                self.state.debts.again = None;
                return Ok(());
            }
        }
        self.state.debts.again = Some(Instant::now() + PAUSE);
        self.note_debts()
    }

    /// Whether there was room for it.
    fn is_done(
        &mut self,
        what: impl FnOnce(&mut Self) -> rusqlite::Result<()>,
    ) -> Result<bool, Error> {
        match self.transact(what) {
            Ok(()) => {
                self.state.committed(&self.shared);
                Ok(true)
            }
            Err(error) if self.means_full(&error) => {
                self.state.roll_back(&self.shared);
                Ok(false)
            }
            Err(error) => self.went_wrong(error, Vec::new()).map(|()| false),
        }
    }

    /// Writes the message that a topic has in memory.
    fn pay(&mut self, topic: &Arc<str>) -> rusqlite::Result<()> {
        match self.shared.retained.get(topic) {
            Some(message) => self.write_retained(&message)?,
            None => self.delete_retained(topic)?,
        }
        self.is_paid(topic)
    }

    /// Notes which wills were shown, and forgets those that newer ones took the place of:
    /// all or nothing, or the next process would owe an older one.
    fn note_debts(&mut self) -> Result<(), Error> {
        let (shared, debts) = (&self.shared, &self.state.debts);
        let not_noted = debts.topics.iter().filter_map(|(topic, will)| {
            let will = will.filter(|will| debts.wills.get(will) == Some(&false))?;
            let message = shared.retained.get(topic);
            // Its lifetime began when it was published.
            let shown_ms = message.map(|message| shared.kept_ms(&message));
            Some((will, shown_ms.unwrap_or_else(|| shared.wall_ms())))
        });
        let shown: Vec<(WillId, i64)> = not_noted.collect();
        let over = debts.over.clone();
        if shown.is_empty() && over.is_empty() {
            return Ok(());
        }
        let is_noted = self.is_done(|writer| {
            for (will, shown_ms) in &shown {
                writer.will_was_shown(*will, *shown_ms)?;
            }
            over.iter().try_for_each(|will| writer.will_is_over(*will))
        })?;
        if is_noted {
            let debts = &mut self.state.debts;
            debts.over.clear();
            debts
                .wills
                .extend(shown.into_iter().map(|(will, _)| (will, true)));
        }
        Ok(())
    }

    /// What former processes owed. Its wills are in memory from now on.
    pub(super) fn load_debts(&mut self) -> rusqlite::Result<()> {
        let (wall, now_ms) = (self.shared.wall_ms(), self.shared.clock.now_ms());
        let mut found = Vec::new();
        {
            let mut statement = self.connection.prepare(
                "SELECT w.id, w.token, s.shown_ms, w.checksum, w.frame
                 FROM shown_wills s JOIN wills w ON w.id = s.will
                 WHERE w.due_ms IS NOT NULL ORDER BY s.shown_ms, w.id",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let will = WillId::of(row.get(0)?, row.get(1)?);
                let (seal, stored) = (&self.shared.config.seal, row.get_ref(4)?.as_blob()?);
                let frame = opened(seal, Table::Wills, &will.identity(), row.get(3), stored)?;
                let age_ms = passed_ms(row.get(2)?, wall);
                let budget = self.shared.retained.budget();
                let message =
                    frame.and_then(|frame| Message::restore(&frame, age_ms, now_ms, budget));
                found.push((will, message));
            }
        }
        for (will, message) in found {
            let Some(message) = message else {
                tracing::error!("a retained will was damaged");
                self.shared.counters.kept_damaged.add(1);
                self.state.debts.over.push(will);
                continue;
            };
            let topic: Arc<str> = Arc::from(message.topic_str());
            let message = (!message.payload().is_empty()).then(|| message.into());
            self.shared.retained.restore(&topic, message);
            self.state.debts.add(topic, Some(will), true);
        }
        self.state.count_retained(&self.shared);
        Ok(())
    }

    /// The writer ends: what is owed is tried once more, and counted where it is lost.
    pub(super) fn close_debts(&mut self) {
        for _ in 0..self.state.debts.len() {
            let Some(topic) = self.state.debts.next() else {
                break;
            };
            self.state.debts.tried = Some(Arc::clone(&topic));
            if self.is_done(|writer| writer.pay(&topic)).is_err() {
                break;
            }
        }
        if let Err(error) = self.note_debts() {
            tracing::debug!(%error, "could not note which wills were shown");
        }
        let lost = self.state.debts.topics.values();
        let lost = lost.filter(|will| will.is_none()).count();
        if lost > 0 {
            self.shared.counters.dropped_kept_disk_full.add(lost);
            tracing::warn!(
                lost,
                "wills were shown and are not retained: there was no room"
            );
        }
    }
}
