//! What the times of events say of their devices' clocks, and what is odd about them.
//!
//! Promises: nothing is refused for its time here; marks are only said. What is not kept
//! teaches nothing: an event that finds no room, or was kept before, is [taken
//! back](Timing::learn), so that it is not out of order when it comes again. Memory is
//! bounded, however many devices and topics there are, and however long the topics' names:
//! who was not heard of for the longest time is forgotten first. Kept in memory only, so
//! after a restart, or after it was forgotten, a device's next event begins anew and is
//! not out of order.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
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
    hasher: RandomState,
}

/// What was seen of an event, until it is known whether it is kept.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its number among what is appended.
    pub(super) entry: usize,
    /// Everything that is odd about its times.
    pub(super) marks: Marks,
    device: Arc<str>,
    /// How far the device's clock is ahead of ours, where both are known.
    ahead: Option<i64>,
    step: Option<Step>,
}

/// An event's time among those of its topic.
#[derive(Debug, Clone, Copy)]
struct Step {
    topic: u64,
    time: Timestamp,
    /// The last one before it.
    before: Option<Timestamp>,
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
    /// The last time on some topics, by the hash of their names, those heard of lately
    /// first.
    topics: Vec<(u64, Timestamp)>,
}

/// What a device's clock looks like from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DeviceClock {
    /// The device.
    #[schema(value_type = String)]
    pub device: Arc<str>,
    /// By how much it is ahead, less the delay of the fastest of its last 32 to 64
    /// events; negative where it is behind. `None` where it told no plausible time.
    pub offset_ms: Option<i64>,
    /// Events that were kept since it was first heard of.
    pub events: u64,
    /// Of those: late.
    pub late: u64,
    /// Of those: out of order.
    pub out_of_order: u64,
    /// Of those: with a time that nobody believes.
    pub implausible: u64,
}

impl Watch {
    /// Takes a step on a topic, and what was the last time there before it.
    fn step(&mut self, topic: u64, time: Timestamp) -> Option<Timestamp> {
        let at = self.topics.iter().position(|(known, _)| *known == topic);
        let before = at.map(|at| self.topics.remove(at).1);
        let last = before.map_or(time, |before| before.max(time));
        self.topics.insert(0, (topic, last));
        self.topics.truncate(TOPICS_MAX);
        before
    }

    /// An event was kept.
    fn learn(&mut self, seen: &Seen) {
        let marked = |mark| u64::from(seen.marks.contains(mark));
        self.events += 1;
        self.late += marked(Marks::LATE);
        self.out_of_order += marked(Marks::OUT_OF_ORDER);
        self.implausible += marked(Marks::IMPLAUSIBLE);
        if seen.ahead.is_some() {
            if self.in_round == ROUND {
                self.rounds = [None, self.rounds[0]];
                self.in_round = 0;
            }
            self.in_round += 1;
            self.rounds[0] = self.rounds[0].max(seen.ahead);
        }
        if let Some(Step { topic, time, .. }) = seen.step {
            // Also where one before it was taken back.
            self.step(topic, time);
        }
    }

    /// An event was not kept. What was taken back once too often costs a mark, and
    /// never gives one.
    fn take_back(&mut self, seen: &Seen) {
        let Some(Step { topic, before, .. }) = seen.step else {
            return;
        };
        match before {
            None => self.topics.retain(|(known, _)| *known != topic),
            Some(before) => {
                if let Some((_, last)) = self.topics.iter_mut().find(|(known, _)| *known == topic) {
                    *last = before.min(*last);
                }
            }
        }
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
            hasher: RandomState::new(),
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

    /// Marks events that came behind later ones of their device and topic. `entry` is
    /// the number of the first; what was seen of them is [learned](Self::learn) later.
    pub(super) fn watch(&self, events: &mut [Event], entry: usize) -> Vec<Seen> {
        let mut known = self.lock();
        let watch = |(entry, event): (usize, &mut Event)| {
            let of_device = event.time_source == TimeSource::Device;
            let step = of_device.then(|| {
                let topic = self.hasher.hash_one(&*event.topic);
                let before = known.of(&event.device).step(topic, event.time);
                let time = event.time;
                if before.is_some_and(|before| time < before) {
                    event.marks = event.marks.with(Marks::OUT_OF_ORDER);
                }
                Step {
                    topic,
                    time,
                    before,
                }
            });
            let (time, received) = (event.time.as_nanos(), event.received.as_nanos());
            // Against a clock that is not set nothing can be compared.
            let compares = of_device && !event.received.is_unset();
            Seen {
                entry,
                marks: event.marks,
                device: event.device.clone(),
                ahead: compares.then(|| time.saturating_sub(received)),
                step,
            }
        };
        (entry..).zip(events).map(watch).collect()
    }

    /// Learns about the devices' clocks from what was kept, and takes the rest back.
    /// In the order in which it was seen.
    pub(super) fn learn(&self, seen: &[Seen], is_kept: impl Fn(&Seen) -> bool) {
        if seen.is_empty() {
            return;
        }
        let mut known = self.lock();
        for seen in seen {
            let watch = known.of(&seen.device);
            if is_kept(seen) {
                watch.learn(seen);
            } else {
                watch.take_back(seen);
            }
        }
    }

    /// Devices with the clocks that are off the most first; at most `count`, and how
    /// many are known.
    pub(super) fn clocks(&self, count: usize) -> (Vec<DeviceClock>, usize) {
        let seen = self.lock();
        let all = seen.young.iter().chain(&seen.old);
        let all = all.filter(|(_, watch)| watch.events > 0);
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
pub(crate) fn mark_unset(event: &mut Event, booted: Option<&Booted>) {
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
            replayed: None,
        }
    }

    fn timing() -> Timing {
        Timing::new(Duration::from_mins(10))
    }

    fn marks(timing: &Timing, mut event: Event) -> Option<String> {
        timing.mark_late(&mut event);
        let seen = timing.watch(std::slice::from_mut(&mut event), 0);
        timing.learn(&seen, |_| true);
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
    fn what_is_not_kept_is_in_order_when_it_comes_again() {
        let timing = timing();
        assert_eq!(marks(&timing, event("a", "t", NOW, NOW)), None);
        let batch = |times: [i64; 3]| times.map(|at| event("a", "t", NOW + at * SECOND, NOW));
        let marked = |batch: &[Event]| -> Vec<bool> {
            let marks = batch.iter().map(|event| !event.marks.is_empty());
            marks.collect()
        };
        let [mut first, mut next] = [batch([1, 2, 3]), batch([4, 6, 5])];
        let first_seen = timing.watch(&mut first, 0);
        // Handed over while the first waits for the disk.
        let next_seen = timing.watch(&mut next, 0);
        assert_eq!(marked(&next), [false, false, true]);
        timing.learn(&first_seen, |_| false);
        let mut again = batch([1, 2, 3]);
        let again_seen = timing.watch(&mut again, 0);
        assert_eq!(marked(&again), [false; 3]);
        timing.learn(&again_seen, |_| true);
        timing.learn(&next_seen, |_| false);
        let mut again = batch([4, 6, 5]);
        let again_seen = timing.watch(&mut again, 7);
        assert_eq!(marked(&again), [false, false, true]);
        let places: Vec<usize> = again_seen.iter().map(|seen| seen.entry).collect();
        assert_eq!(places, [7, 8, 9]);
        timing.learn(&again_seen, |_| true);
        let clock = timing.clocks(1).0.remove(0);
        assert_eq!((clock.events, clock.out_of_order), (7, 1));
        // A window that is sent again was kept before, and what follows is in order.
        let mut window = batch([4, 6, 7]);
        let seen = timing.watch(&mut window, 0);
        timing.learn(&seen, |seen| seen.entry == 2);
        let clock = timing.clocks(1).0.remove(0);
        assert_eq!((clock.events, clock.out_of_order), (8, 1));
        let last = marks(&timing, event("a", "t", NOW + 6 * SECOND, NOW));
        assert_eq!(last.as_deref(), Some("out-of-order"));
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
