//! What is given up while room is short, by class and as configured: whether it has come to
//! that, and which events.
//!
//! How much is in the journal is compared, its write-ahead log apart: that grows and shrinks
//! by itself. It is over when there is less again by [`RELEASE`] hundredths of the room, so
//! that it does not begin and end with every commit.
//!
//! An event is asked about before its group is given room: a group that is given up takes
//! none. What was to be kept of a group that is turned away, or whose commit fails, is owed:
//! it is kept when it is sent again, while others of its series are thinned out as before.
//!
//! Keys of what is given up take room as well, and have a share of it. They are counted until
//! they are forgotten; where something is given up at a start, all that are there count.

use std::{collections::HashMap, fmt, time::Duration};

use super::{entry::Entry, room::Room};
use crate::{class::Class, dedup::window::Window, event::Key};

/// Hundredths of the room below its mark at which it is over.
pub const RELEASE: u64 = 5;
/// Series that are told apart. With more, all begin anew: more is kept then, not less.
const SERIES_MAX: usize = 20_000;

/// What is given up of a class, from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shed {
    /// Of which class; never the critical one.
    pub class: Class,
    /// From so many hundredths of the room.
    pub above: u64,
    /// What is kept all the same.
    pub keep: Keep,
}

/// What is kept of each series: the events of a device on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// The first of so many.
    OneOf(u64),
    /// The first in so long.
    OnePer(Duration),
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::OneOf(count) => write!(f, "1 of {count}"),
            Self::OnePer(time) if time.subsec_nanos() == 0 => {
                write!(f, "1 per {}s", time.as_secs())
            }
            Self::OnePer(time) => write!(f, "1 per {}ms", time.as_millis()),
        }
    }
}

/// An event that may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sheddable {
    /// How much it matters.
    pub class: Class,
    /// Its series, as a hash: two that share one are thinned out together.
    pub series: u64,
}

/// Whether and what is given up.
#[derive(Debug)]
pub(super) struct Shedding {
    rules: Vec<(Shed, bool)>,
    sampler: Sampler,
    /// What this commit keeps of series: no more than it has entries.
    kept: Vec<(u64, Option<Key>)>,
    /// What keys of what is given up take on disk, at most.
    key_bytes: u64,
    /// The same of all keys that were there at the start, until it is known whether
    /// something is given up.
    at_start: Option<u64>,
}

impl Shedding {
    pub(super) fn new(rules: &[Shed]) -> Self {
        Self {
            rules: rules.iter().map(|rule| (rule.clone(), false)).collect(),
            sampler: Sampler::default(),
            kept: Vec::new(),
            key_bytes: 0,
            at_start: None,
        }
    }

    /// These are the keys that are there at the start.
    pub(super) fn begin_with(&mut self, window: &Window) {
        self.at_start = Some(key_bytes(window));
    }

    /// A commit begins: looks how much room is left.
    pub(super) fn look(&mut self, room: &Room, window: &Window) {
        self.kept.clear();
        let (content, limit) = (room.content_bytes(), room.limit());
        for (rule, on) in &mut self.rules {
            let mark = match on {
                true => rule.above.saturating_sub(RELEASE),
                false => rule.above,
            };
            let is_over = content >= limit / 100 * mark;
            if is_over != *on {
                let (class, above) = (rule.class.as_str(), rule.above);
                match is_over {
                    true => {
                        tracing::warn!(class, above, keep = %rule.keep, "room is short: events are given up")
                    }
                    false => tracing::info!(class, above, "events are no longer given up"),
                }
            }
            *on = is_over;
        }
        let at_start = self.at_start.take();
        if self.is_on() {
            self.key_bytes = at_start.unwrap_or(self.key_bytes);
        } else {
            self.sampler.series.clear();
            // They stay until they are too old, also while there is room again.
            self.key_bytes = self.key_bytes.min(key_bytes(window));
        }
    }

    /// Whether anything is given up now.
    pub(super) fn is_on(&self) -> bool {
        self.rules.iter().any(|(_, on)| *on)
    }

    /// Whether keys of what is given up are still remembered on disk: they have half of what
    /// lies above the lowest mark, and nothing where others have it all.
    pub(super) fn remembers(&self, room: &Room) -> bool {
        let on = self.rules.iter().filter(|(_, on)| *on);
        let Some(mark) = on.map(|(rule, _)| rule.above).min() else {
            return true;
        };
        let share = room.limit() / 200 * (100 - mark);
        self.key_bytes < share && room.content_bytes() < room.limit()
    }

    /// Keys of what is given up take so many bytes more.
    pub(super) const fn remembered(&mut self, bytes: u64) {
        self.key_bytes = self.key_bytes.saturating_add(bytes);
    }

    /// A group is turned away: what was to be kept of it is, when it is sent again.
    pub(super) fn turned_away(&mut self, entries: &[Entry], given_up: &[Option<Keep>]) {
        for (entry, _) in entries.iter().zip(given_up).filter(|(_, up)| up.is_none()) {
            if let Entry::Event(event) = entry
                && let Some(of) = event.shed
            {
                self.sampler
                    .owe(of.series, event.dedup.then_some(event.key));
            }
        }
    }

    /// The commit has failed: as if all its groups were turned away.
    pub(super) fn failed(&mut self) {
        for (series, key) in self.kept.drain(..) {
            self.sampler.owe(series, key);
        }
    }

    /// What is given up of a group, or is known already, by entry; empty where nothing is.
    pub(super) fn choose(
        &mut self,
        entries: &[Entry],
        window: &Window,
        now: Duration,
    ) -> Vec<Option<Keep>> {
        if !self.is_on() {
            return Vec::new();
        }
        let mut chosen = Vec::with_capacity(entries.len());
        for entry in entries {
            chosen.push(self.given_up(entry, window, now));
        }
        chosen
    }

    fn given_up(&mut self, entry: &Entry, window: &Window, now: Duration) -> Option<Keep> {
        let Entry::Event(event) = entry else {
            return None;
        };
        let of = event.shed?;
        // Of several the one with the highest mark: it says most.
        let on = self.rules.iter().filter(|(_, on)| *on);
        let of_class = on.filter(|(rule, _)| rule.class == of.class);
        let keep = of_class.max_by_key(|(rule, _)| rule.above)?.0.keep;
        // What was sent again is told by its key: it is no reading of its own, and takes no
        // room either.
        let is_known = event.dedup && window.contains(event.key);
        let key = event.dedup.then_some(event.key);
        if is_known || !self.sampler.keeps(keep, of.series, key, now) {
            return Some(keep);
        }
        self.kept.push((of.series, key));
        None
    }

    /// From where on everything is given up.
    #[cfg(test)]
    pub(super) fn set_mark(&mut self, above: u64) {
        self.rules
            .iter_mut()
            .for_each(|(rule, _)| rule.above = above);
    }
}

/// What the keys of a window take on disk, at most.
fn key_bytes(window: &Window) -> u64 {
    16 * window.len() as u64
}

/// Which event of each series is kept.
#[derive(Debug, Default)]
struct Sampler {
    series: HashMap<u64, Series>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Series {
    /// Events since the last one that was kept, that one included.
    count: u64,
    /// When that was.
    kept: Option<Duration>,
    /// It was to be kept, and is not there.
    owed: Option<Key>,
}

impl Sampler {
    /// One that was to be kept is not there. Without a key it cannot be told when it is sent
    /// again: the next is kept in its place.
    fn owe(&mut self, series: u64, key: Option<Key>) {
        match (key, self.series.get_mut(&series)) {
            (Some(key), Some(seen)) => seen.owed = Some(key),
            _ => {
                self.series.remove(&series);
            }
        }
    }

    fn keeps(&mut self, keep: Keep, series: u64, key: Option<Key>, now: Duration) -> bool {
        if keep == Keep::None {
            return false;
        }
        if self.series.len() >= SERIES_MAX && !self.series.contains_key(&series) {
            self.series.clear();
        }
        let seen = self.series.entry(series).or_default();
        let keeps = match (keep, seen.kept) {
            _ if key.is_some() && key == seen.owed => true,
            (_, None) => true,
            (Keep::None, _) => false,
            (Keep::OneOf(count), _) => seen.count >= count,
            (Keep::OnePer(time), Some(kept)) => now.saturating_sub(kept) >= time,
        };
        match keeps {
            true => (seen.count, seen.kept, seen.owed) = (1, Some(now), None),
            false => seen.count += 1,
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_of_so_many_of_each_series_is_kept_and_the_first_of_all(
            of in 1..20_u64, events in proptest::collection::vec(0..5_u64, 0..300),
        ) {
            let mut sampler = Sampler::default();
            let mut seen = HashMap::<u64, (u64, u64)>::new();
            for series in events {
                let keeps = sampler.keeps(Keep::OneOf(of), series, None, Duration::ZERO);
                let (count, kept) = seen.entry(series).or_default();
                prop_assert_eq!(keeps, *count % of == 0);
                *count += 1;
                *kept += u64::from(keeps);
                prop_assert_eq!(*kept, count.div_ceil(of));
            }
        }

        #[test]
        fn between_two_that_are_kept_of_a_series_lies_the_time_and_no_longer_pause_is_left(
            per in 1..50_u64, events in proptest::collection::vec((0..3_u64, 0..20_u64), 0..300),
        ) {
            let mut sampler = Sampler::default();
            let mut last = HashMap::<u64, u64>::new();
            let mut now = 0;
            for (series, pause) in events {
                now += pause;
                let keep = Keep::OnePer(Duration::from_secs(per));
                let keeps = sampler.keeps(keep, series, None, Duration::from_secs(now));
                let due = last.get(&series).is_none_or(|kept| now - kept >= per);
                prop_assert_eq!(keeps, due);
                if keeps {
                    last.insert(series, now);
                }
            }
        }
    }

    #[test]
    fn with_too_many_series_more_is_kept_and_not_less() {
        let mut sampler = Sampler::default();
        for series in 0..=SERIES_MAX as u64 {
            assert!(sampler.keeps(Keep::OneOf(10), series, None, Duration::ZERO));
        }
        assert_eq!(sampler.series.len(), 1);
        assert!(
            sampler.keeps(Keep::OneOf(10), 0, None, Duration::ZERO),
            "begun anew"
        );
    }
}
