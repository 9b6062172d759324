//! Who may publish and subscribe to what.
//!
//! Rules are read in order and the first that speaks about a topic decides; where
//! none does the answer is no. A rule that allows publishing speaks about the
//! topics that its filters take. For subscriptions the question is about every
//! topic that the filter takes: a rule that allows speaks about a filter that it
//! covers as a whole, and a rule that denies about any that it has a topic in
//! common with. So a subscription never brings more than its rules allow; one
//! that is too wide is refused, not narrowed.
//!
//! `{client}`, `{user}` and `{device}` stand for what the client is. A value that
//! is empty, begins with `$`, or has `/`, `+`, `#` or a null character in it could mean other
//! topics than the rule's author saw: a rule that allows does not speak then, and
//! a rule that denies speaks about everything.
//!
//! Decides only; what a refusal means for the client is for the session.

mod contain;
mod written;

use std::{borrow::Cow, sync::Arc};

use crate::{
    QoS,
    topic::{check_filter, matches},
};
use contain::{covers, overlaps};

/// What stands for what in a filter, as it is written.
const PLACEHOLDERS: [(&str, Placeholder); 3] = [
    ("{client}", Placeholder::Client),
    ("{user}", Placeholder::User),
    ("{device}", Placeholder::Device),
];

/// What a client is called, for the placeholders of rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) client: &'a str,
    /// Authenticated; `None` for an anonymous client.
    pub(crate) user: Option<&'a str>,
    pub(crate) device: Option<&'a str>,
}

/// Rules in the order in which they are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

/// One rule: for whom, about what, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it allows; otherwise it denies.
    pub allow: bool,
    /// For clients that are not authenticated, instead of those that are.
    pub anonymous: bool,
    /// Only for these users; empty for all.
    pub users: Vec<Pattern>,
    /// Only for these client identifiers; empty for all.
    pub clients: Vec<Pattern>,
    /// The topics to publish to.
    pub publish: Vec<Filter>,
    /// The topics to subscribe to.
    pub subscribe: Vec<Filter>,
    /// The highest QoS that it allows: publishes above are refused, subscriptions
    /// above are granted this one.
    pub qos_max: QoS,
    /// Whether it allows messages that are to be retained.
    pub retain: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            allow: true,
            anonymous: false,
            users: Vec::new(),
            clients: Vec::new(),
            publish: Vec::new(),
            subscribe: Vec::new(),
            qos_max: QoS::ExactlyOnce,
            retain: true,
        }
    }
}

/// A name, or the beginning of names and `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Arc<str>,
    is_prefix: bool,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if text.is_empty() {
            return Err("a name has at least one character; \"*\" stands for all names");
        }
        if name.contains('*') {
            return Err("\"*\" may only be the last character, such as in \"plant-*\"");
        }
        Ok(Self {
            text: Arc::from(name),
            is_prefix,
        })
    }

    /// Whether it takes a name.
    pub fn takes(&self, name: &str) -> bool {
        if self.is_prefix {
            name.starts_with(&*self.text)
        } else {
            name == &*self.text
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Client,
    User,
    Device,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Name(Placeholder),
}

/// A topic filter with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Box<[Piece]>);

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            let found = PLACEHOLDERS
                .iter()
                .find_map(|(word, name)| Some((after.strip_prefix(word)?, *name)));
            let Some((after, name)) = found else {
                return Err("\"{\" begins {client}, {user} or {device}".to_owned());
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Name(name));
            plain.push_str(before);
            // Any name will do to check the filter with.
            plain.push('x');
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        plain.push_str(rest);
        if plain.starts_with("$share/") {
            return Err(
                "a shared subscription is checked by the filter behind $share/{group}/; write that one"
                    .to_owned(),
            );
        }
        if plain.contains('\0') {
            return Err("a topic has no null character".to_owned());
        }
        check_filter(&plain).map_err(|error| error.what.to_owned())?;
        Ok(Self(pieces.into()))
    }

    /// Whether a client that is not authenticated has what it stands for.
    pub fn needs_a_user(&self) -> bool {
        self.0
            .iter()
            .any(|piece| matches!(piece, Piece::Name(Placeholder::User | Placeholder::Device)))
    }

    /// With the names filled in; `None` where one cannot be used.
    fn fill<'f>(&'f self, names: &Names<'_>) -> Option<Cow<'f, str>> {
        if let [Piece::Text(text)] = &*self.0 {
            return Some(Cow::Borrowed(text));
        }
        let mut filled = String::new();
        for piece in &self.0 {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Name(name) => {
                    let value = match name {
                        Placeholder::Client => Some(names.client),
                        Placeholder::User => names.user,
                        Placeholder::Device => names.device,
                    }?;
                    let unfit = value.is_empty()
                        || value.starts_with('$')
                        || value.contains(['/', '+', '#', '\0']);
                    if unfit {
                        return None;
                    }
                    value
                }
            });
        }
        Some(Cow::Owned(filled))
    }
}

/// What a client may do on one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(crate) qos_max: QoS,
    pub(crate) retain: bool,
}

impl Permit {
    /// Everything.
    pub(crate) const ALL: Self = Self {
        qos_max: QoS::ExactlyOnce,
        retain: true,
    };
}

impl Rules {
    /// What the first rule that speaks about publishing to `topic` says; `None`
    /// where none does.
    pub(crate) fn publish(&self, names: &Names<'_>, topic: &str) -> Option<Result<Permit, Denied>> {
        self.first(names, |rule| {
            rule.speaks(&rule.publish, names, |filter| matches(topic, filter))
        })
    }

    /// What the first rule that speaks about subscribing to `filter` says; `None`
    /// where none does. `filter` is valid and not that of a shared subscription.
    pub(crate) fn subscribe(
        &self,
        names: &Names<'_>,
        filter: &str,
    ) -> Option<Result<Permit, Denied>> {
        self.first(names, |rule| {
            rule.speaks(&rule.subscribe, names, |permission| {
                if rule.allow {
                    covers(permission, filter)
                } else {
                    overlaps(permission, filter)
                }
            })
        })
    }

    fn first(
        &self,
        names: &Names<'_>,
        speaks: impl Fn(&Rule) -> bool,
    ) -> Option<Result<Permit, Denied>> {
        let rule = self
            .0
            .iter()
            .find(|rule| rule.is_for(names) && speaks(rule))?;
        Some(if rule.allow {
            Ok(Permit {
                qos_max: rule.qos_max,
                retain: rule.retain,
            })
        } else {
            Err(Denied)
        })
    }
}

/// A rule says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied;

impl Rule {
    fn is_for(&self, names: &Names<'_>) -> bool {
        let user = match (self.anonymous, names.user) {
            (true, None) => true,
            (false, Some(user)) => {
                self.users.is_empty() || self.users.iter().any(|one| one.takes(user))
            }
            _ => false,
        };
        let client =
            self.clients.is_empty() || self.clients.iter().any(|one| one.takes(names.client));
        user && client
    }

    fn speaks(&self, filters: &[Filter], names: &Names<'_>, about: impl Fn(&str) -> bool) -> bool {
        filters.iter().any(|filter| match filter.fill(names) {
            Some(filled) => about(&filled),
            None => !self.allow,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        texts
            .iter()
            .map(|text| Filter::parse(text).unwrap())
            .collect()
    }

    fn rule(allow: bool, publish: &[&str], subscribe: &[&str]) -> Rule {
        Rule {
            allow,
            publish: filters(publish),
            subscribe: filters(subscribe),
            ..Rule::default()
        }
    }

    fn names(name: &str) -> Names<'_> {
        Names {
            client: name,
            user: Some(name),
            device: Some(name),
        }
    }

    fn may_publish(rules: &Rules, name: &str, topic: &str) -> bool {
        matches!(rules.publish(&names(name), topic), Some(Ok(_)))
    }

    fn may_subscribe(rules: &Rules, name: &str, filter: &str) -> bool {
        matches!(rules.subscribe(&names(name), filter), Some(Ok(_)))
    }

    #[test]
    fn a_placeholder_stands_for_its_client_and_for_nobody_else() {
        let rules = Rules(vec![rule(
            true,
            &["devices/{user}/#"],
            &["commands/{client}/+", "x/pre-{device}-post"],
        )]);
        assert!(may_publish(&rules, "d1", "devices/d1/temperature"));
        assert!(!may_publish(&rules, "d1", "devices/d2/temperature"));
        assert!(may_subscribe(&rules, "d1", "commands/d1/reset"));
        assert!(may_subscribe(&rules, "d1", "commands/d1/+"));
        assert!(!may_subscribe(&rules, "d1", "commands/d1/#"));
        assert!(!may_subscribe(&rules, "d1", "commands/+/reset"));
        assert!(!may_subscribe(&rules, "d1", "#"));
        assert!(may_subscribe(&rules, "d1", "x/pre-d1-post"));
    }

    #[test]
    fn a_name_cannot_inject_topics() {
        let rules = Rules(vec![rule(
            true,
            &["devices/{client}/#", "{client}/up"],
            &["devices/{client}/#", "{client}/#"],
        )]);
        for name in ["", "+", "#", "a/b", "a/#", "+/x", "$SYS", "a\0"] {
            assert!(
                !may_publish(&rules, name, &format!("devices/{name}/x")),
                "{name:?}"
            );
            assert!(!may_publish(&rules, name, "devices/other/x"), "{name:?}");
            assert!(!may_subscribe(&rules, name, "devices/other/x"), "{name:?}");
            assert!(!may_subscribe(&rules, name, "$SYS/#"), "{name:?}");
            assert!(!may_subscribe(&rules, name, "devices/+/#"), "{name:?}");
        }
    }

    #[test]
    fn a_name_cannot_escape_a_denial() {
        let rules = Rules(vec![
            rule(false, &["blocked/{client}/#"], &[]),
            rule(true, &["#"], &[]),
        ]);
        assert!(!may_publish(&rules, "d1", "blocked/d1/x"));
        assert!(may_publish(&rules, "d1", "blocked/d2/x"));
        assert!(!may_publish(&rules, "a/b", "blocked/a/b/x"));
    }

    #[test]
    fn the_first_rule_that_speaks_decides() {
        let rules = Rules(vec![
            rule(true, &["a/public"], &["a/public"]),
            rule(false, &["a/#"], &["a/#"]),
            rule(true, &["#"], &["#"]),
        ]);
        assert!(may_publish(&rules, "x", "a/public"));
        assert!(!may_publish(&rules, "x", "a/secret"));
        assert!(may_publish(&rules, "x", "b"));
        assert!(may_subscribe(&rules, "x", "a/public"));
        assert!(may_subscribe(&rules, "x", "b/#"));
        // Part of what it would bring is denied.
        assert!(!may_subscribe(&rules, "x", "#"));
        assert!(!may_subscribe(&rules, "x", "+/secret"));
    }

    #[test]
    fn what_no_rule_speaks_about_is_not_allowed() {
        let none = Rules::default();
        assert_eq!(none.publish(&names("x"), "a"), None);
        assert_eq!(none.subscribe(&names("x"), "a"), None);
        let all = Rules(vec![rule(true, &["#"], &["#"])]);
        assert!(!may_publish(&all, "x", "$other/a"));
        assert!(!may_subscribe(&all, "x", "$SYS/#"));
        assert!(!may_subscribe(&all, "x", "$penstock/events/#"));
    }

    #[test]
    fn rules_are_for_whom_they_name() {
        let mut one = rule(true, &["#"], &[]);
        one.users = vec![Pattern::parse("plant-*").unwrap()];
        one.clients = vec![Pattern::parse("plant-1").unwrap()];
        let mut nobody = rule(true, &["open"], &[]);
        nobody.anonymous = true;
        let rules = Rules(vec![one, nobody]);
        assert!(may_publish(&rules, "plant-1", "x"));
        assert!(!may_publish(&rules, "plant-2", "x"));
        assert!(!may_publish(&rules, "plant-2", "open"));
        let anonymous = Names {
            client: "plant-1",
            user: None,
            device: None,
        };
        assert_eq!(rules.publish(&anonymous, "x"), None);
        assert_eq!(rules.publish(&anonymous, "open"), Some(Ok(Permit::ALL)));
    }

    #[test]
    fn filters_that_cannot_be_right_are_refused() {
        for bad in [
            "",
            "a/{x}",
            "a/{client",
            "a}",
            "a/{client}+",
            "a/#/b",
            "$share/g/a",
            "a\0",
        ] {
            assert!(Filter::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a*b", "**"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Pattern::parse("*").unwrap().takes("anyone"));
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("a"),
            Just("b"),
            Just("{user}"),
            Just("+"),
            Just("#"),
            Just("$s")
        ]
    }

    fn any_filter() -> impl Strategy<Value = String> {
        proptest::collection::vec(level(), 1..=3)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a filter", |text| Filter::parse(text).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever the rules: a subscription that is allowed brings no topic that
        /// the same rules would not allow to be subscribed to by itself.
        #[test]
        fn a_subscription_never_brings_more_than_its_rules_allow(
            rules in proptest::collection::vec((any::<bool>(), any_filter()), 0..5),
            wanted in any_filter(),
            topic in proptest::collection::vec(
                prop_oneof![Just("a"), Just("b"), Just("d1"), Just("$s"), Just("other")], 1..=4,
            ),
        ) {
            let rules = Rules(
                rules.iter().map(|(allow, filter)| rule(*allow, &[], &[filter])).collect(),
            );
            let wanted = wanted.replace("{user}", "d1");
            let topic = topic.join("/");
            if may_subscribe(&rules, "d1", &wanted) && matches(&topic, &wanted) {
                prop_assert!(may_subscribe(&rules, "d1", &topic), "{} brings {}", wanted, topic);
            }
        }
    }
}
