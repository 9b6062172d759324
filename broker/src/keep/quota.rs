//! Room in the queues: each has its bounds, and all have one together.
//!
//! Beyond the total the largest queue pays, so that a few that nobody empties cannot
//! starve the others. Below a fair share of the total there is always room: the few
//! largest make it, or, where nothing may be dropped, the total is exceeded, by half at
//! most.

use rusqlite::params;

use super::{QueueFull, SessionId, queue::Target, stage::PLACE_BYTES, writer::Writer};

/// Places dropped for one message at most: where many queues hold the same messages,
/// dropping one place frees little.
pub(super) const DROPS_MAX: usize = 256;
/// Places that each message may cost in addition to one for each of its own, where many
/// in a row cost many: beyond that they go without.
pub(super) const DROPS_IN_A_ROW: usize = 32;
/// Places that one queue pays before the largest is looked for again.
const PAYMENTS: usize = 32;
/// What [`Writer::droppable`] asks.
pub(super) const OLDEST: &str =
    "SELECT min(position) FROM queue WHERE session = ?1 AND position > ?2";
const NEWEST: &str = "SELECT max(position) FROM queue WHERE session = ?1 AND position > ?2";

/// The queue that pays at the moment, and for how many places more.
pub(super) type Payer = Option<(SessionId, usize)>;

impl Writer {
    /// Sees to it that all targets have room, by the operator's choice: drops what
    /// is older, or takes targets out, or says that there is none.
    pub(super) fn make_room(
        &mut self,
        targets: &mut Vec<Target>,
        bytes: u64,
        may_refuse: bool,
    ) -> rusqlite::Result<bool> {
        let policy = self.shared.config.queue_full;
        if policy == QueueFull::Refuse && may_refuse {
            let all = bytes + PLACE_BYTES * targets.len() as u64;
            let has_room = |target: &Target| {
                !self.is_full(target.session, bytes) && self.may_have(target.session, bytes, all)
            };
            return Ok(targets.iter().all(has_room));
        }
        // What no queue can hold must not empty one.
        let config = &self.shared.config;
        let fits = bytes + PLACE_BYTES <= config.queue_bytes_max.min(config.queue_total_bytes_max);
        let makes_room = fits && policy == QueueFull::DropOldest;
        let mut kept = Vec::with_capacity(targets.len());
        for target in targets.drain(..) {
            let mut room = fits && !self.is_full(target.session, bytes);
            while !room && makes_room && self.drop_one(target.session, policy)? {
                room = !self.is_full(target.session, bytes);
            }
            if room {
                kept.push(target);
            } else {
                self.count_dropped(target.session);
            }
        }
        let all = bytes + PLACE_BYTES * kept.len() as u64;
        let mut below = kept
            .iter()
            .map(|target| self.is_below_fair_share(target.session, bytes));
        let others_pay = match policy {
            QueueFull::DropOldest => !kept.is_empty(),
            QueueFull::DropNewest => below.any(|below| below),
            QueueFull::Refuse => false,
        };
        if others_pay {
            self.make_room_in_total(&kept, bytes, policy)?;
        }
        for target in kept {
            if self.may_have(target.session, bytes, all) {
                targets.push(target);
            } else {
                self.count_dropped(target.session);
            }
        }
        Ok(true)
    }

    /// Whether a queue has room for a message that must not cost another one its place.
    pub(super) fn has_room(&self, id: SessionId, bytes: u64) -> bool {
        !self.is_full(id, bytes) && self.may_have(id, bytes, bytes + PLACE_BYTES)
    }

    /// Whether a queue is at its own bounds.
    pub(super) fn is_full(&self, id: SessionId, bytes: u64) -> bool {
        let config = &self.shared.config;
        self.state.sessions.get(&id).is_none_or(|session| {
            session.count >= config.queue_messages_max
                || session.bytes + bytes + PLACE_BYTES > config.queue_bytes_max
        })
    }

    /// Whether a queue could have a message of a shared subscription only at the cost of
    /// another, or not at all.
    pub(super) fn lacks_room(&self, id: SessionId, bytes: u64) -> bool {
        match self.shared.config.queue_full {
            QueueFull::Refuse => !self.has_room(id, bytes),
            // In the total the largest pays, whoever gets it.
            QueueFull::DropOldest | QueueFull::DropNewest => self.is_full(id, bytes),
        }
    }

    /// Whether the total lets a queue have a message that takes `all` in all of them.
    pub(super) fn may_have(&self, id: SessionId, bytes: u64, all: u64) -> bool {
        let max = self.shared.config.queue_total_bytes_max;
        !self.exceeds_total(all)
            || self.state.total_bytes + all <= max.saturating_add(max / 2)
                && self.is_below_fair_share(id, bytes)
    }

    fn exceeds_total(&self, all: u64) -> bool {
        self.state.total_bytes + all > self.shared.config.queue_total_bytes_max
    }

    /// An equal part of the total.
    fn fair_share(&self) -> u64 {
        let sessions = self.state.sessions.len().max(1) as u64;
        self.shared.config.queue_total_bytes_max / sessions
    }

    fn is_below_fair_share(&self, id: SessionId, bytes: u64) -> bool {
        let held = self.state.sessions.get(&id).map_or(0, |one| one.bytes);
        held + bytes + PLACE_BYTES <= self.fair_share()
    }

    /// Drops from what is largest until `all` fits, or nothing more can be dropped.
    fn make_room_in_total(
        &mut self,
        targets: &[Target],
        bytes: u64,
        policy: QueueFull,
    ) -> rusqlite::Result<()> {
        let all = bytes + PLACE_BYTES * targets.len() as u64;
        let mut wanting: Vec<_> = targets.iter().map(|target| target.session).collect();
        wanting.sort_unstable();
        let more = DROPS_IN_A_ROW + targets.len();
        self.drops_left = (self.drops_left + more).min(DROPS_MAX.max(more));
        while self.drops_left > 0 {
            if !self.exceeds_total(all) {
                return Ok(());
            }
            self.drops_left -= 1;
            if !self.state.leftovers.is_empty() && !self.emptying {
                // Nobody waits for what sessions that are over had.
                self.empty_leftovers(1)?;
                continue;
            }
            let Some(payer) = self.payer(&wanting, bytes)? else {
                return Ok(());
            };
            if !self.drop_one(payer, policy)? {
                self.payer = None;
            }
        }
        Ok(())
    }

    /// The largest queue, with the message for those that are `wanting`, that has
    /// something to drop; never one below a fair share. One that was found pays some
    /// places before it is looked for again.
    fn payer(&mut self, wanting: &[SessionId], bytes: u64) -> rusqlite::Result<Option<SessionId>> {
        let fair = self.fair_share();
        let claims = |id: SessionId, held: u64| {
            let is_wanting = wanting.binary_search(&id).is_ok();
            held + if is_wanting { bytes + PLACE_BYTES } else { 0 }
        };
        if let Some((id, left @ 1..)) = self.payer
            && let Some(session) = self.state.sessions.get(&id)
            && claims(id, session.bytes) > fair
        {
            self.payer = Some((id, left - 1));
            return Ok(Some(id));
        }
        self.payer = None;
        let sessions = self.state.sessions.iter();
        let mut large: Vec<_> = sessions
            .filter(|(_, session)| session.may_have_droppable())
            .map(|(id, session)| (claims(*id, session.bytes), *id))
            .filter(|(claim, _)| *claim > fair)
            .collect();
        large.sort_unstable_by(|one, other| other.cmp(one));
        for (_, id) in large {
            if self.droppable(id, QueueFull::DropOldest)?.is_some() {
                self.payer = Some((id, PAYMENTS));
                return Ok(Some(id));
            }
            if let Some(session) = self.state.sessions.get_mut(&id) {
                session.kept_up_to = session.next - 1;
            }
        }
        Ok(None)
    }

    pub(super) fn count_dropped(&mut self, id: SessionId) {
        self.count_many_dropped(id, 1);
    }

    pub(super) fn count_many_dropped(&mut self, id: SessionId, count: usize) {
        if let Some(session) = self.state.change(id) {
            session.row.dropped += count as u64;
            self.state.counts.dropped += count;
        }
    }

    /// Drops, and counts, one message that cannot have been sent; whether there was one.
    fn drop_one(&mut self, id: SessionId, policy: QueueFull) -> rusqlite::Result<bool> {
        let Some(position) = self.droppable(id, policy)? else {
            return Ok(false);
        };
        self.count_dropped(id);
        self.remove_place(id, position)
    }

    /// The place of the oldest, or the newest, message that cannot have been sent.
    fn droppable(&self, id: SessionId, policy: QueueFull) -> rusqlite::Result<Option<i64>> {
        let given = self.state.sessions.get(&id).map_or(0, |one| one.row.given);
        let sql = match policy {
            QueueFull::DropNewest => NEWEST,
            _ => OLDEST,
        };
        self.sql(sql)?
            .query_row(params![id.0, given], |row| row.get(0))
    }
}
