//! Wills that wait for their delay (MQTT 5, section 3.1.3.2.2).
//!
//! A will is published when its delay is over or its session ends, whichever is first,
//! and not at all when its client comes back to the session before. So no delay is
//! longer than the session outlives its connection, and a client that comes without
//! finding its session makes its will due at once.
//!
//! Only persistent sessions have wills that wait, so there are no more of them than
//! sessions. A will whose time has come may wait for the gateway as well, and then nothing
//! calls it off: each client has one of those, in place of the one before, and there are no
//! more than there may be sessions. What that costs is counted (`wills_lost`). What wills
//! hold counts in the budget of what sessions keep. The keeper has
//! them too, and forgets a will only after it was published, so that a crash loses none:
//! the next process publishes it, under the identity that it had, which makes it the
//! same to the journal. What is known of a will's client then is its name, so the rules
//! for that name decide whether it may still be published.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep, sleep_until},
};

use super::{Context, ending};
use crate::{
    Local, Protocol, Publish, Publisher, Verdict,
    auth::Rights,
    budget::Share,
    keep::{KeptWill, Refused, SessionId, WillId},
    packet::Will,
    registry::Seat,
};

/// When to ask the keeper again to forget what is published.
const AGAIN: Duration = Duration::from_secs(1);
/// A client that comes back this long before its will is due may be too late by the
/// clock of the keeper, which decides.
const DOUBT: Duration = Duration::from_secs(1);

/// A will and whose it is.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The keeper's copy, if it has one.
    pub(crate) kept: Option<WillId>,
    /// Who it is published as.
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) will: Will,
    /// What its client may do; not known of one that the keeper's file brought.
    pub(crate) rights: Option<Arc<Rights>>,
    /// It should have been published already: nobody's coming back calls it off.
    pub(crate) is_late: bool,
    /// Its client may have come back in time: the keeper knows.
    pub(crate) is_in_doubt: bool,
    /// What it holds; nothing if the keeper's file brought it.
    pub(crate) _share: Option<Share>,
}

/// What a connection that is over leaves behind.
pub(super) struct Left {
    /// The persistent session that has the will too.
    pub(super) session: Option<SessionId>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) will: Will,
    pub(super) rights: Arc<Rights>,
    pub(super) share: Share,
}

impl Left {
    /// Publishes the will, now or when its delay is over.
    pub(super) async fn publish(
        mut self,
        context: &Context,
        connection: u64,
        delay_secs: u32,
        seat: &Seat,
    ) {
        let Some(session) = self.session else {
            let Self {
                publisher, will, ..
            } = &self;
            if !ending::publish_will(context, publisher, connection, will, seat).await {
                ending::lose_will(context, publisher);
            }
            return;
        };
        let keeper = context.fanout.keeper();
        let kept = keeper.due_will(session).await.unwrap_or_default();
        self.will.publish.delivery = kept.map(WillId::identity);
        let is_late = delay_secs == 0;
        if is_late {
            let Self {
                publisher, will, ..
            } = &self;
            if ending::publish_will(context, publisher, connection, will, seat).await {
                context.wills.is_over(kept);
                return;
            }
        }
        let waiting = Waiting {
            kept,
            publisher: self.publisher,
            will: self.will,
            rights: Some(self.rights),
            is_late,
            is_in_doubt: false,
            _share: Some(self.share),
        };
        let delay = Duration::from_secs(delay_secs.into());
        hold(context, waiting, delay);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wills {
    queue: Mutex<Queue>,
    /// There is another first one, perhaps.
    changed: Notify,
    /// There is something to forget.
    over: Notify,
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
    fn hold(&self, will: Waiting, delay: Duration) -> Option<Waiting> {
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
    fn is_over(&self, kept: Option<WillId>) {
        self.lock().over.extend(kept);
        self.over.notify_one();
    }

    /// A client has come: to the session that it had, or to none, which ends that. The
    /// will that is lost by it.
    fn came(&self, client: &str, to_its_session: bool) -> Option<Waiting> {
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client has come: to the session that it had, or to none, which ends that.
pub(super) fn came(context: &Context, client: &str, to_its_session: bool) {
    let lost = context.wills.came(client, to_its_session);
    lose(context, lost);
}

fn hold(context: &Context, will: Waiting, delay: Duration) {
    let lost = context.wills.hold(will, delay);
    lose(context, lost);
}

fn lose(context: &Context, lost: Option<Waiting>) {
    if let Some(Waiting {
        kept, publisher, ..
    }) = lost
    {
        ending::lose_will(context, &publisher);
        context.wills.is_over(kept);
    }
}

/// Publishes wills when they are due, those of an earlier process too.
pub(crate) async fn run(context: Arc<Context>) {
    // A will that waits for the gateway holds up no other's being forgotten.
    tokio::join!(publish_all(&context), forget_all(&context));
}

async fn publish_all(context: &Context) {
    let keeper = context.fanout.keeper();
    for kept in keeper.wills().await.unwrap_or_default() {
        let due = Duration::from_millis(kept.due_in_ms);
        if let Some(waiting) = of_an_earlier_process(kept) {
            hold(context, waiting, due);
        }
    }
    loop {
        match context.wills.due(Instant::now()) {
            Ok(waiting) => publish(context, waiting).await,
            Err(Some(due)) => tokio::select! {
                () = sleep_until(due) => {}
                () = context.wills.changed.notified() => {}
            },
            Err(None) => context.wills.changed.notified().await,
        }
    }
}

/// Has the keeper forget the wills that are over, as soon as it can.
async fn forget_all(context: &Context) {
    loop {
        let over = std::mem::take(&mut context.wills.lock().over);
        if over.is_empty() {
            context.wills.over.notified().await;
            continue;
        }
        let forgotten = context.fanout.keeper().wills_are_over(over.clone()).await;
        if forgotten == Err(Refused::Full) {
            // There may be no room even for that.
            context.wills.lock().over.extend(over);
            sleep(AGAIN).await;
        }
    }
}

fn of_an_earlier_process(kept: KeptWill) -> Option<Waiting> {
    let publish = kept.message.to_publish()?;
    Some(Waiting {
        kept: Some(kept.id),
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
            publish: Publish {
                delivery: Some(kept.id.identity()),
                ..publish
            },
            delay_secs: 0,
            refused: false,
        },
        rights: None,
        is_late: kept.due_in_ms == 0,
        // Its client may have come back while the list was on its way.
        is_in_doubt: true,
        _share: None,
    })
}

/// Publishes a will, unless its client is back or may not publish it any more.
async fn publish(context: &Context, waiting: Waiting) {
    if let (true, Some(kept)) = (waiting.is_in_doubt, waiting.kept) {
        match context.fanout.keeper().is_will_due(kept).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return hold(context, waiting, AGAIN),
        }
    }
    let Waiting {
        kept,
        publisher,
        will,
        rights,
        ..
    } = waiting;
    let may = match &rights {
        Some(rights) => ending::may_be_published(context, rights, &will),
        None => {
            let (id, user) = (&publisher.client_id, publisher.identity.as_ref());
            let allowed = context
                .auth
                .remembered(id, user)
                .is_some_and(|rights| rights.will(&will));
            if !allowed {
                context.counters.publishes_denied.add(1);
            }
            allowed
        }
    };
    if may {
        let local = Local::new(Arc::clone(&context.fanout));
        let of = Arc::clone(&publisher);
        let client = local.client_as(Arc::clone(&context.admission), publisher);
        match client.publish(vec![will.publish]).await.pop() {
            Some(Verdict::Accepted | Verdict::Duplicate | Verdict::Returned) => {
                context.counters.wills.add(1);
            }
            Some(Verdict::Refused { .. }) => ending::lose_will(context, &of),
            // Nobody knows: the next process publishes it.
            _ => return ending::lose_will(context, &of),
        }
    }
    context.wills.is_over(kept);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::QoS;

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
        assert_eq!(name(wills.due(now)), "anew");
        assert!(wills.due(in_secs(50)).unwrap_err().is_some());
        assert_eq!(name(wills.due(in_secs(100))), "quick");
        assert!(wills.due(in_secs(100)).is_err());
        assert_eq!(name(wills.due(in_secs(200))), "slow");
        assert_eq!(wills.due(in_secs(999)).unwrap_err(), None);
        let queue = wills.lock();
        assert!(queue.by_client.is_empty() && queue.by_time.is_empty() && queue.late.is_empty());
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
