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
    class::Class,
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
mod tests {
    use super::*;
    use crate::event::{IdSource, Key, Measurement, Quality, TimeSource, Timestamp, Value};
    use crate::rules::action::Topic;

    fn event(device: &str, value: f64) -> Event {
        Event {
            key: Key([7; 16]),
            id: None,
            id_source: IdSource::None,
            kind: "iot.telemetry.v1".into(),
            device: device.into(),
            site: None,
            time: Timestamp::from_millis(1),
            time_source: TimeSource::Received,
            received: Timestamp::from_millis(1),
            sequence: None,
            partition_key: None,
            topic: "devices/x/t".into(),
            traceparent: None,
            measurements: vec![Measurement {
                name: "temp".into(),
                value: Value::Float(value),
                unit: None,
                quality: Quality::Good,
                time: None,
            }],
            tags: vec![],
            marks: crate::event::Marks::NONE,
            corrected: None,
            replayed: None,
        }
    }

    fn rule(pattern: &str, destinations: &[&str]) -> Rule {
        let destinations = destinations.iter().map(|name| Arc::from(*name)).collect();
        Rule::to(pattern, Pattern::parse(pattern).unwrap(), destinations)
    }

    fn id(name: &str) -> Option<DestinationId> {
        let known = ["lake", "alarms", "archive"];
        let at = known.iter().position(|known| *known == name)?;
        u8::try_from(at).ok().map(DestinationId)
    }

    #[test]
    fn a_destination_gets_what_its_rules_take_and_everything_without_rules() {
        let set = RuleSet::new(
            &[
                rule(r#"{"values":{"temp":[{"numeric":[">",80]}]}}"#, &["alarms"]),
                rule(r#"{"device":["b7"]}"#, &["alarms", "lake"]),
            ],
            id,
        )
        .unwrap();
        let (lake, alarms, archive) = (1, 2, 4);
        let open = Routes(lake | alarms | archive);
        let mut scratch = set.scratch();
        let mut route = |event: &Event, open| set.route(event, open, &mut scratch).unwrap();
        for (device, value, to, matched) in [
            ("b7", 20.0, lake | alarms | archive, true),
            ("b7", 90.0, lake | alarms | archive, true),
            ("b8", 90.0, alarms | archive, true),
            ("b8", 80.0, archive, false),
        ] {
            let routed = route(&event(device, value), open);
            assert_eq!(
                routed,
                Routed {
                    routes: Routes(to),
                    matched,
                    class: Class::Normal
                },
                "{device} {value}"
            );
        }
        // What must not go back where it came from does not, whatever rules say.
        let routed = route(&event("b7", 20.0), Routes(alarms));
        assert_eq!((routed.routes, routed.matched), (Routes(alarms), true));
        let routed = route(&event("b7", 20.0), Routes(archive));
        assert_eq!((routed.routes, routed.matched), (Routes(archive), true));
    }

    #[test]
    fn an_event_is_of_the_highest_class_that_a_rule_says_and_normal_otherwise() {
        let of = |pattern: &str, class, destinations: &[&str]| Rule {
            class,
            ..rule(pattern, destinations)
        };
        // The one that says most sends nothing more than others do, and is asked all the same.
        let set = RuleSet::new(
            &[
                of(r#"{"device":[{"prefix":"b"}]}"#, None, &["lake"]),
                of(r#"{"device":["b7","b8"]}"#, Some(Class::Low), &["lake"]),
                of(r#"{"device":["b8"]}"#, Some(Class::Critical), &[]),
                of(r#"{"device":["b8"]}"#, Some(Class::High), &[]),
            ],
            id,
        )
        .unwrap();
        let mut scratch = set.scratch();
        let mut class = |device: &str| {
            let routed = set.route(&event(device, 1.0), Routes(7), &mut scratch);
            routed.unwrap().class
        };
        assert_eq!(class("b6"), Class::Normal);
        assert_eq!(class("b7"), Class::Low);
        assert_eq!(class("b8"), Class::Critical);
        assert_eq!(class("c1"), Class::Normal);
    }

    #[test]
    fn what_a_rule_has_more_to_do_for_is_for_the_actions_too_but_no_correction_is() {
        let mut acting = rule(r#"{"device":["b7"]}"#, &["lake"]);
        acting.destinations.clear();
        acting.actions.topic = Topic::parse("hot/{device}", false).ok();
        // Without anybody who does it, what it takes would be passed by.
        let refused = RuleSet::new(std::slice::from_ref(&acting), id);
        assert_eq!(&*refused.unwrap_err(), ACTIONS);
        let id = |name: &str| match name {
            ACTIONS => Some(DestinationId(5)),
            name => id(name),
        };
        let set = RuleSet::new(&[acting], id).unwrap();
        let (open, acted) = (Routes(0b10_0001), Routes(0b10_0001));
        let mut scratch = set.scratch();
        let mut routes = |event: &Event| set.route(event, open, &mut scratch).unwrap().routes;
        assert_eq!(routes(&event("b7", 1.0)), acted);
        assert_eq!(routes(&event("b8", 1.0)), Routes(1));
        let corrected = Event {
            corrected: Some(Timestamp::from_millis(5)),
            ..event("b7", 1.0)
        };
        assert_eq!(routes(&corrected), Routes(1));
    }

    /// In force from ten in the evening until six, in Berlin.
    fn at_night(rule: Rule) -> Rule {
        let window = crate::hours::Window {
            opens: crate::hours::Cron::parse("0 22 * * *").unwrap(),
            length: std::time::Duration::from_secs(8 * 3_600),
        };
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        Rule {
            schedule: Some(Arc::new(Schedule::new(vec![window], zone))),
            ..rule
        }
    }

    #[test]
    fn outside_its_schedule_a_rule_takes_nothing_and_what_it_names_stays_narrowed() {
        let set = RuleSet::new(
            &[
                at_night(rule(r#"{"device":["b7"]}"#, &["alarms"])),
                rule(r#"{"device":["b8"]}"#, &["lake"]),
            ],
            id,
        )
        .unwrap();
        let (lake, alarms, archive) = (1, 2, 4);
        let open = Routes(lake | alarms | archive);
        let mut scratch = set.scratch();
        for (received, to, matched) in [
            ("2026-03-01T20:59:59Z", archive, false),
            ("2026-03-01T21:00:00Z", archive | alarms, true),
            ("2026-03-02T04:59:59Z", archive | alarms, true),
            ("2026-03-02T05:00:00Z", archive, false),
            // Back in time, as after a clock that was set.
            ("2026-03-01T22:00:00Z", archive | alarms, true),
            // Nobody knows when that was: rather too much there than too little.
            ("1970-01-01T00:10:00Z", archive | alarms, true),
        ] {
            let event = Event {
                received: crate::admin::parse_instant(received).unwrap(),
                ..event("b7", 1.0)
            };
            let routed = set.route(&event, open, &mut scratch).unwrap();
            assert_eq!(
                (routed.routes.0, routed.matched),
                (to, matched),
                "{received}"
            );
            let mut took = Vec::new();
            set.each(&event, &mut scratch, |rule| took.push(rule))
                .unwrap();
            assert_eq!(!took.is_empty(), matched, "{received}");
        }
    }

    #[test]
    fn who_asks_rules_of_other_times_takes_no_answer_away_from_the_others() {
        let rules = [Rule {
            actions: Actions {
                topic: Topic::parse("hot", false).ok(),
                ..Actions::default()
            },
            ..at_night(rule(r#"{"device":["b7"]}"#, &[]))
        }];
        let id = |name: &str| (name == ACTIONS).then_some(DestinationId(5));
        // Of ingest, and of a backtest; what rules do is asked of both by itself.
        let [now, then] = [(); 2].map(|()| RuleSet::new(&rules, id).unwrap());
        let received = |at: &str| Event {
            received: crate::admin::parse_instant(at).unwrap(),
            ..event("b7", 1.0)
        };
        let [live, old, later] = [
            "2026-03-01T22:00:00Z",
            "2026-02-20T12:00:00Z",
            "2026-03-02T12:00:00Z",
        ]
        .map(received);
        let mut scratch = now.scratch();
        let before = crate::hours::looks();
        for _ in 0..10 {
            assert!(now.route(&live, Routes(1), &mut scratch).unwrap().matched);
            assert!(!then.route(&old, Routes(1), &mut scratch).unwrap().matched);
            assert_eq!(now.acts().of(&later, &mut scratch).0.len(), 0);
        }
        assert_eq!(crate::hours::looks() - before, 3);
    }

    #[test]
    fn what_a_rule_does_waits_for_a_clock_and_what_ends_ends_at_any_hour() {
        use crate::rules::{Role, action};
        let mut acting = at_night(rule(r#"{"values":{"temp":[{"numeric":[">",80]}]}}"#, &[]));
        acting.actions.alarm = Some(Arc::new(action::Alarm {
            severity: action::Severity::Info,
            text: None,
            clear: Pattern::parse(r#"{"values":{"temp":[{"numeric":["<",20]}]}}"#).ok(),
        }));
        let set = ActingSet::new(&[acting]);
        let mut scratch = Scratch::default();
        let mut roles = |received: &str, value| -> Vec<Role> {
            let event = Event {
                received: crate::admin::parse_instant(received).unwrap(),
                ..event("b7", value)
            };
            let (acting, done) = set.of(&event, &mut scratch);
            done.unwrap();
            acting.iter().map(|one| one.role).collect()
        };
        assert_eq!(roles("2026-03-01T22:00:00Z", 90.0), [Role::Takes]);
        assert_eq!(roles("2026-03-01T12:00:00Z", 90.0), []);
        assert_eq!(roles("1970-01-01T00:10:00Z", 90.0), []);
        assert_eq!(roles("2026-03-01T12:00:00Z", 10.0), [Role::Clears]);
        assert_eq!(roles("1970-01-01T00:10:00Z", 10.0), [Role::Clears]);
    }

    #[test]
    fn what_a_rule_does_not_take_at_this_hour_clears_where_it_says_so() {
        use crate::rules::{Role, action};
        let mut acting = at_night(rule(r#"{"device":["b7"]}"#, &[]));
        acting.actions.alarm = Some(Arc::new(action::Alarm {
            severity: action::Severity::Info,
            text: None,
            clear: Pattern::parse(r#"{"values":{"temp":[{"numeric":["<",20]}]}}"#).ok(),
        }));
        let set = ActingSet::new(&[acting]);
        for (received, role) in [
            ("2026-03-01T22:00:00Z", Role::Takes),
            ("2026-03-01T12:00:00Z", Role::Clears),
        ] {
            let event = Event {
                received: crate::admin::parse_instant(received).unwrap(),
                ..event("b7", 10.0)
            };
            let (acting, _) = set.of(&event, &mut Scratch::default());
            let roles: Vec<Role> = acting.iter().map(|one| one.role).collect();
            assert_eq!(roles, [role], "{received}");
        }
    }

    #[test]
    fn what_takes_too_many_comparisons_is_an_error_and_goes_nowhere() {
        // Fields of two arrays in turns: every element of one goes with every one of the other.
        let pattern = r#"{"values":{"a":{"x":[1],"y":{"v":[1],"w":[1]},"z":[1]}}}"#;
        let set = RuleSet::new(&[rule(pattern, &["lake"])], id).unwrap();
        let elements = |names: [&str; 2], count| {
            let member = |name: &str| (name.to_owned(), Value::Int(1));
            Value::Array(vec![Value::Map(names.map(member).into()); count])
        };
        let with = |count| {
            let mut event = event("b7", 1.0);
            let of = |name: &str, value| Measurement {
                name: name.into(),
                value,
                ..event.measurements[0].clone()
            };
            event.measurements = vec![
                of("a", elements(["x", "z"], count)),
                of("a.y", elements(["v", "w"], count)),
            ];
            event
        };
        let mut scratch = set.scratch();
        let routed = set.route(&with(100), Routes(1), &mut scratch).unwrap();
        assert_eq!(routed.routes, Routes(1));
        assert_eq!(
            set.route(&with(1_200), Routes(1), &mut scratch),
            Err(TooMuch)
        );
        assert!(
            set.route(&with(100), Routes(1), &mut scratch)
                .unwrap()
                .matched
        );
    }

    #[test]
    fn what_rules_may_cost_is_counted_over_all_events_of_a_message() {
        let pattern = r#"{"device":[{"suffix":"x"}]}"#;
        let rules: Vec<_> = (0..100).map(|_| rule(pattern, &["lake"])).collect();
        let set = RuleSet::new(&rules, id).unwrap();
        let mut scratch = set.scratch();
        scratch.set_message_max(2_000);
        let event = event("b7", 1.0);
        let route = |scratch: &mut Scratch| set.route(&event, Routes(1), scratch);
        let many = (0..20).map(|_| route(&mut scratch)).collect::<Vec<_>>();
        assert!(many[0].is_ok() && many[19] == Err(TooMuch), "{many:?}");
        scratch.begin_message();
        assert!(route(&mut scratch).is_ok());
    }

    #[test]
    fn a_destination_that_is_not_there_is_said() {
        let rules = [rule(r#"{"device":["b7"]}"#, &["lake", "sea"])];
        assert_eq!(&*RuleSet::new(&rules, id).unwrap_err(), "sea");
    }
}
