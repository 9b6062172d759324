//! Where the alternatives of patterns are kept, so that an event's values lead to them.

use std::net::IpAddr;

use crate::rules::{
    address,
    decimal::{Decimal, NEAR},
    matcher::{TooMuch, verify::Asked},
    paths::{Map, PathId},
    term::{Range, Scalar, Term},
};

/// A place that only one value leads to is worth so many that every value leads to.
const PRESENT_COST: usize = 16;
/// The same for a beginning, which is looked for once for every length.
const PREFIX_COST: usize = 2;
/// And for `true`, `false` and `null`, which many events have.
const WORD_COST: usize = 4;

/// Where an alternative is kept; what leads there.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// Every event.
    Always,
    /// Any value at the path.
    Present(PathId),
    /// This value.
    Key(PathId, Key),
    /// A number between about these.
    Between(PathId, f64, f64),
}

impl Place {
    pub(super) const fn path(&self) -> Option<PathId> {
        match self {
            Self::Always => None,
            Self::Present(path) | Self::Key(path, _) | Self::Between(path, ..) => Some(*path),
        }
    }
}

/// What a value must be, or begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Box<str>),
    Address(IpAddr),
    Prefix(Box<[u8]>),
}

impl Key {
    /// The key that every value has that a term takes.
    fn of(term: &Term) -> Option<Self> {
        let prefix = |text: &str| (!text.is_empty()).then(|| Self::Prefix(text.as_bytes().into()));
        match term {
            Term::Null => Some(Self::Null),
            Term::Bool(value) => Some(Self::Bool(*value)),
            Term::Number(number) => Some(Self::Number(number.clone())),
            Term::Text(text) => Some(Self::Text(text.clone())),
            Term::Address(address) => Some(Self::Address(*address)),
            Term::Prefix(text) => prefix(text),
            Term::Wildcard(wildcard) => prefix(wildcard.beginning()),
            Term::Numeric(Range {
                lower: Some((lower, true)),
                upper: Some((upper, true)),
            }) if lower == upper => Some(Self::Number(lower.clone())),
            _ => None,
        }
    }
}

/// Where an alternative costs least: the places of one of its fields.
pub(super) fn places(fields: &[Asked], index: &[Index]) -> Vec<Place> {
    let of_field = |(path, terms): &Asked| {
        if terms.may_be_absent() {
            return None;
        }
        let at = &index[*path as usize];
        let keys: Option<Vec<Key>> = terms.iter().map(Key::of).collect();
        Some(match keys {
            Some(keys) => {
                let cost = keys.iter().map(|key| at.cost_of(key)).sum();
                let keys = keys.into_iter().map(|key| Place::Key(*path, key));
                (cost, keys.collect())
            }
            None => match between(terms) {
                Some((lower, upper)) => {
                    let cost = at.ranges.len() + PRESENT_COST;
                    (cost, vec![Place::Between(*path, lower, upper)])
                }
                None => {
                    let cost = (at.present.len() + 1) * PRESENT_COST;
                    (cost, vec![Place::Present(*path)])
                }
            },
        })
    };
    let least = fields
        .iter()
        .filter_map(of_field)
        .min_by_key(|(cost, _)| *cost);
    least.map_or_else(|| vec![Place::Always], |(_, places)| places)
}

/// What every number lies between, about, that one of these ranges takes.
fn between(terms: &[Term]) -> Option<(f64, f64)> {
    let slack = |x: f64| x.abs() * NEAR.0 + NEAR.1;
    let mut all = (f64::INFINITY, f64::NEG_INFINITY);
    for term in terms {
        let Term::Numeric(Range { lower, upper }) = term else {
            return None;
        };
        let about = |bound: &(Decimal, bool)| bound.0.about();
        let lower = lower.as_ref().map(about);
        let upper = upper.as_ref().map(about);
        let lower = lower.map_or(f64::NEG_INFINITY, |lower| lower - 2.0 * slack(lower));
        let upper = upper.map_or(f64::INFINITY, |upper| upper + 2.0 * slack(upper));
        all = (all.0.min(lower), all.1.max(upper));
    }
    Some(all)
}

/// What is kept at one path.
#[derive(Debug, Default)]
pub(super) struct Index {
    is_used: bool,
    texts: Map<Box<str>, Vec<u32>>,
    addresses: Map<IpAddr, Vec<u32>>,
    numbers: Map<Decimal, Vec<u32>>,
    null: Vec<u32>,
    bools: [Vec<u32>; 2],
    prefixes: Map<Box<[u8]>, Vec<u32>>,
    /// The lengths of the prefixes, ascending.
    lengths: Vec<usize>,
    present: Vec<u32>,
    ranges: Vec<(f64, f64, u32)>,
}

impl Index {
    pub(super) const fn is_empty(&self) -> bool {
        !self.is_used
    }

    /// What any value leads to.
    pub(super) fn present(&self) -> &[u32] {
        &self.present
    }

    fn cost_of(&self, key: &Key) -> usize {
        let len = |ids: Option<&Vec<u32>>| ids.map_or(0, Vec::len) + 1;
        match key {
            Key::Null => (self.null.len() + 1) * WORD_COST,
            Key::Bool(value) => (self.bools[usize::from(*value)].len() + 1) * WORD_COST,
            Key::Number(number) => len(self.numbers.get(number)),
            Key::Text(text) => len(self.texts.get(text)),
            Key::Address(address) => len(self.addresses.get(address)),
            Key::Prefix(prefix) => len(self.prefixes.get(prefix)) * PREFIX_COST,
        }
    }

    /// What it costs to see what a value leads to, beside what that is; ranges are
    /// compared several at a time.
    #[inline]
    pub(super) fn cost(&self, value: &Scalar<'_>) -> usize {
        match value {
            Scalar::Number(_) => 1 + self.ranges.len() / 8,
            Scalar::Text(text) => 1 + text.len() / 64 + 2 * self.lengths.len(),
            Scalar::Null | Scalar::Bool(_) => 1,
        }
    }

    /// What a value leads to.
    #[inline]
    pub(super) fn each(
        &self,
        value: &Scalar<'_>,
        check: &mut impl FnMut(u32) -> Result<(), TooMuch>,
    ) -> Result<(), TooMuch> {
        let mut all = |ids: &[u32]| ids.iter().try_for_each(|id| check(*id));
        match value {
            Scalar::Null => all(&self.null),
            Scalar::Bool(value) => all(&self.bools[usize::from(*value)]),
            Scalar::Number(number) => {
                if let Some(ids) = self.numbers.get(number) {
                    all(ids)?;
                }
                if self.ranges.is_empty() {
                    return Ok(());
                }
                let about = number.about();
                let mut ranges = self.ranges.iter();
                ranges.try_for_each(|(lower, upper, id)| {
                    if *lower <= about && about <= *upper {
                        check(*id)?;
                    }
                    Ok(())
                })
            }
            Scalar::Text(text) => {
                if let Some(ids) = self.texts.get(&**text) {
                    all(ids)?;
                }
                if !self.addresses.is_empty()
                    && let Some(ids) =
                        address::literal(text).and_then(|known| self.addresses.get(&known))
                {
                    all(ids)?;
                }
                for length in &self.lengths {
                    let Some(beginning) = text.as_bytes().get(..*length) else {
                        break;
                    };
                    if let Some(ids) = self.prefixes.get(beginning) {
                        all(ids)?;
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) fn insert(&mut self, place: &Place, id: u32) {
        self.is_used = true;
        let key = match place {
            Place::Key(_, key) => key,
            Place::Between(_, lower, upper) => {
                self.ranges.push((*lower, *upper, id));
                return;
            }
            Place::Present(_) | Place::Always => {
                self.present.push(id);
                return;
            }
        };
        match key {
            Key::Null => put(&mut self.null, id),
            Key::Bool(value) => put(&mut self.bools[usize::from(*value)], id),
            Key::Number(number) => put(self.numbers.entry(number.clone()).or_default(), id),
            Key::Text(text) => put(self.texts.entry(text.clone()).or_default(), id),
            Key::Address(address) => put(self.addresses.entry(*address).or_default(), id),
            Key::Prefix(prefix) => {
                put(self.prefixes.entry(prefix.clone()).or_default(), id);
                if let Err(at) = self.lengths.binary_search(&prefix.len()) {
                    self.lengths.insert(at, prefix.len());
                }
            }
        }
    }
}

/// Notes an alternative once, also where a term is written twice.
fn put(ids: &mut Vec<u32>, id: u32) {
    if ids.last() != Some(&id) {
        ids.push(id);
    }
}
