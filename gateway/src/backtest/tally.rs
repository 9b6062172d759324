//! What is counted of one rule.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    event::{Event, Timestamp, json},
    record::Record,
};

/// Events of each kind that are shown: the latest.
const EXAMPLES_MAX: usize = 5;
/// An hour of the clock.
const HOUR_NANOS: i64 = 3_600_000_000_000;

/// What one rule takes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = BacktestRule)]
pub struct Tally {
    /// Its name.
    #[schema(value_type = String)]
    pub rule: Arc<str>,
    /// Events that it takes; as it would be after the change, where there is one.
    pub takes: u64,
    /// Events that the rule in force of the same name takes, where the change replaces one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<u64>,
    /// Events that only the change takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gained: Option<u64>,
    /// Events that only the rule in force takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Of those that it takes: by device.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub devices: BTreeMap<Arc<str>, u64>,
    /// Of those that it takes: of devices that had no more room to be told apart.
    pub other_devices: u64,
    /// Of those that it takes: by the hour in which they were received, in UTC.
    pub hours: BTreeMap<String, u64>,
    /// Of those that it takes: of hours that had no more room, or are not known because
    /// the gateway's clock was not set.
    pub other_hours: u64,
    /// The latest of each kind.
    #[schema(value_type = Vec<Example>)]
    pub examples: VecDeque<Example>,
    #[serde(skip)]
    #[schema(ignore)]
    latest_hour: Option<(i64, String)>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BacktestExample)]
pub struct Example {
    /// `taken`, or, where a change replaces a rule, `gained`, `lost` or `both`.
    pub kind: &'static str,
    /// Where it lies: `penstock rules explain --position` says why.
    pub position: u64,
    /// Its device.
    #[schema(value_type = String)]
    pub device: Arc<str>,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind_of_event: Arc<str>,
}

/// Room for what is counted one by one, shared by all rules.
#[derive(Debug)]
pub(super) struct Room {
    cells: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Room {
    pub(super) const fn new(cells: usize) -> Self {
        Self {
            cells,
            first: None,
            last: None,
        }
    }

    /// Whether there is room for one more, which it takes then.
    const fn take(&mut self) -> bool {
        let has = self.cells > 0;
        self.cells = self.cells.saturating_sub(1);
        has
    }

    /// An event was received then.
    pub(super) fn saw(&mut self, at: Timestamp) {
        if !at.is_unset() {
            self.first = Some(self.first.map_or(at, |first| first.min(at)));
            self.last = Some(self.last.map_or(at, |last| last.max(at)));
        }
    }

    /// When the first event was received, and the last.
    pub(super) const fn seen(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.first, self.last)
    }
}

impl Tally {
    /// Of a rule; `compared` with the one in force of the same name.
    pub(super) fn new(rule: Arc<str>, compared: bool) -> Self {
        let count = compared.then_some(0);
        Self {
            rule,
            takes: 0,
            in_force: count,
            gained: count,
            lost: count,
            devices: BTreeMap::new(),
            other_devices: 0,
            hours: BTreeMap::new(),
            other_hours: 0,
            examples: VecDeque::new(),
            latest_hour: None,
        }
    }

    /// An event that the rule takes: before the change, and after it.
    pub(super) fn take(
        &mut self,
        record: &Record,
        event: &Event,
        [before, after]: [bool; 2],
        room: &mut Room,
    ) {
        let kind = match (self.in_force.is_some(), before, after) {
            (true, true, true) => "both",
            (true, true, false) => "lost",
            (true, false, _) => "gained",
            (false, ..) => "taken",
        };
        for (count, is_one) in [
            (&mut self.in_force, before),
            (&mut self.gained, after && !before),
            (&mut self.lost, before && !after),
        ] {
            if let Some(count) = count {
                *count += u64::from(is_one);
            }
        }
        self.show(record, event, kind);
        if !after {
            return;
        }
        self.takes += 1;
        if let Some(count) = self.devices.get_mut(&event.device) {
            *count += 1;
        } else if room.take() {
            self.devices.insert(event.device.clone(), 1);
        } else {
            self.other_devices += 1;
        }
        let Some(hour) = self.hour(record.received) else {
            self.other_hours += 1;
            return;
        };
        if let Some(count) = self.hours.get_mut(&hour) {
            *count += 1;
        } else if room.take() {
            self.hours.insert(hour, 1);
        } else {
            self.other_hours += 1;
        }
    }

    /// The hour of an instant, as text that sorts by time.
    fn hour(&mut self, at: Timestamp) -> Option<String> {
        if at.is_unset() {
            return None;
        }
        let number = at.as_nanos().div_euclid(HOUR_NANOS);
        if let Some((known, text)) = &self.latest_hour
            && *known == number
        {
            return Some(text.clone());
        }
        let mut text = Vec::new();
        json::time(Timestamp::from_nanos(number * HOUR_NANOS), &mut text);
        let text = String::from_utf8_lossy(&text).trim_matches('"').to_owned();
        self.latest_hour = Some((number, text.clone()));
        Some(text)
    }

    fn show(&mut self, record: &Record, event: &Event, kind: &'static str) {
        let of_kind = |one: &Example| one.kind == kind;
        if self.examples.iter().filter(|one| of_kind(one)).count() >= EXAMPLES_MAX
            && let Some(oldest) = self.examples.iter().position(of_kind)
        {
            self.examples.remove(oldest);
        }
        self.examples.push_back(Example {
            kind,
            position: record.position.0,
            device: event.device.clone(),
            kind_of_event: event.kind.clone(),
        });
    }
}
