//! Counts of what came in, for the metrics page.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    event::{IdSource, Marks},
    normalise::Class,
    record::Routes,
};

/// Counts since the start. They say what was prepared, not what was kept: the
/// ledger of the store says that.
#[derive(Debug, Default)]
pub struct Metrics {
    events: [AtomicU64; IdSource::ALL.len()],
    rejected: [AtomicU64; Class::ALL.len()],
    cleared: AtomicU64,
    circles: AtomicU64,
    not_data: AtomicU64,
    gaps: AtomicU64,
    rebirths: AtomicU64,
    dropped: AtomicU64,
    mismatched: AtomicU64,
    matched: AtomicU64,
    unmatched: AtomicU64,
    nowhere: AtomicU64,
    marks: [AtomicU64; Marks::WORDS.len()],
}

/// What rules did with the events of one message.
#[derive(Debug, Default)]
pub(super) struct Taken {
    matched: u64,
    unmatched: u64,
    nowhere: u64,
}

impl Taken {
    /// Whether some rule took it, and to which destinations it goes.
    pub(super) fn count(&mut self, matched: bool, sent: Routes) {
        *if matched {
            &mut self.matched
        } else {
            &mut self.unmatched
        } += 1;
        self.nowhere += u64::from(sent == Routes::NONE);
    }
}

impl Metrics {
    /// Events by what their identity was taken from.
    pub fn events(&self) -> impl Iterator<Item = (IdSource, u64)> {
        IdSource::ALL
            .into_iter()
            .map(|source| (source, self.events[source as usize].load(Relaxed)))
    }

    /// Messages, or the rest of batches, that were quarantined, by the kind of reason.
    pub fn rejects(&self) -> impl Iterator<Item = (Class, u64)> {
        Class::ALL
            .into_iter()
            .map(|class| (class, self.rejected[class as usize].load(Relaxed)))
    }

    /// Events by what is odd about their times.
    pub fn marks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = Marks::WORDS.iter().zip(&self.marks);
        words.map(|((word, _), count)| (*word, count.load(Relaxed)))
    }

    pub(super) fn marked(&self, marks: Marks) {
        for ((_, mark), count) in Marks::WORDS.iter().zip(&self.marks) {
            if marks.contains(*mark) {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    /// Empty retained messages, which clear a retained message and are not kept.
    pub fn retained_cleared(&self) -> u64 {
        self.cleared.load(Relaxed)
    }

    /// Messages that have been through this gateway before, and are not kept again.
    pub fn circles(&self) -> u64 {
        self.circles.load(Relaxed)
    }

    /// Messages, and elements of them, that their protocol knows to be no data, such
    /// as commands.
    pub fn not_data(&self) -> u64 {
        self.not_data.load(Relaxed)
    }

    /// How often numbers were missing in the messages of a Sparkplug node.
    pub fn sparkplug_gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    /// How often a Sparkplug node was asked to be born again.
    pub fn sparkplug_rebirths(&self) -> u64 {
        self.rebirths.load(Relaxed)
    }

    pub(super) fn gaps_seen(&self, count: u64) {
        self.gaps.fetch_add(count, Relaxed);
    }

    pub(super) fn rebirths_asked(&self, count: usize) {
        self.rebirths.fetch_add(count as u64, Relaxed);
    }

    /// Events that are not as the schema of their type says.
    pub fn schema_mismatches(&self) -> u64 {
        self.mismatched.load(Relaxed)
    }

    pub(super) fn mismatched_seen(&self, count: usize) {
        self.mismatched.fetch_add(count as u64, Relaxed);
    }

    /// Messages, and elements of them, that the `drop` of a mapping drops.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn dropped_by_mapping(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn not_data_seen(&self, count: usize) {
        self.not_data.fetch_add(count as u64, Relaxed);
    }

    /// Events that at least one rule takes.
    pub fn matched(&self) -> u64 {
        self.matched.load(Relaxed)
    }

    /// Events that no rule takes, though there are rules.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.load(Relaxed)
    }

    /// Events that rules leave without any destination.
    pub fn nowhere(&self) -> u64 {
        self.nowhere.load(Relaxed)
    }

    pub(super) fn routed(&self, taken: &Taken) {
        self.matched.fetch_add(taken.matched, Relaxed);
        self.unmatched.fetch_add(taken.unmatched, Relaxed);
        self.nowhere.fetch_add(taken.nowhere, Relaxed);
    }

    /// Adds what was counted apart.
    pub(super) fn add(&self, other: &Self) {
        let Self {
            events,
            rejected,
            cleared,
            circles,
            not_data,
            gaps,
            rebirths,
            dropped,
            mismatched,
            matched,
            unmatched,
            nowhere,
            marks,
        } = other;
        let more = |to: &AtomicU64, from: &AtomicU64| {
            to.fetch_add(from.load(Relaxed), Relaxed);
        };
        for (to, from) in self.events.iter().zip(events) {
            more(to, from);
        }
        for (to, from) in self.rejected.iter().zip(rejected) {
            more(to, from);
        }
        for (to, from) in self.marks.iter().zip(marks) {
            more(to, from);
        }
        more(&self.cleared, cleared);
        more(&self.circles, circles);
        more(&self.not_data, not_data);
        more(&self.gaps, gaps);
        more(&self.rebirths, rebirths);
        more(&self.dropped, dropped);
        more(&self.mismatched, mismatched);
        more(&self.matched, matched);
        more(&self.unmatched, unmatched);
        more(&self.nowhere, nowhere);
    }

    pub(super) fn event(&self, source: IdSource) {
        self.events[source as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn rejected(&self, class: Class) {
        self.rejected[class as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn circle(&self) {
        self.circles.fetch_add(1, Relaxed);
    }

    pub(super) fn cleared(&self) {
        self.cleared.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_apart_is_added() {
        let (all, apart) = (Metrics::default(), Metrics::default());
        all.event(IdSource::None);
        apart.event(IdSource::None);
        apart.rejected(Class::Syntax);
        apart.routed(&Taken {
            matched: 3,
            unmatched: 2,
            nowhere: 1,
        });
        all.add(&apart);
        all.add(&apart);
        let none = all.events().find(|(source, _)| *source == IdSource::None);
        assert_eq!(none, Some((IdSource::None, 3)));
        assert_eq!(all.rejects().map(|(_, count)| count).sum::<u64>(), 2);
        assert_eq!((all.matched(), all.unmatched(), all.nowhere()), (6, 4, 2));
    }

    #[test]
    fn every_source_and_class_has_a_place_of_its_own() {
        assert!(
            IdSource::ALL
                .iter()
                .enumerate()
                .all(|(n, source)| *source as usize == n)
        );
        assert!(
            Class::ALL
                .iter()
                .enumerate()
                .all(|(n, class)| *class as usize == n)
        );
    }
}
