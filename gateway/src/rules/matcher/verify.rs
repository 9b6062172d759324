//! Whether one alternative fits an event.
//!
//! Where values stand in elements of arrays, all fields must come from the same
//! elements of the arrays that they share. Fields are gone through one after the other,
//! with every combination of elements that is possible so far. Of those
//! only what later fields can tell apart is carried on, so that arrays that have
//! nothing to do with each other do not multiply.
//!
//! A field that must be absent is absent from a combination if no value at its path
//! agrees with it. So what a combination holds by then counts: only fields whose paths
//! come before, as in the reference. Where no field may be absent the order makes no
//! difference, and those that few values fit come first.

use std::{collections::HashSet, sync::Arc};

use super::{
    TooMuch,
    budget::Budget,
    lookup::{self, FEW, Lookup},
};
use crate::rules::{
    fields::{Element, Fields, ValueId},
    paths::{Map, PathId},
    terms::Terms,
};

/// With fewer comparisons than these, every value is compared with every combination.
const NESTED_MAX: usize = 1 << 10;

/// What a combination that goes on costs beside being compared, about.
const KEPT_COST: usize = 8;

/// Memory for combinations, what was looked up of this event, and what may be spent.
#[derive(Debug, Default)]
pub(in crate::rules) struct Join {
    pub(in crate::rules) budget: Budget,
    /// By array: the last field that has values in it, counted from 1.
    last: Vec<usize>,
    combinations: Vec<Vec<Element>>,
    /// By value: whether it fits, where that is known.
    judged: Vec<Option<bool>>,
    /// By path, for those that have many values.
    lookups: Map<PathId, Lookup>,
}

impl Join {
    /// Another event.
    pub(in crate::rules) fn renew(&mut self) {
        self.lookups.clear();
        self.begin_alternative();
    }

    /// Another alternative, or another question about it.
    pub(in crate::rules) const fn begin_alternative(&mut self) {
        self.budget.begin_alternative();
    }
}

/// A path, and what may be there.
pub(in crate::rules) type Asked = (PathId, Arc<Terms>);

/// Fields in the order in which they are best gone through; they are given in that of
/// their paths.
pub(in crate::rules) fn arranged(mut asked: Vec<Asked>) -> Box<[Asked]> {
    if !asked.iter().any(|(_, terms)| terms.may_be_absent()) {
        asked.sort_by_key(|(_, terms)| !terms.is_plain());
    }
    asked.into()
}

/// See the module.
pub(in crate::rules) fn fits(
    asked: &[Asked],
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<bool, TooMuch> {
    join.budget.begin_alternative();
    let within_arrays = asked
        .iter()
        .filter(|(path, _)| fields.is_within_array(*path));
    // With fewer than two there is nothing to disagree about.
    let joined = within_arrays.take(2).count() == 2;
    for (path, terms) in asked {
        let (count, within_array) = (fields.count(*path), fields.is_within_array(*path));
        if joined && within_array && count > FEW && !terms.is_plain() {
            // Fields before it may leave few of these values to be looked at.
            continue;
        }
        // A field that is to be absent, and has values in an array alone, is absent from
        // some combinations, but not from what says nothing about that array.
        let absent = terms.may_be_absent() && (count == 0 || joined && within_array);
        if !absent && !any_fits(*path, terms, fields, join)? {
            return Ok(false);
        }
    }
    Ok(!joined || first_unfit(asked, fields, join)?.is_none())
}

/// Whether some value at a path fits.
fn any_fits(
    path: PathId,
    terms: &Terms,
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<bool, TooMuch> {
    let Join {
        budget, lookups, ..
    } = join;
    if is_looked_up(path, terms, fields) {
        let lookup = lookups.entry(path).or_default();
        return Ok(!lookup.equal(path, terms, fields, budget)?.is_empty());
    }
    for (value, _) in fields.values(path) {
        budget.spend(1 + terms.cost(value))?;
        if terms.takes(value) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether it pays to look values up by what they are.
fn is_looked_up(path: PathId, terms: &Terms, fields: &Fields<'_>) -> bool {
    let count = fields.count(path);
    count > FEW && terms.is_plain() && terms.len() < count
}

/// Goes through the fields in their order; the number of the first that no combination
/// of elements goes on with, or `None` where all fit.
pub(in crate::rules) fn first_unfit(
    asked: &[Asked],
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<Option<usize>, TooMuch> {
    note_last(asked, fields, join)?;
    join.combinations.clear();
    join.combinations.push(Vec::new());
    for (n, asked) in (1..).zip(asked) {
        let next = step(n, asked, fields, join)?;
        if next.is_empty() {
            return Ok(Some(n - 1));
        }
        join.combinations.clear();
        join.combinations.extend(next);
    }
    Ok(None)
}

/// Notes for each array the last field that has values in it.
fn note_last(asked: &[Asked], fields: &Fields<'_>, join: &mut Join) -> Result<(), TooMuch> {
    let Join {
        budget,
        last,
        lookups,
        ..
    } = join;
    let arrays = fields.arrays() as usize;
    budget.spend(arrays / 64)?;
    last.clear();
    last.resize(arrays, 0);
    for (n, (path, _)) in (1..).zip(asked) {
        if fields.count(*path) > FEW {
            let arrays = lookups.entry(*path).or_default();
            let arrays = arrays.arrays(*path, fields, budget)?;
            budget.spend(arrays.len())?;
            arrays.iter().for_each(|array| last[*array as usize] = n);
            continue;
        }
        for (_, elements) in fields.values(*path) {
            for (array, _) in elements {
                last[*array as usize] = n;
            }
        }
    }
    Ok(())
}

/// The combinations that are possible with one field more.
fn step(
    n: usize,
    (path, terms): &Asked,
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<HashSet<Vec<Element>>, TooMuch> {
    let Join {
        budget,
        last,
        combinations,
        judged,
        lookups,
    } = join;
    let count = fields.count(*path);
    // Where the field may be absent, values that do not fit count too.
    let by_value = !terms.may_be_absent() && is_looked_up(*path, terms, fields);
    let mut own: Vec<ValueId>;
    let values: &[ValueId] = if by_value {
        let lookup = lookups.entry(*path).or_default();
        own = lookup.equal(*path, terms, fields, budget)?;
        lookup::sort(&mut own, fields);
        budget.spend(own.len())?;
        &own
    } else if count > FEW && combinations.len().saturating_mul(count) > NESTED_MAX {
        let lookup = lookups.entry(*path).or_default();
        lookup.by_elements(*path, fields, budget)?
    } else {
        own = fields.ids(*path).collect();
        &own
    };
    let nested = combinations.len().saturating_mul(values.len()) <= NESTED_MAX;
    judged.clear();
    judged.resize(values.len(), by_value.then_some(true));
    budget.spend(values.len() / 64)?;
    let mut next = HashSet::new();
    for combination in &*combinations {
        let mut none = true;
        let meet = |at: usize| {
            let (value, elements) = (fields.value(values[at]), fields.elements(values[at]));
            budget.spend(1)?;
            if !agree(combination, elements) {
                return Ok(());
            }
            none = false;
            let fits = match judged[at] {
                Some(fits) => fits,
                None => {
                    budget.spend(terms.cost(value))?;
                    *judged[at].insert(terms.takes(value))
                }
            };
            if fits {
                budget.spend(KEPT_COST)?;
                next.insert(merged(combination, elements, last, n));
            }
            Ok(())
        };
        if nested {
            (0..values.len()).try_for_each(meet)?;
        } else {
            lookup::agreeing(values, combination, fields, meet)?;
        }
        if none && terms.may_be_absent() {
            budget.spend(KEPT_COST)?;
            next.insert(merged(combination, &[], last, n));
        }
    }
    Ok(next)
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
