//! Rules with their destinations: where an event goes.
//!
//! A destination that some rule names gets what those rules send it, and nothing else.
//! A destination that none names gets everything ([decision 61](
//! ../../../docs/decisions/0061-rules-narrow-the-destinations-they-name.md)).

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{ActingSet, Actions, Matcher, Pattern, Schedule, Scratch, TooMuch, view::View};
use crate::{
    class::{Class, Classes},
    event::{Event, Timestamp},
    record::{DestinationId, Routes},
};

/// The name under which the journal knows whoever does what rules ask for beside
/// sending. No destination of a configuration can have it.
pub const ACTIONS: &str = "$rules";

/// Memory of matching that is kept for the next, at most.
const SPARE_MAX: usize = 16;

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What people call it.
    pub name: Arc<str>,
    /// What it takes.
    pub pattern: Pattern,
    /// How much that matters, where the rule says it.
    pub class: Option<Class>,
    /// Where that goes.
    pub destinations: Vec<Arc<str>>,
    /// What else is done.
    pub actions: Actions,
    /// When it is in force; always where there is none.
    pub schedule: Option<Arc<Schedule>>,
}

impl Rule {
    /// A rule that sends what it takes somewhere, and does nothing else.
    pub fn to(name: &str, pattern: Pattern, destinations: Vec<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            pattern,
            class: None,
            destinations,
            actions: Actions::default(),
            schedule: None,
        }
    }

    /// Whether it may begin something then. Nobody knows while the clock is not set, and
    /// what moves machines rather waits for another day.
    pub fn may_begin(&self, at: Timestamp) -> bool {
        let schedule = self.schedule.as_ref();
        schedule.is_none_or(|schedule| schedule.is_open(at))
    }
}

/// Rules that are in force together.
#[derive(Debug, Default)]
pub struct RuleSet {
    matcher: Matcher,
    view: View,
    /// Where each rule sends what it takes.
    routes: Vec<Routes>,
    /// How much what each of them takes matters.
    classes: Vec<Option<Class>>,
    /// How many rules there are; what follows in `routes` are patterns that end something.
    count: usize,
    /// Every destination that a rule names.
    named: Routes,
    /// Whoever does what rules ask for beside that.
    acting: Routes,
    /// When each rule takes anything; empty where all do at any time.
    schedules: Vec<Option<Arc<Schedule>>>,
    /// Where rules with a window send what they make; what they take goes nowhere for it.
    windowed: HashMap<Arc<str>, Routes>,
    /// How much rules say that what they take matters, by name.
    class_of: HashMap<Arc<str>, Class>,
    /// The rules that ask for more than sending.
    acts: Arc<ActingSet>,
    spare: Mutex<Vec<Scratch>>,
}

/// Where an event goes, and whether any rule took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// To these.
    pub routes: Routes,
    /// Some rule fits.
    pub matched: bool,
    /// How much it matters: the most that any rule says that fits.
    pub class: Class,
}

impl RuleSet {
    /// Puts rules in force. What rules take that [do](Actions) something is also for the
    /// destination [`ACTIONS`].
    ///
    /// # Errors
    /// The name of a destination that `id` does not know; that one's only where a rule does
    /// something: what such rules take would be passed by without it.
    pub fn new(
        rules: &[Rule],
        id: impl Fn(&str) -> Option<DestinationId>,
    ) -> Result<Self, Arc<str>> {
        let mut set = Self {
            acting: id(ACTIONS).map_or(Routes::NONE, |id| Routes::NONE.with(id)),
            ..Self::default()
        };
        let end = u32::try_from(rules.len()).expect("fewer than memory has room for");
        let mut clears = Vec::new();
        for (n, rule) in (0..end).zip(rules) {
            let mut routes = Routes::NONE;
            for name in &rule.destinations {
                routes = routes.with(id(name).ok_or_else(|| name.clone())?);
            }
            set.named = set.named.union(routes);
            if rule.actions.window.is_some() {
                set.windowed.insert(rule.name.clone(), routes);
                routes = Routes::NONE;
            }
            if rule.actions.any() {
                if set.acting == Routes::NONE {
                    return Err(ACTIONS.into());
                }
                routes = routes.union(set.acting);
            }
            set.matcher.add(n, &rule.pattern);
            set.routes.push(routes);
            set.classes.push(rule.class);
            if let Some(class) = rule.class {
                set.class_of.insert(rule.name.clone(), class);
            }
            clears.extend(rule.actions.clears());
        }
        // What ends something goes to no destination for that.
        for (n, pattern) in (end..).zip(clears) {
            set.matcher.add(n, pattern);
            set.routes.push(set.acting);
            set.classes.push(None);
        }
        if rules.iter().any(|rule| rule.schedule.is_some()) {
            // What many events come to is followed at any hour.
            let of = |rule: &Rule| {
                let schedule = rule.schedule.as_ref();
                schedule
                    .filter(|_| rule.actions.window.is_none())
                    .map(|schedule| Arc::new(schedule.anew()))
            };
            set.schedules = rules.iter().map(of).collect();
        }
        set.count = rules.len();
        set.view = View::of(set.matcher.paths());
        set.acts = Arc::new(ActingSet::new(rules));
        Ok(set)
    }

    /// Where a rule with a window sends what it makes.
    pub fn windowed(&self, rule: &str) -> Routes {
        self.windowed.get(rule).copied().unwrap_or_default()
    }

    /// How much a rule says that what it takes, or makes, matters.
    pub fn class_of(&self, rule: &str) -> Option<Class> {
        self.class_of.get(rule).copied()
    }

    /// All that they say of it.
    pub(crate) fn classes(&self) -> Classes {
        let said = self.class_of.values().copied();
        said.fold(Classes::NONE, Classes::with)
    }

    /// The rules among them that do something beside sending.
    pub const fn acts(&self) -> &Arc<ActingSet> {
        &self.acts
    }

    /// Whoever does what rules ask for beside sending, as a mask.
    pub const fn acting(&self) -> Routes {
        self.acting
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Which of the destinations in `open` an event goes to. What rules may cost is
    /// counted for a message, so say in `scratch` when [another begins](
    /// Scratch::begin_message).
    ///
    /// # Errors
    /// See [`TooMuch`].
    pub fn route(
        &self,
        event: &Event,
        open: Routes,
        scratch: &mut Scratch,
    ) -> Result<Routed, TooMuch> {
        let (kept, marks) = scratch.parts();
        let mut fields = std::mem::take(kept).renewed(self.matcher.paths());
        self.view.flatten(event, self.matcher.paths(), &mut fields);
        // What is made again was acted on when it came.
        let acting = match event.corrected {
            None => self.acting,
            Some(_) => Routes::NONE,
        };
        let open = open.without(self.acting);
        let may = open.union(acting);
        let sent = |rule: u32| self.routes[rule as usize].intersection(may);
        let said = |rule: u32| self.classes[rule as usize];
        let (found, class) = (Cell::new(None), Cell::new(None));
        // A rule that would add nothing is not looked at.
        let wanted = |rule| {
            let adds = |got: Routes| sent(rule).without(got) != Routes::NONE;
            (found.get().is_none_or(adds) || said(rule) > class.get())
                && !self.is_out_of_force(rule, event.received)
        };
        let add = |rule| {
            found.set(Some(found.get().unwrap_or_default().union(sent(rule))));
            class.set(class.get().max(said(rule)));
        };
        let done = self.matcher.each(&fields, marks, wanted, add);
        let got = found.get();
        *kept = fields.renewed(self.matcher.paths());
        done.map(|()| Routed {
            routes: open.without(self.named).union(got.unwrap_or_default()),
            matched: got.is_some(),
            class: class.get().unwrap_or_default(),
        })
    }

    /// Says which rules take an event, each once, by their places in what the set was
    /// made of; in no order. What that may cost is counted as by [`route`](Self::route).
    ///
    /// # Errors
    /// See [`TooMuch`]; some rules may have been said before.
    pub fn each(
        &self,
        event: &Event,
        scratch: &mut Scratch,
        mut take: impl FnMut(usize),
    ) -> Result<(), TooMuch> {
        let (kept, marks) = scratch.parts();
        let mut fields = std::mem::take(kept).renewed(self.matcher.paths());
        self.view.flatten(event, self.matcher.paths(), &mut fields);
        let is_rule =
            |rule: u32| (rule as usize) < self.count && !self.is_out_of_force(rule, event.received);
        let done = self
            .matcher
            .each(&fields, marks, is_rule, |rule| take(rule as usize));
        *kept = fields.renewed(self.matcher.paths());
        done
    }

    /// Whether a rule is known to take nothing of what was received then.
    fn is_out_of_force(&self, rule: u32, received: Timestamp) -> bool {
        let schedule = self.schedules.get(rule as usize);
        let schedule = schedule.and_then(Option::as_ref);
        schedule.is_some_and(|schedule| schedule.is_closed(received))
    }

    /// Memory to match with; to be given [back](Self::give_back).
    pub fn scratch(&self) -> Scratch {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_default()
    }

    /// Keeps memory for who asks next.
    pub fn give_back(&self, scratch: Scratch) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(scratch);
        }
    }
}

#[cfg(test)]
mod tests;
