//! What the times of events say of their devices' clocks, and what is odd about them.
//!
//! Promises: nothing is refused for its time here; marks are only said. Memory is bounded,
//! however many devices and topics there are: who was not heard of for the longest time is
//! forgotten first. Kept in memory only, so after a restart, or after it was forgotten, a
//! device's next event begins anew and is not out of order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use crate::{
    clock::Booted,
    event::{BOOT_TAG, Event, Marks, TimeSource, Timestamp, UPTIME_TAG},
};

/// Devices in one generation; there are two.
const DEVICES_MAX: usize = 4 * 1024;
/// Topics of one device whose last time is known.
const TOPICS_MAX: usize = 4;
/// Events from which a device's offset is estimated: those of two rounds.
const ROUND: u32 = 32;

/// Watches the times of events.
#[derive(Debug)]
pub(super) struct Timing {
    late_after: Duration,
    seen: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Arc<str>, Watch>,
    old: HashMap<Arc<str>, Watch>,
}

/// What is known of one device.
#[derive(Debug, Default)]
struct Watch {
    /// How far its clock was ahead at most, in this round and in the one before: what
    /// comes with the least delay tells the most about a clock.
    rounds: [Option<i64>; 2],
    in_round: u32,
    events: u64,
    late: u64,
    out_of_order: u64,
    implausible: u64,
    /// The last time on some topics, those heard of lately first.
    topics: Vec<(Arc<str>, Timestamp)>,
}

/// What a device's clock looks like from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceClock {
    /// The device.
    pub device: Arc<str>,
    /// By how much it is ahead, less the delay of the fastest of its last 32 to 64
    /// events; negative where it is behind. `None` where it told no plausible time.
    pub offset_ms: Option<i64>,
    /// Events since it was first heard of; as all counts, with second copies.
    pub events: u64,
    /// Of those: late.
    pub late: u64,
    /// Of those: out of order.
    pub out_of_order: u64,
    /// Of those: with a time that nobody believes.
    pub implausible: u64,
}

impl Watch {
    fn look(&mut self, event: &Event) -> Marks {
        self.events += 1;
        self.implausible += u64::from(event.marks.contains(Marks::IMPLAUSIBLE));
        if event.time_source != TimeSource::Device {
            return Marks::NONE;
        }
        // Against a clock that is not set nothing can be compared.
        if !event.received.is_unset() {
            if self.in_round == ROUND {
                self.rounds = [None, self.rounds[0]];
                self.in_round = 0;
            }
            self.in_round += 1;
            let ahead = event
                .time
                .as_nanos()
                .saturating_sub(event.received.as_nanos());
            self.rounds[0] = self.rounds[0].max(Some(ahead));
        }
        let topic = self
            .topics
            .iter()
            .position(|(topic, _)| *topic == event.topic);
        let before = topic.map(|at| self.topics.remove(at));
        let last = before.as_ref().map_or(event.time, |(_, last)| *last);
        let name = before.map_or_else(|| event.topic.clone(), |(name, _)| name);
        self.topics.insert(0, (name, last.max(event.time)));
        self.topics.truncate(TOPICS_MAX);
        if event.time < last {
            self.out_of_order += 1;
            return Marks::OUT_OF_ORDER;
        }
        Marks::NONE
    }

    fn clock(&self, device: &Arc<str>) -> DeviceClock {
        let [now, before] = self.rounds;
        DeviceClock {
            device: device.clone(),
            offset_ms: now.max(before).map(|nanos| nanos / 1_000_000),
            events: self.events,
            late: self.late,
            out_of_order: self.out_of_order,
            implausible: self.implausible,
        }
    }
}

impl Timing {
    pub(super) fn new(late_after: Duration) -> Self {
        Self {
            late_after,
            seen: Mutex::default(),
        }
    }

    /// Marks an event whose time is long before its receipt. The same whenever it is asked.
    pub(super) fn mark_late(&self, event: &mut Event) {
        let age = event
            .received
            .as_nanos()
            .saturating_sub(event.time.as_nanos());
        let late = u128::try_from(age).is_ok_and(|age| age > self.late_after.as_nanos());
        if late && event.time_source == TimeSource::Device {
            event.marks = event.marks.with(Marks::LATE);
        }
    }

    /// Marks events that came behind later ones of their device and topic, and learns
    /// about the devices' clocks.
    pub(super) fn watch(&self, events: &mut [Event]) {
        let mut seen = self.lock();
        for event in events {
            let watch = seen.of(&event.device);
            watch.late += u64::from(event.marks.contains(Marks::LATE));
            event.marks = event.marks.with(watch.look(event));
        }
    }

    /// Devices with the clocks that are off the most first; at most `count`, and how
    /// many are known.
    pub(super) fn clocks(&self, count: usize) -> (Vec<DeviceClock>, usize) {
        let seen = self.lock();
        let all = seen.young.iter().chain(&seen.old);
        let mut clocks: Vec<DeviceClock> = all.map(|(name, watch)| watch.clock(name)).collect();
        drop(seen);
        let known = clocks.len();
        clocks.sort_by(|a, b| {
            let off = |clock: &DeviceClock| clock.offset_ms.map(i64::unsigned_abs);
            off(b).cmp(&off(a)).then_with(|| a.device.cmp(&b.device))
        });
        clocks.truncate(count);
        (clocks, known)
    }

    /// Nothing panics while the lock is held, and a map is whole even so.
    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks an event that came while the gateway did not know the time, and notes what the
/// time can be worked out from later.
pub(super) fn mark_unset(event: &mut Event, booted: Option<&Booted>) {
    if !event.received.is_unset() {
        return;
    }
    event.marks = event.marks.with(Marks::CLOCK_UNSET);
    for (name, _) in &mut event.tags {
        // Only the gateway says so.
        if [BOOT_TAG, UPTIME_TAG].contains(&&**name) {
            *name = format!("said.{name}").into();
        }
    }
    if let Some(Booted { id, up }) = booted {
        event.tags.push((BOOT_TAG.into(), id.clone()));
        let millis = up.as_millis().to_string();
        event.tags.push((UPTIME_TAG.into(), millis.into()));
    }
}

impl Generations {
    fn of(&mut self, device: &Arc<str>) -> &mut Watch {
        if !self.young.contains_key(device) {
            let known = self.old.remove(device).unwrap_or_default();
            if self.young.len() >= DEVICES_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(device.clone(), known);
        }
        self.young.entry(device.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{IdSource, Key};

    const SECOND: i64 = 1_000;
    /// 2026-03-01T12:00:00Z.
    const NOW: i64 = 1_772_366_400_000;

    fn event(device: &str, topic: &str, time: i64, received: i64) -> Event {
        Event {
            key: Key([0; 16]),
            id: None,
            id_source: IdSource::None,
            kind: "k".into(),
            device: device.into(),
            site: None,
            time: Timestamp::from_millis(time),
            time_source: TimeSource::Device,
            received: Timestamp::from_millis(received),
            sequence: None,
            partition_key: None,
            topic: topic.into(),
            traceparent: None,
            measurements: Vec::new(),
            tags: Vec::new(),
            marks: Marks::NONE,
            corrected: None,
        }
    }

    fn timing() -> Timing {
        Timing::new(Duration::from_mins(10))
    }

    fn marks(timing: &Timing, mut event: Event) -> Option<String> {
        timing.mark_late(&mut event);
        timing.watch(std::slice::from_mut(&mut event));
        event.marks.text()
    }

    #[test]
    fn what_came_before_the_time_was_known_says_which_boot_and_how_long_after_it() {
        let booted = Booted {
            id: "b-1".into(),
            up: Duration::from_millis(12_340),
        };
        let mut one = event("a", "t", NOW, 12_000);
        one.tags = vec![(BOOT_TAG.into(), "of the device".into())];
        mark_unset(&mut one, Some(&booted));
        assert_eq!(one.marks, Marks::CLOCK_UNSET);
        let tags: Vec<(&str, &str)> = one.tags.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(
            tags,
            [
                ("said.gatewayboot", "of the device"),
                ("gatewayboot", "b-1"),
                ("gatewayuptimems", "12340"),
            ]
        );
        let mut known = event("a", "t", NOW, NOW);
        mark_unset(&mut known, Some(&booted));
        assert!(known.marks.is_empty() && known.tags.is_empty());
    }

    #[test]
    fn late_and_out_of_order_are_marked_by_device_and_topic() {
        let timing = timing();
        let said = |topic, time| marks(&timing, event("a", topic, NOW + time, NOW));
        assert_eq!(said("t", 0), None);
        assert_eq!(said("t", 0), None, "the same time is no disorder");
        assert_eq!(said("t", -SECOND).as_deref(), Some("out-of-order"));
        assert_eq!(
            said("u", -SECOND),
            None,
            "another topic has an order of its own"
        );
        let old = said("t", -601 * SECOND);
        assert_eq!(old.as_deref(), Some("late out-of-order"));
        assert_eq!(said("v", -600 * SECOND), None);
        assert_eq!(marks(&timing, event("b", "t", NOW - SECOND, NOW)), None);
        let received = Event {
            time_source: TimeSource::Received,
            ..event("a", "t", NOW - 700 * SECOND, NOW)
        };
        assert_eq!(
            marks(&timing, received),
            None,
            "it is not the device's time"
        );
        let (clocks, known) = timing.clocks(9);
        let a = clocks.iter().find(|clock| &*clock.device == "a").unwrap();
        assert_eq!((a.events, a.late, a.out_of_order, known), (7, 1, 2, 2));
    }

    #[test]
    fn the_offset_is_that_of_the_fastest_event_and_follows_the_clock() {
        let timing = timing();
        let offset = || timing.clocks(1).0[0].offset_ms;
        // A clock that is five seconds ahead, and a network that takes its time.
        for (n, delay) in (0_i64..).zip([900, 200, 7_000, 40, 300]) {
            marks(
                &timing,
                event("a", "t", NOW + n * SECOND + 5_000, NOW + n * SECOND + delay),
            );
        }
        assert_eq!(offset(), Some(4_960));
        // It was set right: the old rounds are forgotten.
        for n in 0..2 * i64::from(ROUND) {
            marks(
                &timing,
                event("a", "t", NOW + n * SECOND, NOW + n * SECOND + 30),
            );
        }
        assert_eq!(offset(), Some(-30));
        // While the gateway does not know the time, there is nothing to compare with.
        marks(&timing, event("a", "t", NOW + 900 * SECOND, 5_000));
        assert_eq!(offset(), Some(-30));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_busy_stay() {
        let timing = timing();
        for n in 0..3 * DEVICES_MAX {
            marks(&timing, event(&format!("d{n}"), "t", NOW, NOW));
            marks(&timing, event("busy", &format!("t{n}"), NOW, NOW));
        }
        let (clocks, known) = timing.clocks(usize::MAX);
        assert!(known <= 2 * DEVICES_MAX, "{known}");
        let busy = clocks
            .iter()
            .find(|clock| &*clock.device == "busy")
            .unwrap();
        assert_eq!(busy.events, 3 * DEVICES_MAX as u64);
        let seen = timing.lock();
        assert!(seen.young["busy"].topics.len() <= TOPICS_MAX);
    }
}
