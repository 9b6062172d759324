//! What a rule does beside sending to destinations: plain data, decided by nobody here.

use std::{sync::Arc, time::Duration};

use super::{
    Pattern,
    transform::{TooLong, Transform},
};
use crate::event::{Event, template::Template};

/// What a rule does beside sending what it takes to its destinations. All of it happens
/// after the commit, in the order of the journal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// Rules with more act first on an event; those with as much, by their names.
    pub priority: i32,
    /// A message to local subscribers.
    pub topic: Option<Topic>,
    /// What such a message has in it instead of the event.
    pub transform: Option<Arc<Transform>>,
    /// An alarm of the device.
    pub alarm: Option<Arc<Alarm>>,
    /// A command to a device.
    pub command: Option<Arc<Command>>,
    /// Not each event counts, but what many of a device come to.
    pub window: Option<Arc<Window>>,
    /// How often all this is done for one device.
    pub throttle: Option<Throttle>,
}

/// How often a rule does something for one device, at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// So many times,
    pub times: u32,
    /// in so long.
    pub per: Duration,
    /// As it is written.
    pub text: Arc<str>,
}

/// What the events of a device that a rule takes have to come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Window {
    /// None of them for so long.
    Absent(Duration),
    /// Something of those of the last while.
    Over {
        /// How long that is.
        over: Duration,
        /// What.
        what: Measure,
        /// Within these bounds.
        bounds: Bounds,
        /// Of at least so many events.
        samples_min: u64,
    },
}

/// What events come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// How many there are.
    Count,
    /// How many there are in a second.
    Rate,
    /// The least value of a measurement.
    Min(Arc<str>),
    /// The greatest.
    Max(Arc<str>),
    /// The mean.
    Mean(Arc<str>),
}

/// Between what a number has to be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds {
    /// At least this, or more than this where it is not itself within.
    pub lower: Option<(f64, bool)>,
    /// At most this, or less than this.
    pub upper: Option<(f64, bool)>,
}

impl Bounds {
    /// Whether a number is between them.
    pub fn contains(&self, number: f64) -> bool {
        let above = |(bound, within): (f64, bool)| number > bound || within && number >= bound;
        let below = |(bound, within): (f64, bool)| number < bound || within && number <= bound;
        self.lower.is_none_or(above) && self.upper.is_none_or(below)
    }

    /// Reads bounds such as `"> 80"` or `">= 10, < 20"`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXAMPLE: &str = "bounds are written as \"> 80\", or \">= 10, < 20\"";
        let mut bounds = Self::default();
        for part in text.split(',') {
            let part = part.trim();
            let operators = [(">=", true), ("<=", true), (">", false), ("<", false)];
            let mut found = operators.iter();
            let found = found.find_map(|(operator, within)| {
                Some((operator, *within, part.strip_prefix(operator)?))
            });
            let (operator, within, number) = found.ok_or(EXAMPLE)?;
            let number: f64 = number.trim().parse().map_err(|_| EXAMPLE)?;
            if !number.is_finite() {
                return Err(EXAMPLE);
            }
            let bound = match operator.starts_with('>') {
                true => &mut bounds.lower,
                false => &mut bounds.upper,
            };
            if bound.replace((number, within)).is_some() {
                return Err("there is one lower bound, and one upper one");
            }
        }
        if let (Some((lower, _)), Some((upper, _))) = (bounds.lower, bounds.upper)
            && lower >= upper
        {
            return Err("no number is within these bounds");
        }
        Ok(bounds)
    }
}

/// An alarm of a device, raised by what the rule takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// How bad it is.
    pub severity: Severity,
    /// What is said of it.
    pub text: Option<Transform>,
    /// What clears it; without it a person does.
    pub clear: Option<Pattern>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// To be looked at.
    Warning,
    /// To be looked at now.
    Critical,
}

impl Severity {
    /// The words used everywhere.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("info", Self::Info),
        ("warning", Self::Warning),
        ("critical", Self::Critical),
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize].0
    }
}

/// A command to a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// To whom; without it the event's own device.
    pub device: Option<Addressee>,
    /// What is to be done, in a word.
    pub name: Option<Transform>,
    /// The rest of it, as JSON; without it `null`.
    pub payload: Option<Transform>,
    /// At which QoS it is delivered.
    pub qos: u8,
    /// How long after its event was received it is to be done; without it as long as
    /// commands have by default.
    pub deadline: Option<Duration>,
}

/// How a device is told from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee(Named);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    /// With `{site}`, `{device}` and `{type}`.
    Template(Template),
    /// With places for what stands in the event.
    Transform(Transform),
}

impl Addressee {
    /// Reads `valve-{device}`, or `<valve>` with a path of that name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse<'t>(
        paths: impl IntoIterator<Item = (&'t str, &'t str)>,
        text: &str,
    ) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a device has a name; leave the key away for the event's own".to_owned());
        }
        let transform = Transform::text(paths, text).map_err(|error| error.to_string())?;
        if !text.contains('{') {
            return Ok(Self(Named::Transform(transform)));
        }
        if transform.has_places() {
            return Err("has places of both kinds; write {device} or <name>".to_owned());
        }
        Ok(Self(Named::Template(Template::parse(text)?)))
    }

    /// The device for an event that a rule takes.
    ///
    /// # Errors
    /// When its name would be far too long.
    pub fn of(&self, rule: &str, event: &Event) -> Result<String, TooLong> {
        match &self.0 {
            Named::Template(template) => Ok(template.fill(&event.attributes(), |name, text| {
                text.push_str(name);
            })),
            Named::Transform(transform) => transform.apply(rule, event),
        }
    }
}

/// A message to local subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Where, with `{site}`, `{device}` and `{type}`.
    pub(crate) name: Template,
    /// Whether the broker keeps the last one for those who subscribe later.
    pub retain: bool,
}

impl Topic {
    /// Reads where a message goes.
    ///
    /// # Errors
    /// What is wrong with it as the topic of a message.
    pub fn parse(text: &str, retain: bool) -> Result<Self, &'static str> {
        let name = Template::parse(text)?;
        let illegal = |c: char| c.is_control() || "+#}".contains(c);
        if name.is_empty() {
            return Err("a topic is not empty");
        }
        if name.texts().any(|text| text.contains(illegal)) {
            return Err("has characters that a topic to publish on cannot have");
        }
        if text.starts_with('$') {
            return Err("topics that begin with \"$\" are the gateway's own");
        }
        Ok(Self { name, retain })
    }
}

impl Actions {
    /// What is to be taken too, because it ends what the rule began.
    pub fn clears(&self) -> Option<&Pattern> {
        self.alarm.as_ref()?.clear.as_ref()
    }

    /// Whether there is anything to do.
    pub const fn any(&self) -> bool {
        self.topic.is_some()
            || self.alarm.is_some()
            || self.command.is_some()
            || self.window.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_or_said_to_be_wrong() {
        let within = |text: &str, number| Bounds::parse(text).unwrap().contains(number);
        assert!(within("> 80", 80.1) && !within("> 80", 80.0) && within(">= 80", 80.0));
        assert!(within(">=10,<20", 10.0) && !within(">= 10, < 20", 20.0));
        assert!(within("<= -1.5", -1.5) && !within("< -1.5", -1.5));
        for wrong in ["", "80", "> x", "> 1, > 2", "> 2, < 1", "> inf", "=> 1"] {
            assert!(Bounds::parse(wrong).is_err(), "{wrong}");
        }
    }
}
