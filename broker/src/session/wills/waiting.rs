//! Which will is due when, and whose.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use super::Waiting;
use crate::{keep::WillId, metrics::Counters};

/// A client that comes back this long before its will is due may be too late by the
/// clock of the keeper, which decides.
const DOUBT: Duration = Duration::from_secs(1);

/// The wills that wait.
#[derive(Debug)]
pub(crate) struct Wills {
    queue: Mutex<Queue>,
    /// There is another first one, perhaps.
    pub(super) changed: Notify,
    /// There is something to forget.
    pub(super) over: Notify,
    /// Wills that nothing calls off.
    late_max: usize,
}

/// When a will is due, and a number of its own.
type Place = (Instant, u64);

#[derive(Debug, Default)]
struct Queue {
    by_time: BTreeMap<Place, Waiting>,
    /// Where the will of a client that is away is.
    by_client: HashMap<Arc<str>, Place>,
    /// Where the will of a client is that nothing calls off.
    late: HashMap<Arc<str>, Place>,
    last: u64,
    /// Published, and to be forgotten on disk.
    over: Vec<WillId>,
}

impl Queue {
    /// Puts a will in that nothing calls off; the one that it has no room beside.
    fn put_late(&mut self, place: Place, will: Waiting, max: usize) -> Option<Waiting> {
        let client = Arc::clone(&will.publisher.client_id);
        let before = self.late.get(&client).copied();
        if before.is_none() && self.late.len() >= max {
            return Some(will);
        }
        self.late.insert(client, place);
        self.by_time.insert(place, will);
        before.and_then(|before| self.by_time.remove(&before))
    }
}

impl Wills {
    /// At most `late_max` wills wait that nothing calls off.
    pub(crate) fn new(late_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Notify::new(),
            over: Notify::new(),
            late_max,
        }
    }

    /// A connection is gone: its will is due after `delay`. The will that is lost by it.
    pub(super) fn hold(&self, will: Waiting, delay: Duration) -> Option<Waiting> {
        let mut queue = self.lock();
        queue.last += 1;
        let place = (Instant::now() + delay, queue.last);
        let lost = if will.is_late {
            queue.put_late(place, will, self.late_max)
        } else {
            // The last will of a client is the one that its coming back calls off.
            let client = Arc::clone(&will.publisher.client_id);
            queue.by_client.insert(client, place);
            queue.by_time.insert(place, will);
            None
        };
        drop(queue);
        self.changed.notify_one();
        lost
    }

    /// A will is published, or never will be: the keeper is to forget it.
    pub(super) fn is_over(&self, kept: Option<WillId>) {
        self.are_over(kept);
    }

    /// The same of several.
    pub(super) fn are_over(&self, kept: impl IntoIterator<Item = WillId>) {
        self.lock().over.extend(kept);
        self.over.notify_one();
    }

    /// A client has come: to the session that it had, or to none, which ends that. The
    /// will that is lost by it.
    pub(super) fn came(&self, client: &str, to_its_session: bool) -> Option<Waiting> {
        let mut queue = self.lock();
        let place = queue.by_client.remove(client)?;
        let mut will = queue.by_time.remove(&place)?;
        let now = Instant::now();
        let lost = if !to_its_session {
            queue.put_late((now, place.1), will, self.late_max)
        } else if place.0 < now + DOUBT {
            will.is_in_doubt = true;
            queue.put_late(place, will, self.late_max)
        } else {
            None
        };
        drop(queue);
        self.changed.notify_one();
        lost
    }

    /// A session is over that a client did not end, and so its will is due.
    pub(crate) fn session_is_over(&self, client: &str, counters: &Counters) {
        if let Some(lost) = self.came(client, false) {
            counters.wills_lost.add(1);
            self.is_over(lost.kept);
        }
    }

    /// The next will that is due, or when there may be one; not of clients that are `busy`.
    pub(super) fn due(
        &self,
        now: Instant,
        busy: &HashSet<Arc<str>>,
    ) -> Result<Waiting, Option<Instant>> {
        let mut queue = self.lock();
        let mut waiting = queue.by_time.iter();
        let first = waiting.find(|(_, will)| !busy.contains(&will.publisher.client_id));
        let Some((&place, _)) = first else {
            return Err(None);
        };
        if place.0 > now {
            return Err(Some(place.0));
        }
        let will = queue.by_time.remove(&place).ok_or(None)?;
        let client = &will.publisher.client_id;
        let Queue {
            by_client, late, ..
        } = &mut *queue;
        for places in [by_client, late] {
            if places.get(client) == Some(&place) {
                places.remove(client);
            }
        }
        Ok(will)
    }

    /// What is to be forgotten on disk.
    pub(super) fn take_over(&self) -> Vec<WillId> {
        std::mem::take(&mut self.lock().over)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Protocol, Publish, Publisher, QoS, packet::Will};

    fn will(client: &str) -> Waiting {
        Waiting {
            kept: None,
            publisher: Arc::new(Publisher {
                client_id: Arc::from(client),
                username: None,
                identity: None,
                origin: None,
                address: None,
                protocol: Protocol::V5,
                turn: 0.into(),
                turns_over: Arc::default(),
            }),
            will: Will {
                delay_secs: 0,
                refused: false,
                publish: Publish {
                    topic: Arc::from("t"),
                    payload: Bytes::new(),
                    qos: QoS::AtMostOnce,
                    retain: false,
                    dup: false,
                    properties: None,
                    delivery: None,
                },
            },
            rights: None,
            is_late: false,
            is_in_doubt: false,
            _share: None,
        }
    }

    fn name(due: Result<Waiting, Option<Instant>>) -> String {
        due.unwrap().publisher.client_id.to_string()
    }

    #[test]
    fn wills_are_due_in_turn_unless_their_client_comes_back() {
        let wills = Wills::new(10);
        for (client, secs) in [("slow", 200), ("quick", 100), ("back", 50), ("anew", 300)] {
            assert!(
                wills
                    .hold(will(client), Duration::from_secs(secs))
                    .is_none()
            );
        }
        for (client, to_its_session) in [("back", true), ("anew", false), ("nobody", false)] {
            assert!(wills.came(client, to_its_session).is_none());
        }
        let now = Instant::now();
        let in_secs = |secs| now + Duration::from_secs(secs);
        let nobody = HashSet::new();
        let due = |secs| wills.due(in_secs(secs), &nobody);
        assert_eq!(name(due(0)), "anew");
        assert!(due(50).unwrap_err().is_some());
        assert_eq!(name(due(100)), "quick");
        assert!(due(100).is_err());
        assert_eq!(name(due(200)), "slow");
        assert_eq!(due(999).unwrap_err(), None);
        let queue = wills.lock();
        assert!(queue.by_client.is_empty() && queue.by_time.is_empty() && queue.late.is_empty());
    }

    #[test]
    fn a_will_waits_for_the_one_before_of_the_same_client_and_no_other() {
        let wills = Wills::new(10);
        for client in ["a", "b"] {
            assert!(wills.hold(will(client), Duration::ZERO).is_none());
        }
        let busy = HashSet::from([Arc::from("a")]);
        let now = Instant::now();
        assert_eq!(name(wills.due(now, &busy)), "b");
        assert_eq!(wills.due(now, &busy).unwrap_err(), None);
        assert_eq!(name(wills.due(now, &HashSet::new())), "a");
    }

    #[test]
    fn wills_that_nothing_calls_off_have_a_bound() {
        let wills = Wills::new(3);
        let hour = Duration::from_secs(3600);
        let late = |client: &str, topic: usize| {
            let mut late = will(client);
            late.is_late = true;
            late.will.publish.topic = Arc::from(topic.to_string());
            late
        };
        let lost = |one: Option<Waiting>| one.map(|one| one.will.publish.topic.to_string());
        // Published at once, or by a client that comes to no session, or shortly before.
        assert_eq!(lost(wills.hold(late("a", 1), Duration::ZERO)), None);
        let again = wills.hold(late("a", 2), Duration::ZERO);
        assert_eq!(lost(again).as_deref(), Some("1"));
        assert!(wills.hold(will("a"), hour).is_none());
        assert_eq!(lost(wills.came("a", false)).as_deref(), Some("2"));
        assert!(wills.hold(will("a"), DOUBT / 2).is_none());
        assert_eq!(lost(wills.came("a", true)).as_deref(), Some("t"));
        for (number, client) in ["b", "c"].into_iter().enumerate() {
            assert_eq!(lost(wills.hold(late(client, number), hour)), None);
        }
        let one_more = wills.hold(late("d", 7), Duration::ZERO);
        assert_eq!(lost(one_more).as_deref(), Some("7"));
        assert_eq!(wills.lock().by_time.len(), 3);
    }
}
