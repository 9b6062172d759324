//! Ways to some of the values of a path that do not lead past all of them.
//!
//! A message may have ten thousand measurements, and a thousand rules may ask for one
//! each. What is made here is made once for an event, when the first rule asks for it.

use std::{
    hash::{BuildHasher as _, Hash},
    ops::Range,
};

use super::{TooMuch, budget::Budget};
use crate::rules::{
    fields::{Element, Fields, ValueId},
    paths::{PathId, Plain},
    term::{Scalar, Term},
    terms::Terms,
};

/// So few values are looked at one by one.
pub(super) const FEW: usize = 32;

/// The values of one path that has many.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    by_value: Option<Vec<(u64, ValueId)>>,
    by_elements: Option<Vec<ValueId>>,
    arrays: Option<Vec<u32>>,
}

impl Lookup {
    /// Those that one of some plain terms takes, each once.
    pub(super) fn equal(
        &mut self,
        path: PathId,
        terms: &Terms,
        fields: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<Vec<ValueId>, TooMuch> {
        let by_value = match &mut self.by_value {
            Some(known) => known,
            none => {
                let hash = |id| (hash_of(fields.value(id)), id);
                let mut all: Vec<_> = fields.ids(path).map(hash).collect();
                budget.spend(sorting(all.len()))?;
                all.sort_unstable();
                none.insert(all)
            }
        };
        let mut equal = Vec::new();
        for term in terms.iter() {
            let hash = match term {
                Term::Null => hash_of(&Scalar::Null),
                Term::Bool(value) => hash_of(&Scalar::Bool(*value)),
                Term::Number(number) => one(1, number),
                Term::Text(text) => one(2, &**text),
                // Not plain: whoever asks looks at every value instead.
                _ => continue,
            };
            let from = by_value.partition_point(|(known, _)| *known < hash);
            let same = by_value[from..]
                .iter()
                .take_while(|(known, _)| *known == hash);
            budget.spend(4 + same.clone().count())?;
            let taken = same.filter(|(_, id)| term.takes(fields.value(*id)));
            equal.extend(taken.map(|(_, id)| *id));
        }
        // A term may be written twice.
        equal.sort_unstable();
        equal.dedup();
        Ok(equal)
    }

    /// All of them, in the order of the elements that they stand in.
    pub(super) fn by_elements(
        &mut self,
        path: PathId,
        fields: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<&[ValueId], TooMuch> {
        if self.by_elements.is_none() {
            let mut all: Vec<_> = fields.ids(path).collect();
            budget.spend(sorting(all.len()))?;
            sort(&mut all, fields);
            self.by_elements = Some(all);
        }
        Ok(self.by_elements.as_deref().unwrap_or_default())
    }

    /// The arrays that they stand in.
    pub(super) fn arrays(
        &mut self,
        path: PathId,
        fields: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<&[u32], TooMuch> {
        if self.arrays.is_none() {
            let elements = fields.ids(path).flat_map(|id| fields.elements(id));
            let mut all: Vec<_> = elements.map(|(array, _)| *array).collect();
            budget.spend(sorting(all.len()))?;
            all.sort_unstable();
            all.dedup();
            self.arrays = Some(all);
        }
        Ok(self.arrays.as_deref().unwrap_or_default())
    }
}

/// Puts values in the order of the elements that they stand in.
pub(super) fn sort(values: &mut [ValueId], fields: &Fields<'_>) {
    values.sort_unstable_by(|a, b| {
        let elements = fields.elements(*a).cmp(fields.elements(*b));
        elements.then(a.cmp(b))
    });
}

/// What it costs to sort so many, about.
const fn sorting(count: usize) -> usize {
    count.saturating_mul(4)
}

fn hash_of(value: &Scalar<'_>) -> u64 {
    match value {
        Scalar::Null => one(0, &2_u8),
        Scalar::Bool(value) => one(0, &u8::from(*value)),
        Scalar::Number(number) => one(1, number),
        Scalar::Text(text) => one(2, &**text),
    }
}

fn one(kind: u8, value: &(impl Hash + ?Sized)) -> u64 {
    Plain.hash_one((kind, value))
}

/// Among values in the order of their elements, those that may be together with a
/// combination of elements: in the same element of every array that both know. `each` is
/// given the places within `values`.
pub(super) fn agreeing(
    values: &[ValueId],
    combination: &[Element],
    fields: &Fields<'_>,
    mut each: impl FnMut(usize) -> Result<(), TooMuch>,
) -> Result<(), TooMuch> {
    if combination.is_empty() {
        return (0..values.len()).try_for_each(each);
    }
    let walk = Walk {
        values,
        combination,
        fields,
    };
    walk.go(0..values.len(), 0, &mut each)
}

struct Walk<'w, 'a> {
    values: &'w [ValueId],
    combination: &'w [Element],
    fields: &'w Fields<'a>,
}

impl Walk<'_, '_> {
    fn elements(&self, at: usize) -> &[Element] {
        self.fields.elements(self.values[at])
    }

    /// The end of those at the beginning of a range of which something is true.
    fn end(&self, range: &Range<usize>, is: impl Fn(&[Element]) -> bool) -> usize {
        let is = |value: &ValueId| is(self.fields.elements(*value));
        range.start + self.values[range.clone()].partition_point(is)
    }

    /// Goes through values that stand in the same elements of `depth` arrays.
    fn go(
        &self,
        range: Range<usize>,
        depth: usize,
        each: &mut impl FnMut(usize) -> Result<(), TooMuch>,
    ) -> Result<(), TooMuch> {
        // Those that stand in no further array come first.
        let deeper = self.end(&range, |elements| elements.len() == depth);
        (range.start..deeper).try_for_each(&mut *each)?;
        let mut rest = deeper..range.end;
        while !rest.is_empty() {
            let (array, first) = self.elements(rest.start)[depth];
            let known = self.combination.iter().find(|(known, _)| *known == array);
            let of_array = match known {
                // Past all other elements of this array.
                Some(_) => rest.start..self.end(&rest, |elements| elements[depth].0 == array),
                None => rest.clone(),
            };
            let wanted = known.map_or(first, |(_, wanted)| *wanted);
            let from = self.end(&of_array, |elements| elements[depth] < (array, wanted));
            let found = from..of_array.end;
            let to = self.end(&found, |elements| elements[depth] == (array, wanted));
            self.go(from..to, depth + 1, each)?;
            rest.start = if known.is_some() { of_array.end } else { to };
        }
        Ok(())
    }
}
