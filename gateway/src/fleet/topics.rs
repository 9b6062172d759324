//! The topics of commands, replies and shadows.
//!
//! Commands are published on a template with `{device}` as one level; the reply to one on
//! `{that topic}/{id of the command}/reply`. What a device should be is on
//! `{another template}/desired`, and what it says that it is on `.../reported`. A name is
//! one level whatever is in it: what would end a level is written as `%XX`.

use std::sync::Arc;

use crate::event::message::escape;

const DEVICE: &str = "{device}";
const REPLY: &str = "/reply";
const DESIRED: &str = "/desired";
const REPORTED: &str = "/reported";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    commands: Template,
    shadows: Template,
    orders: Option<Template>,
}

/// A topic for each device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    before: Arc<str>,
    after: Arc<str>,
}

/// What is wrong with a template, if something is.
pub(crate) fn objection(template: &str) -> Option<&'static str> {
    let levels: Vec<&str> = template.split('/').collect();
    let is_fine = levels.iter().filter(|level| **level == DEVICE).count() == 1
        && template.matches('{').count() == 1
        && !template.contains(['+', '#', '\0'])
        && !template.starts_with('$')
        && template.len() <= 1_024;
    (!is_fine).then_some(
        "the topic has {device} as one of its levels, as \"devices/{device}/commands\" \
         has, neither + nor #, and does not begin with $",
    )
}

impl Topics {
    /// From templates with which nothing is wrong.
    pub fn new(commands: &str, shadows: &str, orders: Option<&str>) -> Self {
        Self {
            commands: Template::new(commands),
            shadows: Template::new(shadows),
            orders: orders.map(Template::new),
        }
    }

    /// Where a command for a device may be placed, if it may anywhere.
    pub fn order(&self, device: &str) -> Option<String> {
        Some(self.orders.as_ref()?.of(device))
    }

    /// The device that is to do what comes on a topic.
    pub fn ordered(&self, topic: &str) -> Option<String> {
        self.orders.as_ref()?.device(topic)
    }

    /// Where a device hears its commands.
    pub fn commands(&self, device: &str) -> String {
        self.commands.of(device)
    }

    /// Where it answers one of them.
    pub fn reply(&self, device: &str, command: &str) -> String {
        format!("{}/{command}{REPLY}", self.commands.of(device))
    }

    /// The device and the command that a topic is a reply to.
    pub fn replied(&self, topic: &str) -> Option<(String, String)> {
        let (rest, command) = topic.strip_suffix(REPLY)?.rsplit_once('/')?;
        let device = self.commands.device(rest)?;
        (!command.is_empty()).then(|| (device, command.to_owned()))
    }

    /// Where a device hears what it should be.
    pub fn desired(&self, device: &str) -> String {
        self.shadows.of(device) + DESIRED
    }

    /// Where it says what it is.
    pub fn reported(&self, device: &str) -> String {
        self.shadows.of(device) + REPORTED
    }

    /// The device that says on a topic what it is.
    pub fn reporting(&self, topic: &str) -> Option<String> {
        self.shadows.device(topic.strip_suffix(REPORTED)?)
    }
}

impl Template {
    fn new(template: &str) -> Self {
        let (before, after) = template.split_once(DEVICE).unwrap_or((template, ""));
        Self {
            before: before.into(),
            after: after.into(),
        }
    }

    fn of(&self, device: &str) -> String {
        let mut topic = String::with_capacity(64);
        topic.push_str(&self.before);
        escape(device, &mut topic);
        topic.push_str(&self.after);
        topic
    }

    /// The device whose topic it is.
    fn device(&self, topic: &str) -> Option<String> {
        unescape(
            topic
                .strip_prefix(&*self.before)?
                .strip_suffix(&*self.after)?,
        )
    }
}

/// The name that is written so; `None` where none is.
fn unescape(level: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(level.len());
    let mut rest = level.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, others) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = others;
    }
    let name = String::from_utf8(bytes).ok()?;
    let mut again = String::with_capacity(level.len());
    escape(&name, &mut again);
    (again == level && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_has_the_device_as_a_level() {
        for (template, fine) in [
            ("devices/{device}/commands", true),
            ("{device}", true),
            ("a/{device}", true),
            ("devices/commands", false),
            ("devices/x{device}/commands", false),
            ("{device}/{device}", false),
            ("{site}/{device}", false),
            ("devices/{device}/#", false),
            ("+/{device}", false),
            ("$SYS/{device}", false),
        ] {
            assert_eq!(objection(template).is_none(), fine, "{template}");
        }
    }

    #[test]
    fn what_is_no_reply_is_not_taken_for_one() {
        let topics = Topics::new("devices/{device}/commands", "devices/{device}/shadow", None);
        for (topic, expect) in [
            ("devices/a/commands/1/reply", Some(("a", "1"))),
            ("devices/a%2Fb/commands/1/reply", Some(("a/b", "1"))),
            ("devices/a%2fb/commands/1/reply", None),
            ("devices/a/b/commands/1/reply", None),
            ("devices/a%4/commands/1/reply", None),
            ("devices//commands/1/reply", None),
            ("devices/a/commands/reply", None),
            ("devices/a/commands//reply", None),
            ("devices/a/commands/1", None),
            ("devices/a/telemetry", None),
        ] {
            let found = topics.replied(topic);
            let found = found.as_ref().map(|(device, id)| (&**device, &**id));
            assert_eq!(found, expect, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn every_device_has_topics_of_its_own(
            device in "[a-c/%+#$ü_]{1,6}", other in "[a-c/%+#$ü_]{1,6}",
            template in prop::sample::select(vec!["devices/{device}/commands", "{device}", "{device}/c", "c/{device}"]),
        ) {
            let topics = Topics::new(template, template, Some(template));
            let reply = topics.reply(&device, "0190");
            prop_assert_eq!(topics.replied(&reply), Some((device.clone(), "0190".to_owned())));
            prop_assert_eq!(topics.reporting(&topics.reported(&device)), Some(device.clone()));
            prop_assert_eq!(topics.ordered(&topics.commands(&device)), Some(device.clone()));
            prop_assert_eq!(topics.commands(&device) == topics.commands(&other), device == other);
        }
    }
}
