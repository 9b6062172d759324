//! Whether one alternative fits an event.
//!
//! Where values stand in elements of arrays, all fields must come from the same
//! elements of the arrays that they share. Fields are gone through in the order of
//! their paths, with every combination of elements that is possible so far. Of those
//! only what later fields can tell apart is carried on, so that arrays that have
//! nothing to do with each other do not multiply.
//!
//! A field that must be absent is absent from a combination if no value at its path
//! agrees with it. So what a combination holds by then counts: only fields whose paths
//! come before, as in the reference.

use std::{collections::HashSet, sync::Arc};

use super::TooMuch;
use crate::rules::{
    fields::{Element, Fields},
    paths::{Map, PathId},
    term::{Scalar, Term},
};

/// Comparisons of combinations with values that one event may cost.
const COMPARISONS_MAX: usize = 1 << 20;
/// With fewer comparisons than these, every value is compared with every combination.
const NESTED_MAX: usize = 1 << 10;

/// Memory for combinations, and what an event has cost so far.
#[derive(Debug, Default)]
pub(in crate::rules) struct Join {
    comparisons: usize,
    /// By array: the last field that has values in it, counted from 1.
    last: Vec<usize>,
    combinations: Vec<Vec<Element>>,
}

impl Join {
    pub(in crate::rules) const fn renew(&mut self) {
        self.comparisons = 0;
    }

    fn spend(&mut self, comparisons: usize) -> Result<(), TooMuch> {
        self.comparisons = self.comparisons.saturating_add(comparisons);
        if self.comparisons > COMPARISONS_MAX {
            return Err(TooMuch);
        }
        Ok(())
    }
}

/// A path, and what may be there.
pub(in crate::rules) type Asked = (PathId, Arc<[Term]>);

/// The elements that a value stands in, and whether it fits.
type Found<'f> = (&'f [Element], bool);

/// See the module.
pub(super) fn fits(asked: &[Asked], fields: &Fields<'_>, join: &mut Join) -> Result<bool, TooMuch> {
    let mut within_arrays = 0;
    for (path, terms) in asked {
        let within_array = fields.is_within_array(*path);
        within_arrays += usize::from(within_array);
        let mut values = fields.values(*path);
        let fits = values.clone().any(|(value, _)| takes(terms, value));
        // With values in arrays a field may be absent from a combination all the same.
        let mut absent =
            || (within_array || values.next().is_none()) && terms.contains(&Term::Absent);
        if !fits && !absent() {
            return Ok(false);
        }
    }
    if within_arrays < 2 {
        // Nothing to disagree about. A field that is to be absent, and has values in
        // an array alone, is not absent from what says nothing about that array.
        return Ok(asked.iter().all(|(path, terms)| {
            let mut values = fields.values(*path);
            values.clone().any(|(value, _)| takes(terms, value)) || values.next().is_none()
        }));
    }
    Ok(first_unfit(asked, fields, join)?.is_none())
}

pub(in crate::rules) fn takes(terms: &[Term], value: &Scalar<'_>) -> bool {
    terms.iter().any(|term| term.takes(value))
}

/// Goes through the fields in their order; the number of the first that no combination
/// of elements goes on with, or `None` where all fit.
pub(in crate::rules) fn first_unfit(
    asked: &[Asked],
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<Option<usize>, TooMuch> {
    join.last.clear();
    join.last.resize(fields.arrays() as usize, 0);
    for (n, (path, _)) in (1..).zip(asked) {
        for (_, elements) in fields.values(*path) {
            for (array, _) in elements {
                join.last[*array as usize] = n;
            }
        }
    }
    join.combinations.clear();
    join.combinations.push(Vec::new());
    for (n, (path, terms)) in (1..).zip(asked) {
        let next = step(n, *path, terms, fields, join)?;
        if next.is_empty() {
            return Ok(Some(n - 1));
        }
        join.combinations.clear();
        join.combinations.extend(next);
    }
    Ok(None)
}

/// The combinations that are possible with one field more.
fn step(
    n: usize,
    path: PathId,
    terms: &[Term],
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<HashSet<Vec<Element>>, TooMuch> {
    let absent = terms.contains(&Term::Absent);
    // Values that fit, and, where none may be there, the others.
    let mut values = Vec::new();
    for (value, elements) in fields.values(path) {
        let fits = takes(terms, value);
        if fits || absent {
            values.push((elements, fits));
        }
    }
    let combinations = std::mem::take(&mut join.combinations);
    let groups = (combinations.len() * values.len() > NESTED_MAX).then(|| Groups::of(&values));
    let mut next = HashSet::new();
    for combination in &combinations {
        let mut none = true;
        let mut compare = |compared: &[Found<'_>]| {
            join.spend(1 + compared.len())?;
            for (elements, fits) in compared {
                if agree(combination, elements) {
                    none = false;
                    if *fits {
                        next.insert(merged(combination, elements, &join.last, n));
                    }
                }
            }
            Ok(())
        };
        match &groups {
            None => compare(&values)?,
            Some(groups) => groups.each(combination, &mut compare)?,
        }
        if absent && none {
            next.insert(merged(combination, &[], &join.last, n));
        }
    }
    join.combinations = combinations;
    Ok(next)
}

/// Many values by the elements that they stand in, outermost first: a combination that
/// has an element of an array is led past all the others of it.
#[derive(Default)]
struct Groups<'f> {
    here: Vec<Found<'f>>,
    arrays: Map<u32, Map<u32, Groups<'f>>>,
}

impl<'f> Groups<'f> {
    fn of(values: &[Found<'f>]) -> Self {
        let mut groups = Self::default();
        for value in values {
            let group = value.0.iter().fold(&mut groups, |group, (array, index)| {
                let elements = group.arrays.entry(*array).or_default();
                elements.entry(*index).or_default()
            });
            group.here.push(*value);
        }
        groups
    }

    fn each(
        &self,
        combination: &[Element],
        compare: &mut impl FnMut(&[Found<'f>]) -> Result<(), TooMuch>,
    ) -> Result<(), TooMuch> {
        compare(&self.here)?;
        for (array, elements) in &self.arrays {
            match combination.iter().find(|(known, _)| known == array) {
                Some((_, index)) => {
                    if let Some(same) = elements.get(index) {
                        same.each(combination, compare)?;
                    }
                }
                None => elements
                    .values()
                    .try_for_each(|group| group.each(combination, compare))?,
            }
        }
        Ok(())
    }
}

/// Whether both are in the same element of every array that they share.
fn agree(combination: &[Element], elements: &[Element]) -> bool {
    elements.iter().all(|(array, index)| {
        let same = combination.iter().find(|(known, _)| known == array);
        same.is_none_or(|(_, known)| known == index)
    })
}

/// Both, as far as fields behind the `n`th can tell; in the order of the arrays.
fn merged(combination: &[Element], elements: &[Element], last: &[usize], n: usize) -> Vec<Element> {
    let both = combination.iter().chain(elements);
    let told = |(array, _): &&Element| last[*array as usize] > n;
    let mut merged: Vec<_> = both.filter(told).copied().collect();
    merged.sort_unstable();
    merged.dedup();
    merged
}
