//! What the writer does beside its jobs: removing what may leave, checkpoints, the
//! reserve, the status. It rides along with commits, or runs when it is quiet.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    checkpoint, copies, fill, quarantine, retention,
    stage::Stage,
    tally,
    writer::{BATCH_BYTES, TICK, Writer},
};
use crate::{event::Timestamp, record::Position};

/// How long settled records may stay when there is little to trim, and how
/// often expired ones are looked for.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Quarantine may take so many-th of the room: one bad device must not keep
/// every good one out.
const QUARANTINE_SHARE: u64 = 8;

/// What housekeeping has to do.
#[derive(Debug, Default)]
pub(super) struct Duties {
    /// Keys of commits up to here are forgotten, and can be removed.
    pub(super) forgotten: Option<u64>,
    /// When settled and expired records were last looked for.
    pub(super) looked: Option<Instant>,
    /// There was more to do than one chunk.
    pub(super) more: bool,
    /// Until then appends are turned away without a try: the disk was full.
    pub(super) hold: Option<Instant>,
    /// Damaged rows to set aside.
    pub(super) damaged: Vec<Position>,
    /// Damaged rows of the retry list, by row number.
    pub(super) damaged_retries: BTreeSet<i64>,
    pub(super) failures: u32,
    /// How often the file was replaced.
    pub(super) replaced: u32,
    pub(super) promises_failing: bool,
    /// Bytes of tallies that nobody has read, about.
    pub(super) tally_bytes: u64,
}

/// So long ago.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(now.as_nanos().saturating_sub(age))
}

impl Writer {
    /// Removes what may leave, a chunk at a time.
    pub(super) fn keep_house(&mut self, stage: &mut Stage) -> rusqlite::Result<()> {
        let due = self.is_due();
        let to = self.trim_to(stage);
        let trimmable = retention::trimmable(stage, to);
        self.duties.more = false;
        let kept = self.keep_delivered.filter(|_| !self.room.is_half_full());
        match kept {
            Some(age) if due && trimmable > 0 => {
                let before = before(stage.now, age);
                self.duties.more |= retention::trim_before(&self.connection, before, to, stage)?;
            }
            None if trimmable >= retention::CHUNK_ROWS || (due && trimmable > 0) => {
                // What is kept leaves only as far as it must.
                let bytes = match self.keep_delivered {
                    Some(_) => self.room.beyond_half().min(retention::CHUNK_BYTES),
                    None => retention::CHUNK_BYTES,
                };
                let heavy = retention::trim(&self.connection, to, bytes, stage)?;
                self.duties.more |=
                    heavy || retention::trimmable(stage, to) >= retention::CHUNK_ROWS;
            }
            _ => {}
        }
        if due {
            self.forget_tallies(stage)?;
            if let Some(age) = self.max_age {
                let before = before(stage.now, age);
                self.duties.more |= retention::expire(&self.connection, before, stage)?;
            }
            if !self.duties.more {
                self.duties.looked = Some(Instant::now());
            }
        }
        // On a full disk what little there is belongs to progress.
        if stage.wanted.is_none()
            && !self.room.disk_full()
            && let Some(wanted) = &self.wanted
        {
            let names = stage.names.as_ref().unwrap_or(&self.account.names).clone();
            self.duties.more |= fill::fill(&self.connection, wanted, &names, stage)?;
        }
        if due {
            // Whoever reads beside destinations is to have passed them, too.
            let scarce = self.room.is_half_full();
            let may = |settled| self.hold.limit(settled, scarce);
            self.duties.more |= copies::remove(&self.connection, stage, may)?;
        }
        if self.room.is_half_full() {
            let bytes = self.room.beyond_half().min(retention::CHUNK_BYTES);
            retention::evict_held(&self.connection, bytes, stage)?;
        }
        let share = self.room.max_bytes() / QUARANTINE_SHARE;
        quarantine::evict_to(&self.connection, share, stage)?;
        if let Some(to) = self.duties.forgotten
            && !retention::forget_commits(&self.connection, to, stage)?
        {
            self.duties.forgotten = None;
        }
        Ok(())
    }

    /// Removes tallies that whoever reads them has, and those that are too many.
    fn forget_tallies(&mut self, stage: &mut Stage) -> rusqlite::Result<()> {
        let (read, missed) = tally::forget(&self.connection, self.hold.tallied())?;
        if missed > 0 {
            self.hold.set_missed();
        }
        self.duties.tally_bytes = tally::bytes(&self.connection)?;
        stage.dirty |= read + missed > 0;
        Ok(())
    }

    /// Everybody is done with what lies up to here.
    fn trim_to(&self, stage: &Stage) -> Position {
        let scarce = self.room.is_half_full();
        self.hold.limit(stage.state.settled_to(), scarce)
    }

    pub(super) fn is_due(&self) -> bool {
        self.duties.more
            || !self.noticed.is_empty()
            || self
                .duties
                .looked
                .is_none_or(|looked| looked.elapsed() >= HOUSEKEEPING_INTERVAL)
    }

    /// Housekeeping comes with the next commit, or not for a day.
    #[cfg(test)]
    pub(super) fn set_due(&mut self, due: bool) {
        let tomorrow = Instant::now() + Duration::from_secs(24 * 3600);
        self.duties.looked = (!due).then_some(tomorrow);
    }

    pub(super) fn tidy_log(&mut self) -> rusqlite::Result<()> {
        if self.room.disk_full() {
            checkpoint::passive(&self.connection)?;
        } else {
            self.checkpoints.after_commit(&self.connection)?;
        }
        self.room.look(&self.connection)
    }

    /// What is looked at a few times a second.
    pub(super) fn look_around(&mut self) {
        if self
            .account
            .looked
            .is_some_and(|looked| looked.elapsed() < TICK)
        {
            return;
        }
        if let Err(error) = self.account.look(&self.connection, &self.state) {
            tracing::warn!(%error, "could not look up the oldest events");
        }
        self.room.take_reserve();
        // What is given up is committed also where there is no room for anything else.
        let is_over = self.shedding.is_on() && !self.room.fits(0);
        if (self.room.refusing() || is_over) && !self.room.disk_full() {
            // Not steady: a long log may be what takes the room.
            let emptied = checkpoint::truncate(&self.connection)
                .and_then(|_| self.room.look(&self.connection));
            if let Err(error) = emptied {
                tracing::debug!(%error, "could not empty the write-ahead log");
            }
        }
        if self.room.fits(BATCH_BYTES as u64 / 128) && self.duties.hold.is_none() {
            self.room.set_refusing(false);
        }
        self.shedding.look(&self.room, &self.window);
        self.duties.hold = self.duties.hold.filter(|until| Instant::now() < *until);
        self.publish_status();
    }
}
