//! Which rules have something to do for an event, asked once more after the commit.

use super::{Matcher, Rule, Scratch, TooMuch, view::View};
use crate::event::Event;

/// What an event is to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The rule takes it.
    Takes,
    /// It ends what the rule began, and the rule does not take it.
    Clears,
}

/// A rule that has something to do.
#[derive(Debug, Clone, Copy)]
pub struct Acting<'s> {
    /// The rule.
    pub rule: &'s Rule,
    /// Why.
    pub role: Role,
}

/// The rules that do something beside sending.
#[derive(Debug, Default)]
pub struct ActingSet {
    matcher: Matcher,
    view: View,
    /// In the order in which they act.
    rules: Vec<Rule>,
}

impl ActingSet {
    /// Those among some rules.
    pub fn new(rules: &[Rule]) -> Self {
        let acting = rules.iter().filter(|rule| rule.actions.any());
        let mut rules: Vec<Rule> = acting.cloned().collect();
        let order = |rule: &Rule| (-i64::from(rule.actions.priority), rule.name.clone());
        rules.sort_by_cached_key(order);
        for rule in &mut rules {
            // Of a backlog they are asked of other times than what comes in.
            rule.schedule = rule.schedule.as_ref().map(|one| one.anew().into());
        }
        let mut matcher = Matcher::default();
        for (n, rule) in (0..).zip(&rules) {
            matcher.add(2 * n, &rule.pattern);
            if let Some(clears) = rule.actions.clears() {
                matcher.add(2 * n + 1, clears);
            }
        }
        Self {
            view: View::of(matcher.paths()),
            matcher,
            rules,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names of those that have a window.
    pub fn windowed(&self) -> impl Iterator<Item = &str> {
        let windowed = self.rules.iter();
        let windowed = windowed.filter(|rule| rule.actions.window.is_some());
        windowed.map(|rule| &*rule.name)
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| *rule.name == *name)
    }

    /// Every one of them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Those that have something to do for an event, in the order in which they act; and
    /// whether that is all of them, or there was [`TooMuch`] to compare.
    pub fn of(
        &self,
        event: &Event,
        scratch: &mut Scratch,
    ) -> (Vec<Acting<'_>>, Result<(), TooMuch>) {
        scratch.begin_message();
        let (kept, marks) = scratch.parts();
        let mut fields = std::mem::take(kept).renewed(self.matcher.paths());
        self.view.flatten(event, self.matcher.paths(), &mut fields);
        let mut found = Vec::new();
        let add = |rule| found.push(rule);
        let done = self.matcher.each(&fields, marks, |_| true, add);
        *kept = fields.renewed(self.matcher.paths());
        let is_in_force = |n: &u32| {
            let rule = &self.rules[*n as usize / 2];
            // What a rule began may end at any hour, and what many events come to is followed.
            n % 2 == 1 || rule.actions.window.is_some() || rule.may_begin(event.received)
        };
        found.retain(is_in_force);
        found.sort_unstable();
        // What a rule takes does not end it too.
        found.dedup_by_key(|n: &mut u32| *n / 2);
        let acting = found.into_iter().map(|n| Acting {
            rule: &self.rules[n as usize / 2],
            role: match n % 2 {
                0 => Role::Takes,
                _ => Role::Clears,
            },
        });
        (acting.collect(), done)
    }
}
