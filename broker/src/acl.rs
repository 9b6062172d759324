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

    /// Whether it is about the client identifier.
    pub fn names_client(&self) -> bool {
        let is_client = |piece: &Piece| matches!(piece, Piece::Name(Placeholder::Client));
        self.0.iter().any(is_client)
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
mod tests;
