//! What the events of a device come to, for one rule: pure state. Time arrives as an
//! argument.
//!
//! A window has twenty parts, and goes on by one of them at a time: it covers the last
//! nineteen to twenty twentieths of `over`, by the times at which events were received.
//! So it takes the same room however many events there are.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Key, Timestamp, Value},
    rules::action::{Bounds, Measure, Window},
};

/// Parts of a window.
const PARTS: i64 = 20;

/// What turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It holds from now on.
    Began,
    /// It does not hold any more.
    Ended,
}

/// When to look at a window although no event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// At this time.
    At(Timestamp),
    /// When so many milliseconds were listened.
    Listened(i64),
}

/// The state of a window.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Of what window: another one begins anew.
    #[serde(rename = "w")]
    of: [u8; 8],
    /// Where the device is.
    #[serde(rename = "s")]
    pub(super) site: Option<Arc<str>>,
    /// Whether it holds.
    #[serde(rename = "h")]
    holds: bool,
    /// When the first event came, and the last.
    #[serde(rename = "f")]
    first: i64,
    #[serde(rename = "l")]
    last: i64,
    /// Milliseconds listened at the last event.
    #[serde(rename = "m")]
    listened: i64,
    #[serde(rename = "p")]
    parts: Vec<Part>,
    /// How often it turned.
    #[serde(rename = "t", default)]
    turns: u64,
    /// It holds, and the rule's throttle held back what there is to do.
    #[serde(rename = "q", default)]
    pub(super) quiet: bool,
    /// When it was looked at.
    #[serde(skip)]
    looked: i64,
    /// It would hold by now, and may not begin.
    #[serde(skip)]
    pub(super) waits: bool,
}

/// What came within a part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Part {
    #[serde(rename = "n")]
    number: i64,
    #[serde(rename = "c")]
    count: u64,
    #[serde(rename = "s")]
    sum: f64,
    #[serde(rename = "a")]
    min: f64,
    #[serde(rename = "z")]
    max: f64,
}

impl State {
    /// The state for a window; what is known of another one under the same name counts
    /// for nothing, but for whether that held.
    pub(super) fn of(known: Option<Self>, window: &Window) -> Self {
        let mut of = [0; 8];
        let text = format!("{window:?}");
        of.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
        match known {
            Some(known) if known.of == of => known,
            other => Self {
                of,
                holds: other.as_ref().is_some_and(|other| other.holds),
                quiet: other.is_some_and(|other| other.quiet),
                ..Self::default()
            },
        }
    }

    /// Milliseconds that were listened when the last event came: grows with each.
    pub(super) const fn heard(&self) -> i64 {
        self.listened
    }

    /// Takes an event; `listened` milliseconds were listened until now. It begins to hold
    /// only where it `may_begin`.
    pub(super) fn take(
        &mut self,
        window: &Window,
        event: &Event,
        listened: i64,
        may_begin: bool,
    ) -> Option<Turn> {
        let at = self.now(window, event.received);
        if self.first == 0 {
            self.first = at;
        }
        self.last = at;
        self.listened = listened;
        self.site.clone_from(&event.site);
        if let Window::Over { over, what, .. } = window {
            let width = width(*over);
            match what {
                Measure::Count | Measure::Rate => self.add(at.div_euclid(width), 0.0),
                Measure::Min(name) | Measure::Max(name) | Measure::Mean(name) => {
                    let of = event.measurements.iter().filter(|one| one.name == *name);
                    let numbers: Vec<f64> = of.filter_map(|one| number(&one.value)).collect();
                    for number in numbers {
                        self.add(at.div_euclid(width), number);
                    }
                }
            }
        }
        self.turn(window, at, listened, may_begin)
    }

    /// Looks at it at a time without an event.
    pub(super) fn look(
        &mut self,
        window: &Window,
        now: Timestamp,
        listened: i64,
        may_begin: bool,
    ) -> Option<Turn> {
        let at = self.now(window, now);
        if self.first == 0 {
            // Of another window under this name: nothing is known from before.
            (self.first, self.last, self.listened) = (at, at, listened);
        }
        self.turn(window, at, listened, may_begin)
    }

    /// What it comes to; `None` where there is nothing to say it of.
    pub(super) fn value(&self, window: &Window) -> Option<f64> {
        let Window::Over { over, what, .. } = window else {
            return None;
        };
        let count: u64 = self.parts.iter().map(|part| part.count).sum();
        match what {
            Measure::Count => Some(float(count)),
            Measure::Rate => Some(float(count) / over.as_secs_f64()),
            _ if count == 0 => None,
            Measure::Min(_) => self.parts.iter().map(|part| part.min).reduce(f64::min),
            Measure::Max(_) => self.parts.iter().map(|part| part.max).reduce(f64::max),
            Measure::Mean(_) => {
                let sum: f64 = self.parts.iter().map(|part| part.sum).sum();
                Some(sum / float(count))
            }
        }
    }

    /// What tells its last turn from all others: no time by which it was looked at.
    pub(super) fn turn_key(&self, device: &str) -> Key {
        let mut hasher = blake3::Hasher::new();
        for number in [self.first, self.last, self.listened] {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(&self.turns.to_be_bytes());
        hasher.update(device.as_bytes());
        let mut key = Key([0; 16]);
        key.0.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    }

    /// Whether there is anything to remember.
    pub(super) fn is_idle(&self, window: &Window) -> bool {
        match window {
            Window::Absent(_) => false,
            Window::Over { what, bounds, .. } => {
                self.parts.is_empty() && !self.holds && !is_low(what, bounds)
            }
        }
    }

    /// When it may turn although no event comes.
    pub(super) fn due(&self, window: &Window) -> Option<Due> {
        match window {
            // One that may not begin yet is looked at when it may.
            Window::Absent(_) if self.holds || self.waits => None,
            Window::Absent(absent) => {
                Some(Due::Listened(self.listened.saturating_add(millis(*absent))))
            }
            Window::Over {
                over, what, bounds, ..
            } => {
                let width = width(*over);
                let counts = matches!(what, Measure::Count | Measure::Rate);
                let low = is_low(what, bounds);
                // What leaves makes a count only less.
                let leaves = (self.holds || low || !counts || bounds.upper.is_some())
                    .then(|| self.parts.first())
                    .flatten()
                    .map(|part| (part.number + PARTS).saturating_mul(width));
                let known = (low && !self.holds)
                    .then(|| self.first.saturating_add(nanos(*over)))
                    .filter(|at| *at > self.looked);
                let at = leaves.into_iter().chain(known).min();
                at.map(|at| Due::At(Timestamp::from_nanos(at)))
            }
        }
    }

    /// Time for this window: back by no more than a part, which counts as standing still,
    /// and anew where the clock was set, lost or put back.
    fn now(&mut self, window: &Window, at: Timestamp) -> i64 {
        let unset = |nanos| Timestamp::from_nanos(nanos).is_unset();
        let part = match window {
            Window::Absent(_) => i64::MAX,
            Window::Over { over, .. } => width(*over),
        };
        let is_back = self.last.saturating_sub(at.as_nanos()) > part;
        if self.first != 0 && (is_back || unset(self.last) != at.is_unset()) {
            self.parts.clear();
            self.first = at.as_nanos();
            self.last = at.as_nanos();
        }
        at.as_nanos().max(self.last)
    }

    fn add(&mut self, number: i64, value: f64) {
        match self.parts.last_mut() {
            Some(part) if part.number == number => {
                part.count += 1;
                part.sum += value;
                part.min = part.min.min(value);
                part.max = part.max.max(value);
            }
            _ => self.parts.push(Part {
                number,
                count: 1,
                sum: value,
                min: value,
                max: value,
            }),
        }
    }

    fn turn(&mut self, window: &Window, at: i64, listened: i64, may_begin: bool) -> Option<Turn> {
        self.looked = at;
        let holds = match window {
            Window::Absent(absent) => listened.saturating_sub(self.listened) >= millis(*absent),
            Window::Over {
                over,
                what,
                bounds,
                samples_min,
            } => {
                let oldest = at.div_euclid(width(*over)) - PARTS;
                self.parts.retain(|part| part.number > oldest);
                let count: u64 = self.parts.iter().map(|part| part.count).sum();
                let known = at.saturating_sub(self.first) >= nanos(*over);
                let value = self.value(window);
                value.is_some_and(|value| bounds.contains(value))
                    && (known || !is_low(what, bounds))
                    && (count >= *samples_min || matches!(what, Measure::Count | Measure::Rate))
            }
        };
        self.waits = holds && !self.holds && !may_begin;
        let holds = holds && !self.waits;
        let before = std::mem::replace(&mut self.holds, holds);
        self.turns += u64::from(before != holds);
        match (before, holds) {
            (false, true) => Some(Turn::Began),
            (true, false) => Some(Turn::Ended),
            _ => None,
        }
    }
}

/// Whether it would hold of a device that sends nothing: then it has to be known for as
/// long as the window is.
fn is_low(what: &Measure, bounds: &Bounds) -> bool {
    matches!(what, Measure::Count | Measure::Rate) && bounds.contains(0.0)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        #[expect(clippy::cast_precision_loss, reason = "compared as doubles")]
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(float(*n)),
        Value::Float(x) => x.is_finite().then_some(*x),
        _ => None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count needs no more than 53 bits"
)]
const fn float(count: u64) -> f64 {
    count as f64
}

fn nanos(of: Duration) -> i64 {
    i64::try_from(of.as_nanos()).unwrap_or(i64::MAX)
}

fn millis(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX)
}

fn width(over: Duration) -> i64 {
    (nanos(over) / PARTS).max(1)
}
