//! What rules would make of events that came already: nothing is changed, and nothing is
//! sent.
//!
//! The rules in force, and those that would be in force after a change, are both asked of
//! each event. So what is said beside each other are answers of the same day to the same
//! events; where an event was sent when it came may have been decided by rules that were
//! in force then.
//!
//! Memory is bounded whatever the journal has: devices and hours are counted one by one
//! until there are [`CELLS_MAX`] of them over all rules, and together beyond that.

mod tally;

use std::{collections::HashMap, sync::Arc};

use serde::Serialize;
use tally::Room;
pub use tally::{Example, Tally};
use utoipa::ToSchema;

use crate::{
    event::{Event, Timestamp, json},
    record::{DestinationId, NOWHERE, Record, Routes},
    rules::{ACTIONS, Rule, RuleSet, Scratch},
};

/// The name of a pattern that is asked by itself, which no rule has: it takes no rule's place.
pub const PATTERN: &str = "(pattern)";

/// Devices and hours that are counted one by one, over all rules.
pub const CELLS_MAX: usize = 100_000;

/// Rules and what to ask of them.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The destinations that there are.
    pub destinations: Vec<Arc<str>>,
    /// The rules in force.
    pub in_force: Vec<Rule>,
    /// Rules that would be put in force: in place of those of the same name, or beside
    /// all others.
    pub changes: Vec<Rule>,
    /// Of the rules to be told of, which are the changes where there are any, only this.
    pub only: Option<String>,
}

/// Why a backtest cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There are no rules at all.
    #[error("there are no rules to ask")]
    NoRules,
    /// No rule has the name.
    #[error("there is no rule {0:?}")]
    NoSuchRule(String),
    /// More than routes have bits for.
    #[error("the rules name more than {0} destinations")]
    TooManyDestinations(usize),
}

/// Rules that are being asked.
#[derive(Debug)]
pub struct Backtest {
    /// By number, as routes have them; the last is whoever does what rules ask for beside
    /// sending.
    names: Vec<Arc<str>>,
    now: Side,
    /// `None` where nothing would change.
    then: Option<Side>,
    tallies: Vec<Tally>,
    room: Room,
    count: Count,
}

/// Rules that are in force together, or would be.
#[derive(Debug)]
struct Side {
    set: RuleSet,
    /// Where events may go.
    open: Routes,
    scratch: Scratch,
    /// By rule: the number of the last event that it took.
    took: Vec<u64>,
    /// The rules that took it.
    taken: Vec<usize>,
    /// By rule: the tally that is kept of it.
    told: Vec<Option<usize>>,
    /// Events sent, by destination.
    sent: Vec<u64>,
    /// Events that could not be decided about.
    too_much: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Default, Serialize)]
struct Count {
    /// Events that rules were asked of.
    events: u64,
    /// Rows of the journal that could not be read.
    damaged: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Backtest)]
pub struct Report {
    /// Events that rules were asked of.
    pub events: u64,
    /// Rows of the journal that could not be read.
    pub damaged: u64,
    /// When the first of the events was received.
    pub first: Option<String>,
    /// When the last was.
    pub last: Option<String>,
    /// Events whose message would be quarantined, because the rules in force would have
    /// too much to compare.
    pub too_much: u64,
    /// The same after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_much_then: Option<u64>,
    /// By rule.
    pub rules: Vec<Tally>,
    /// By destination.
    pub destinations: Vec<Sent>,
}

/// What a destination gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BacktestDestination)]
pub struct Sent {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Arc<str>,
    /// Events that the rules in force send it.
    pub in_force: u64,
    /// Events that it would get after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<u64>,
}

impl Side {
    fn new(rules: &[Rule], names: &[Arc<str>], open: Routes) -> Self {
        let set = RuleSet::new(rules, |name| number(names, name));
        Self {
            set: set.expect("every name that they have is known"),
            open,
            scratch: Scratch::default(),
            took: vec![0; rules.len()],
            taken: Vec::new(),
            told: vec![None; rules.len()],
            sent: vec![0; names.len()],
            too_much: 0,
        }
    }

    /// Asks of the event of this number.
    fn ask(&mut self, event: &Event, number: u64) {
        let Self { took, taken, .. } = self;
        taken.clear();
        self.scratch.begin_message();
        let each = self.set.each(event, &mut self.scratch, |rule| {
            took[rule] = number;
            taken.push(rule);
        });
        self.scratch.begin_message();
        let routed = self.set.route(event, self.open, &mut self.scratch);
        let (Ok(()), Ok(routed)) = (each, routed) else {
            self.too_much += 1;
            for rule in taken.drain(..) {
                took[rule] = 0;
            }
            return;
        };
        for (n, sent) in (0..).zip(&mut self.sent) {
            *sent += u64::from(routed.routes.contains(DestinationId(n)));
        }
    }

    /// Whether a rule took the event of this number.
    fn took(&self, rule: usize, number: u64) -> bool {
        self.took.get(rule) == Some(&number)
    }
}

/// The number of a destination's name.
fn number(names: &[Arc<str>], name: &str) -> Option<DestinationId> {
    let at = names.iter().position(|known| **known == *name)?;
    u8::try_from(at).ok().map(DestinationId)
}

fn mask(names: &[Arc<str>], of: &[Arc<str>]) -> Routes {
    let numbers = of.iter().filter_map(|name| number(names, name));
    numbers.fold(Routes::NONE, Routes::with)
}

impl Backtest {
    /// Begins one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(asked: Asked) -> Result<Self, Error> {
        let Asked {
            destinations,
            in_force,
            changes,
            only,
        } = asked;
        let mut names = destinations.clone();
        for name in in_force
            .iter()
            .chain(&changes)
            .flat_map(|r| &r.destinations)
        {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        if names.len() >= usize::from(NOWHERE.0) {
            return Err(Error::TooManyDestinations(usize::from(NOWHERE.0) - 1));
        }
        names.push(ACTIONS.into());

        let mut then = in_force.clone();
        // Of one name the first is in force as it is written; another is only there to
        // narrow what it names.
        let mut by_name: HashMap<Arc<str>, usize> = HashMap::new();
        for (at, rule) in in_force.iter().enumerate() {
            by_name.entry(rule.name.clone()).or_insert(at);
        }
        // The place of each change among the rules then.
        let mut places = Vec::with_capacity(changes.len());
        let changes_any = !changes.is_empty();
        let named: Vec<Arc<str>> = changes
            .iter()
            .flat_map(|r| r.destinations.clone())
            .collect();
        for change in changes {
            match by_name.get(&change.name) {
                Some(at) => {
                    places.push(*at);
                    then[*at] = change;
                }
                None => {
                    places.push(then.len());
                    then.push(change);
                }
            }
        }
        if then.is_empty() {
            return Err(Error::NoRules);
        }
        let mut told: Vec<usize> = match changes_any {
            true => places,
            false => (0..in_force.len())
                .filter(|at| by_name.get(&in_force[*at].name) == Some(at))
                .collect(),
        };
        if let Some(only) = only {
            told.retain(|at| *then[*at].name == *only);
            if told.is_empty() {
                return Err(Error::NoSuchRule(only));
            }
        }

        let own = [Arc::from(ACTIONS)];
        let open = mask(&names, &destinations).union(mask(&names, &own));
        let mut now = Side::new(&in_force, &names, open);
        // What a change names is there by then, or the change could not be made.
        let mut then_side = changes_any.then(|| {
            let open = open.union(mask(&names, &named));
            Side::new(&then, &names, open)
        });
        let tallies = told.iter().map(|at| {
            let compared = then_side.is_some() && *at < in_force.len();
            Tally::new(then[*at].name.clone(), compared)
        });
        let tallies = tallies.collect();
        for (tally, at) in told.iter().enumerate() {
            if let Some(told) = now.told.get_mut(*at) {
                *told = Some(tally);
            }
            if let Some(side) = &mut then_side {
                side.told[*at] = Some(tally);
            }
        }
        Ok(Self {
            names,
            now,
            then: then_side,
            tallies,
            room: Room::new(CELLS_MAX),
            count: Count::default(),
        })
    }

    /// Asks of a record of the journal. One that cannot be read counts as damaged.
    pub fn ask(&mut self, record: &Record) {
        let Ok(mut event) = record.event() else {
            self.count.damaged += 1;
            return;
        };
        // By which schedules are asked.
        event.received = record.received;
        // What it is a copy of is asked about itself.
        if event.replayed.is_some() {
            return;
        }
        self.count.events += 1;
        self.room.saw(record.received);
        let number = self.count.events;
        let Self {
            now,
            then,
            tallies,
            room,
            ..
        } = self;
        now.ask(&event, number);
        let Some(then) = then else {
            for rule in &now.taken {
                if let Some(tally) = now.told[*rule] {
                    tallies[tally].take(record, &event, [true; 2], room);
                }
            }
            return;
        };
        then.ask(&event, number);
        for rule in &then.taken {
            if let Some(tally) = then.told[*rule] {
                let took = [now.took(*rule, number), true];
                tallies[tally].take(record, &event, took, room);
            }
        }
        let lost = now.taken.iter().filter(|rule| !then.took(**rule, number));
        for rule in lost {
            if let Some(tally) = now.told[*rule] {
                tallies[tally].take(record, &event, [true, false], room);
            }
        }
    }

    /// Counts rows that could not be read.
    pub fn damaged(&mut self, rows: u64) {
        self.count.damaged += rows;
    }

    /// How many events rules were asked of.
    pub const fn events(&self) -> u64 {
        self.count.events
    }

    /// What came of it.
    pub fn report(self) -> Report {
        let (first, last) = self.room.seen();
        let instant = |at: Option<Timestamp>| {
            let mut text = Vec::new();
            json::time(at?, &mut text);
            Some(String::from_utf8_lossy(&text).trim_matches('"').to_owned())
        };
        let destinations = self.names.iter().enumerate().map(|(at, name)| Sent {
            name: name.clone(),
            in_force: self.now.sent[at],
            then: self.then.as_ref().map(|then| then.sent[at]),
        });
        let of_us = |sent: &Sent| {
            let none = sent.in_force == 0 && sent.then.unwrap_or(0) == 0;
            !(none && *sent.name == *ACTIONS)
        };
        Report {
            events: self.count.events,
            damaged: self.count.damaged,
            first: instant(first),
            last: instant(last),
            too_much: self.now.too_much,
            too_much_then: self.then.as_ref().map(|then| then.too_much),
            destinations: destinations.filter(of_us).collect(),
            rules: self.tallies,
        }
    }
}

#[cfg(test)]
mod tests;
