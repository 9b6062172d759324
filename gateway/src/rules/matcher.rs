//! Many patterns against one event.
//!
//! Every alternative of every pattern is kept where the fewest events will look for it:
//! at one of its fields, under the exact values or beginnings that it may have there;
//! failing that, under the path itself. An event's values lead to the alternatives
//! that may fit, and each of those is checked in full. So what an event costs depends
//! on how many patterns nearly fit, not on how many there are.
//!
//! What all of it may cost for one message has a bound, see `budget`.

mod budget;
mod index;
mod lookup;
mod verify;

use super::{
    fields::Fields,
    flatten, json,
    paths::Paths,
    pattern::{Alternative, Pattern},
};
use index::Index;
pub(super) use verify::{Asked, Join, arranged, first_unfit, fits};

/// A message has so many values, or so many in arrays that say so much about each other,
/// that it was not found out which rules it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rules would have to compare too many values, or combinations of array elements")]
pub struct TooMuch;

/// Patterns with the numbers of their rules.
#[derive(Debug, Default)]
pub struct Matcher {
    paths: Paths,
    /// By path.
    index: Vec<Index>,
    alternatives: Vec<Kept>,
    /// Those that may fit an event without any value that they ask for.
    always: Vec<u32>,
}

/// An alternative, its paths as numbers.
#[derive(Debug)]
struct Kept {
    rule: u32,
    /// In the order in which they are gone through.
    fields: Box<[Asked]>,
}

/// Memory that matching uses again from event to event.
#[derive(Debug, Default)]
pub struct Scratch {
    fields: Fields<'static>,
    marks: Marks,
}

/// What was seen of this event.
#[derive(Debug, Default)]
pub(super) struct Marks {
    epoch: u32,
    /// By alternative: the last event that came upon it.
    seen: Vec<u32>,
    /// By rule: the last event that it fits.
    matched: Vec<u32>,
    join: Join,
}

impl Scratch {
    /// The memory in its two parts; the fields come back when they are done with.
    pub(super) fn parts(&mut self) -> (&mut Fields<'static>, &mut Marks) {
        (&mut self.fields, &mut self.marks)
    }

    /// What is matched from here on came of another message: what that may cost begins anew.
    pub const fn begin_message(&mut self) {
        self.marks.join.budget.begin_message();
    }

    /// What this message has cost.
    #[cfg(test)]
    pub(super) const fn spent(&self) -> usize {
        self.marks.join.budget.spent()
    }

    /// A message may cost this much.
    #[cfg(test)]
    pub(super) const fn set_message_max(&mut self, max: usize) {
        self.marks.join.budget.set_message_max(max);
    }
}

impl Marks {
    fn renew(&mut self, alternatives: usize) {
        if self.epoch == u32::MAX {
            self.epoch = 0;
            self.seen.clear();
            self.matched.clear();
        }
        self.epoch += 1;
        self.seen.resize(alternatives, 0);
        self.join.renew();
    }
}

impl Matcher {
    /// Takes a pattern under a rule's number. A rule may have several: one is enough.
    /// Numbers should be small, because memory of matching grows with the largest.
    pub fn add(&mut self, rule: u32, pattern: &Pattern) {
        for alternative in &pattern.alternatives {
            self.add_alternative(rule, alternative);
        }
    }

    fn add_alternative(&mut self, rule: u32, alternative: &Alternative) {
        let fields = alternative.fields.iter();
        let fields = fields.map(|field| (self.paths.add(&field.path), field.terms.clone()));
        let fields = arranged(fields.collect());
        self.index.resize_with(self.paths.len(), Index::default);
        let places = index::places(&fields, &self.index);
        let id = u32::try_from(self.alternatives.len()).expect("fewer than memory has room for");
        for place in &places {
            match place.path() {
                Some(path) => self.index[path as usize].insert(place, id),
                None => self.always.push(id),
            }
        }
        self.alternatives.push(Kept { rule, fields });
    }

    pub(super) const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Says which rules fit an event, each once, in no order. Rules that are not
    /// `wanted` are not looked at.
    ///
    /// # Errors
    /// See [`TooMuch`]; some rules may have been said before.
    pub(super) fn each(
        &self,
        fields: &Fields<'_>,
        marks: &mut Marks,
        mut wanted: impl FnMut(u32) -> bool,
        mut found: impl FnMut(u32),
    ) -> Result<(), TooMuch> {
        marks.renew(self.alternatives.len());
        let Marks {
            epoch,
            seen,
            matched,
            join,
        } = marks;
        let mut check = |join: &mut Join, id: u32| {
            join.budget.spend_on_all(1)?;
            let seen = &mut seen[id as usize];
            if std::mem::replace(seen, *epoch) == *epoch {
                return Ok(());
            }
            let kept = &self.alternatives[id as usize];
            let rule = kept.rule as usize;
            if matched.get(rule) == Some(epoch) || !wanted(kept.rule) {
                return Ok(());
            }
            if fits(&kept.fields, fields, join)? {
                if matched.len() <= rule {
                    matched.resize(rule + 1, 0);
                }
                matched[rule] = *epoch;
                found(kept.rule);
            }
            Ok(())
        };
        for path in fields.touched() {
            let index = &self.index[*path as usize];
            if index.is_empty() {
                continue;
            }
            for (value, _) in fields.values(*path) {
                join.budget.spend_on_all(index.cost(value))?;
                index.each(value, &mut |id| check(join, id))?;
            }
            let mut present = index.present().iter();
            present.try_for_each(|id| check(join, *id))?;
        }
        self.always.iter().try_for_each(|id| check(join, *id))
    }

    /// Says which rules fit the text of an event, a message of its own.
    ///
    /// # Errors
    /// When the text is not an object of JSON, or there is [`TooMuch`] in it.
    pub fn each_of_json(
        &self,
        text: &str,
        scratch: &mut Scratch,
        found: impl FnMut(u32),
    ) -> Result<(), NotMatched> {
        scratch.begin_message();
        let mut fields = std::mem::take(&mut scratch.fields).renewed(&self.paths);
        let read = flatten::flatten(text, &self.paths, &mut fields);
        let done = match read {
            Ok(()) => self
                .each(&fields, &mut scratch.marks, |_| true, found)
                .map_err(NotMatched::TooMuch),
            Err(json::Error { at, what }) => Err(NotMatched::Malformed {
                at,
                what: what.into(),
            }),
        };
        scratch.fields = fields.renewed(&self.paths);
        done
    }
}

/// Why it is not known which rules fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMatched {
    /// It is no event.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// Counted from 0.
        at: usize,
        /// What is wrong.
        what: String,
    },
    /// See [`TooMuch`].
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}
