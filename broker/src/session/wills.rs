//! Wills that wait for their delay (MQTT 5, section 3.1.3.2.2).
//!
//! A will is published when its delay is over or its session ends, whichever is first,
//! and not at all when its client comes back to the session before. So no delay is
//! longer than the session outlives its connection, and a client that comes without
//! finding its session makes its will due at once.
//!
//! Only persistent sessions have wills that wait, so there are no more of them than
//! sessions; what they hold counts in the budget of what sessions keep. The keeper has
//! them too, so that those that wait when the process ends are published by the next
//! one. A will is forgotten on disk before it is published: one that is lost, in a
//! crash at that very moment, is less than one that comes twice.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep_until},
};

use super::{Context, ending};
use crate::{
    Local, Protocol, Publisher, auth::Rights, budget::Share, keep::SessionId, packet::Will,
};

/// A will and whose it is.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) session: SessionId,
    /// Who it is published as.
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) will: Will,
    /// What its client may do; not known of one that the keeper's file brought.
    pub(crate) rights: Option<Arc<Rights>>,
    /// What it holds; nothing if the keeper's file brought it.
    pub(crate) _share: Option<Share>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// By when they are due, and a number of their own.
    by_time: BTreeMap<(Instant, u64), Waiting>,
    /// Where the will of a client that is away is.
    by_client: HashMap<Arc<str>, (Instant, u64)>,
    last: u64,
}

impl Wills {
    /// A connection is gone: its will is due after `delay`.
    pub(crate) fn hold(&self, will: Waiting, delay: Duration) {
        let mut queue = self.lock();
        queue.last += 1;
        let place = (Instant::now() + delay, queue.last);
        let client = Arc::clone(&will.publisher.client_id);
        queue.by_time.insert(place, will);
        // The last will of a client is the one that its coming back calls off.
        queue.by_client.insert(client, place);
        drop(queue);
        self.changed.notify_one();
    }

    /// A client has come: to the session that it had, or to none, which ends that.
    pub(super) fn came(&self, client: &str, to_its_session: bool) {
        let mut queue = self.lock();
        let Some(place) = queue.by_client.remove(client) else {
            return;
        };
        let Some(will) = queue.by_time.remove(&place) else {
            return;
        };
        if !to_its_session {
            queue.by_time.insert((Instant::now(), place.1), will);
            drop(queue);
            self.changed.notify_one();
        }
    }

    /// The next will that is due, or when there may be one.
    fn due(&self, now: Instant) -> Result<Waiting, Option<Instant>> {
        let mut queue = self.lock();
        let Some(first) = queue.by_time.first_entry() else {
            return Err(None);
        };
        let place = *first.key();
        if place.0 > now {
            return Err(Some(place.0));
        }
        let will = first.remove();
        if queue.by_client.get(&will.publisher.client_id) == Some(&place) {
            queue.by_client.remove(&will.publisher.client_id);
        }
        Ok(will)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes wills when they are due, those of an earlier process too.
pub(crate) async fn run(context: Arc<Context>) {
    let keeper = context.fanout.keeper();
    for kept in keeper.wills().await.unwrap_or_default() {
        let Some(publish) = kept.message.to_publish() else {
            continue;
        };
        let waiting = Waiting {
            session: kept.session,
            publisher: Arc::new(Publisher {
                client_id: kept.client,
                username: kept.user.clone(),
                identity: kept.user,
                origin: None,
                address: None,
                protocol: Protocol::V5,
                turn: 0.into(),
                turns_over: Arc::default(),
            }),
            will: Will {
                publish,
                delay_secs: 0,
                refused: false,
            },
            rights: None,
            _share: None,
        };
        context
            .wills
            .hold(waiting, Duration::from_millis(kept.due_in_ms));
    }
    let local = Local::new(Arc::clone(&context.fanout));
    loop {
        let wait = match context.wills.due(Instant::now()) {
            Ok(waiting) => {
                // Where the session has ended there is nothing to forget.
                keeper.take_will(waiting.session).await.ok();
                let Waiting {
                    publisher,
                    will,
                    rights,
                    ..
                } = waiting;
                let may = |rights: &Rights| ending::may_be_published(&context, rights, &will);
                if !rights.as_deref().is_none_or(may) {
                    continue;
                }
                let client = local.client_as(Arc::clone(&context.admission), publisher);
                client.publish(vec![will.publish]).await;
                context.counters.wills.add(1);
                continue;
            }
            Err(wait) => wait,
        };
        match wait {
            Some(due) => tokio::select! {
                () = sleep_until(due) => {}
                () = context.wills.changed.notified() => {}
            },
            None => context.wills.changed.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Publish, QoS};

    fn will(client: &str) -> Waiting {
        Waiting {
            session: SessionId(1),
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
            _share: None,
        }
    }

    fn name(due: Result<Waiting, Option<Instant>>) -> String {
        due.unwrap().publisher.client_id.to_string()
    }

    #[test]
    fn wills_are_due_in_turn_unless_their_client_comes_back() {
        let wills = Wills::default();
        for (client, secs) in [("slow", 200), ("quick", 100), ("back", 50), ("anew", 300)] {
            wills.hold(will(client), Duration::from_secs(secs));
        }
        wills.came("back", true);
        wills.came("anew", false);
        wills.came("nobody", false);
        let now = Instant::now();
        let in_secs = |secs| now + Duration::from_secs(secs);
        assert_eq!(name(wills.due(now)), "anew");
        assert!(wills.due(in_secs(50)).unwrap_err().is_some());
        assert_eq!(name(wills.due(in_secs(100))), "quick");
        assert!(wills.due(in_secs(100)).is_err());
        assert_eq!(name(wills.due(in_secs(200))), "slow");
        assert_eq!(wills.due(in_secs(999)).unwrap_err(), None);
        let queue = wills.lock();
        assert!(queue.by_client.is_empty() && queue.by_time.is_empty());
    }
}
