//! The terms of one field, of which one is enough.
//!
//! A field may list the fifty thousand devices of a customer. So where plain values are
//! many they are kept as sets, and what a value costs goes by the other terms.

use std::{net::IpAddr, ops::Deref};

use hashbrown::HashSet;

use super::{
    address,
    decimal::Decimal,
    paths::Plain,
    term::{Scalar, Term},
};

/// With fewer terms than these, each is looked at.
const SETS_MIN: usize = 16;

/// Bytes of a text that cost as much to read through as one term does to look at, about.
const READ_BYTES: usize = 32;

/// Terms, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    all: Box<[Term]>,
    sets: Option<Box<Sets>>,
    /// Terms that are looked at one by one, those within `anything-but` among them.
    looked: usize,
    /// Terms of which each may read through a whole text.
    reading: usize,
    is_plain: bool,
    may_be_absent: bool,
}

/// Many plain values, and what is not one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sets {
    texts: HashSet<Box<str>, Plain>,
    numbers: HashSet<Decimal, Plain>,
    addresses: HashSet<IpAddr, Plain>,
    others: Vec<Term>,
}

impl From<Vec<Term>> for Terms {
    fn from(terms: Vec<Term>) -> Self {
        let sets = (terms.len() >= SETS_MIN).then(|| Box::new(Sets::of(&terms)));
        let one_by_one = sets.as_ref().map_or(&terms[..], |sets| &sets.others);
        let costs = one_by_one.iter().map(cost);
        let (mut looked, mut reading) =
            costs.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        if let Some(sets) = &sets {
            looked += 1;
            // A text is hashed, and may be read as an address.
            reading += 1 + usize::from(!sets.addresses.is_empty());
        }
        let is_plain = |term: &Term| {
            matches!(
                term,
                Term::Null | Term::Bool(_) | Term::Number(_) | Term::Text(_)
            )
        };
        Self {
            sets,
            looked,
            reading,
            is_plain: terms.iter().all(is_plain),
            may_be_absent: terms.contains(&Term::Absent),
            all: terms.into(),
        }
    }
}

/// How many terms are looked at for one, and how many of those read through a text.
fn cost(term: &Term) -> (usize, usize) {
    match term {
        Term::AnythingBut(not) => (1 + not.looked, not.reading),
        Term::Wildcard(_) | Term::Cidr(_) | Term::Address(_) => (1, 1),
        _ => (1, 0),
    }
}

impl Sets {
    fn of(terms: &[Term]) -> Self {
        let mut sets = Self::default();
        for term in terms {
            match term {
                Term::Text(text) => {
                    sets.texts.insert(text.clone());
                }
                Term::Number(number) => {
                    sets.numbers.insert(number.clone());
                }
                Term::Address(address) => {
                    sets.addresses.insert(*address);
                }
                other => sets.others.push(other.clone()),
            }
        }
        sets
    }

    fn takes(&self, value: &Scalar<'_>) -> bool {
        let has = match value {
            Scalar::Number(number) => self.numbers.contains(number),
            Scalar::Text(text) => {
                let known = || address::literal(text).is_some_and(|a| self.addresses.contains(&a));
                self.texts.contains(&**text) || !self.addresses.is_empty() && known()
            }
            Scalar::Null | Scalar::Bool(_) => false,
        };
        has || self.others.iter().any(|term| term.takes(value))
    }
}

impl Terms {
    /// Whether one of them takes a value.
    pub(super) fn takes(&self, value: &Scalar<'_>) -> bool {
        match &self.sets {
            None => self.all.iter().any(|term| term.takes(value)),
            Some(sets) => sets.takes(value),
        }
    }

    /// What it costs to find that out, in terms looked at, about.
    pub(super) fn cost(&self, value: &Scalar<'_>) -> usize {
        match value {
            Scalar::Text(text) if self.reading > 0 => {
                self.looked + self.reading * (text.len() / READ_BYTES)
            }
            _ => self.looked,
        }
    }

    /// Whether each takes only the values that are equal to it.
    pub(super) const fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Whether there may be no value.
    pub(super) const fn may_be_absent(&self) -> bool {
        self.may_be_absent
    }
}

impl Deref for Terms {
    type Target = [Term];

    fn deref(&self) -> &[Term] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn term() -> impl Strategy<Value = Term> {
        let number = |n: i64| Decimal::from(n);
        prop_oneof![
            (0..60_i64).prop_map(move |n| Term::Number(number(n))),
            "[a-c]{0,3}".prop_map(|text| Term::Text(text.into())),
            (0..9_u8).prop_map(|n| Term::Address([10, 0, 0, n].into())),
            "[a-c]{1,2}".prop_map(|text| Term::Prefix(text.into())),
            prop::collection::vec(0..60_i64, 1..40).prop_map(move |not| {
                let not: Vec<_> = not.into_iter().map(|n| Term::Number(number(n))).collect();
                Term::AnythingBut(not.into())
            }),
            Just(Term::Null),
            Just(Term::Absent),
        ]
    }

    fn scalar() -> impl Strategy<Value = Scalar<'static>> {
        prop_oneof![
            (0..60_i64).prop_map(|n| Scalar::Number(Decimal::from(n))),
            "[a-c]{0,3}".prop_map(|text| Scalar::Text(text.into())),
            (0..9_u8).prop_map(|n| Scalar::Text(format!("10.0.0.00{n}").into())),
            any::<bool>().prop_map(Scalar::Bool),
            Just(Scalar::Null),
        ]
    }

    proptest! {
        #[test]
        fn many_terms_take_what_each_by_itself_takes(
            terms in prop::collection::vec(term(), 1..80),
            value in scalar(),
        ) {
            let each = terms.iter().any(|term| term.takes(&value));
            prop_assert_eq!(Terms::from(terms.clone()).takes(&value), each, "{:?} {:?}", terms, value);
        }
    }

    #[test]
    fn what_a_value_costs_does_not_go_by_how_many_plain_values_there_are() {
        let devices = (0..100_000).map(|n| Term::Text(format!("press-{n}").into()));
        let mut terms: Vec<_> = devices.collect();
        let value = Scalar::Text("press-99999".into());
        let many = Terms::from(terms.clone());
        assert!(many.takes(&value) && many.cost(&value) <= 2);
        terms.push(Term::Suffix("x".into()));
        assert_eq!(Terms::from(terms).cost(&value), many.cost(&value) + 1);
        // A text that is read through costs by its length.
        let long = Scalar::Text("x".repeat(1 << 20).into());
        let wildcard = Term::Wildcard(super::super::wildcard::Wildcard::parse("*y*").unwrap());
        assert!(Terms::from(vec![wildcard]).cost(&long) > 10_000);
    }
}
