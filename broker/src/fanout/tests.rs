//! What comes to subscribers, and when.

use tokio::time::{Duration, timeout};

use super::*;
use crate::{
    budget::Budget,
    embedded::{Embedded, Watch},
    keep::{self, Kept, Op},
};

fn keeper(counters: &Arc<Counters>, budget: &Arc<Budget>) -> Keeper {
    let config = keep::Config::default();
    Keeper::open(config, Arc::clone(counters), Arc::clone(budget)).unwrap()
}

fn publish(topic: &str, payload: &str) -> Publish {
    Publish {
        topic: Arc::from(topic),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtMostOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    }
}

async fn next(outbox: &Outbox) -> Vec<u8> {
    let wait = async {
        loop {
            if let Some(delivery) = outbox.pop() {
                return delivery.message.payload().to_vec();
            }
            outbox.filled().await;
        }
    };
    timeout(Duration::from_secs(20), wait)
        .await
        .expect("a message arrives")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_go_on_when_the_router_dies() {
    let watch = Watch {
        every: Duration::from_millis(20),
        patience: Duration::from_millis(400),
    };
    let counters = Arc::<Counters>::default();
    let embedded = Arc::new(Embedded::new(watch, Arc::clone(&counters)));
    let carrier: Arc<dyn Carrier> = embedded.clone();
    let budget = Arc::new(Budget::of(1_000_000));
    let fanout = Arc::new(Fanout::new(
        carrier,
        Arc::clone(&counters),
        keeper(&counters, &budget),
    ));
    let task = tokio::spawn(Arc::clone(&fanout).run());
    let outbox = Arc::new(Outbox::new(1_000_000, 64, &budget));
    let subscription = Subscription {
        outbox: Arc::clone(&outbox),
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
        kept: None,
        since: 0,
    };
    fanout
        .subscribe(1, "a/+", subscription, SendRetained::Never)
        .unwrap();
    for round in 0..4 {
        for n in 0..10 {
            let message = fanout.message(2, &publish("a/b", &format!("{round} {n}")));
            fanout.carry(vec![message]);
        }
        for n in 0..10 {
            assert_eq!(next(&outbox).await, format!("{round} {n}").into_bytes());
        }
        embedded.poison();
    }
    assert!(counters.router_restarts.get() >= 3);
    assert_eq!(counters.dropped_router.get(), 0);
    task.abort();
}

#[tokio::test]
async fn a_message_without_subscribers_never_enters_the_carrier() {
    #[derive(Debug)]
    struct Never;
    impl Carrier for Never {
        fn carry(&self, frames: Vec<Bytes>) {
            panic!("{} frames", frames.len());
        }
        fn run<'a>(&'a self, _: &'a (dyn Fn(Bytes) + Sync)) -> Running<'a> {
            Box::pin(std::future::pending())
        }
    }
    let counters = Arc::default();
    let keeper = keeper(&counters, &Arc::new(Budget::of(1_000_000)));
    let fanout = Fanout::new(Arc::new(Never), counters, keeper);
    let mut retained = publish("a", "x");
    retained.retain = true;
    assert!(!fanout.is_wanted("a"));
    fanout.show(1, None, &[retained], Room::Now).await.unwrap();
}

/// Keeps every frame until the test takes it.
#[derive(Debug, Default)]
struct Late(std::sync::Mutex<Vec<Bytes>>);

impl Carrier for Late {
    fn carry(&self, frames: Vec<Bytes>) {
        self.0.lock().unwrap().extend(frames);
    }
    fn run<'a>(&'a self, _: &'a (dyn Fn(Bytes) + Sync)) -> Running<'a> {
        Box::pin(std::future::pending())
    }
}

/// A persistent session that subscribes to `a`.
struct Replacing {
    late: Arc<Late>,
    fanout: Fanout,
    outbox: Arc<Outbox>,
    entered: keep::Entered,
}

impl Replacing {
    async fn start() -> Self {
        let (counters, budget) = (Arc::default(), Arc::new(Budget::of(1_000_000)));
        let keeper = keeper(&counters, &budget);
        let outbox = Arc::new(Outbox::new(1_000_000, 64, &budget));
        let enter = keep::Enter {
            client: Arc::from("d"),
            user: None,
            clean: false,
            expiry_secs: 100,
            outbox: Arc::clone(&outbox),
            will: None,
        };
        let entered = keeper.enter(enter).await.unwrap();
        let late = Arc::<Late>::default();
        let carrier: Arc<dyn Carrier> = late.clone();
        Self {
            fanout: Fanout::new(carrier, counters, keeper),
            late,
            outbox,
            entered,
        }
    }

    /// As the keeper has it.
    async fn keep(&self, filter: &str, qos: QoS) -> u64 {
        let add = keep::Add {
            filter: Arc::from(filter),
            subscription: keep::Sub {
                qos,
                no_local: false,
                retain_as_published: false,
                id: None,
            },
            retained: SendRetained::Never,
        };
        let turn = keep::Turn {
            subscribe: vec![add],
            ..keep::Turn::default()
        };
        let keeper = self.fanout.keeper();
        keeper.turn(self.entered.session, turn).await.unwrap()
    }

    /// As it is here, once the keeper has it.
    fn show(&self, filter: &str, qos: QoS, decided: u64) {
        let subscription = Subscription {
            outbox: Arc::clone(&self.outbox),
            qos,
            no_local: false,
            retain_as_published: false,
            id: None,
            kept: Some(Queued::from(decided)),
            since: 0,
        };
        let never = SendRetained::Never;
        self.fanout
            .subscribe(1, filter, subscription, never)
            .unwrap();
    }

    fn message(&self, payload: &str) -> Message {
        let mut publish = publish("a", payload);
        publish.qos = QoS::AtLeastOnce;
        self.fanout.message(2, &publish)
    }

    async fn publish(&self, message: Message) {
        let op = Op {
            message: Some(message),
            from: None,
            exchange: None,
            by: None,
        };
        let kept = self.fanout.keeper().publish(vec![op]).await.unwrap();
        let [Kept::Done(Some(message))] = &kept[..] else {
            panic!("it is kept: {kept:?}")
        };
        self.fanout.carry(vec![message.clone()]);
    }

    /// What came from the queue, and live.
    fn came(&self) -> (Vec<String>, Vec<String>) {
        let frames = std::mem::take(&mut *self.late.0.lock().unwrap());
        frames
            .into_iter()
            .for_each(|frame| self.fanout.deliver(frame));
        let text = |message: &Message| String::from_utf8_lossy(message.payload()).into_owned();
        let queue = std::iter::from_fn(|| self.entered.feed.pop());
        let queued = queue.filter_map(|item| item.message.as_ref().map(text));
        let live = std::iter::from_fn(|| self.outbox.pop());
        (
            queued.collect(),
            live.map(|one| text(&one.message)).collect(),
        )
    }
}

#[tokio::test]
async fn replacing_a_subscription_loses_no_message_and_doubles_none() {
    use QoS::{AtLeastOnce, AtMostOnce};
    for (before, after) in [(AtMostOnce, AtLeastOnce), (AtLeastOnce, AtMostOnce)] {
        let one = Replacing::start().await;
        let decided = one.keep("a", before).await;
        one.show("a", before, decided);
        one.publish(one.message("1")).await;
        // Numbered before the change, and matched behind it.
        let crossing = one.message("2");
        let decided = one.keep("a", after).await;
        one.publish(crossing).await;
        one.publish(one.message("3")).await;
        one.show("a", after, decided);
        one.publish(one.message("4")).await;
        let (queued, live) = one.came();
        let (at_first, then) = match before {
            AtMostOnce => (live, queued),
            _ => (queued, live),
        };
        assert_eq!(
            (at_first, then),
            (vec!["1".into()], vec!["2".into(), "3".into(), "4".into()])
        );
    }
}

#[tokio::test]
async fn replacing_a_subscription_twice_loses_no_message_that_is_still_on_its_way() {
    use QoS::{AtLeastOnce, AtMostOnce};
    let one = Replacing::start().await;
    for (qos, payload) in [
        (AtMostOnce, "1"),
        (AtLeastOnce, "2"),
        (AtLeastOnce, "3"),
        (AtMostOnce, "4"),
    ] {
        let decided = one.keep("a", qos).await;
        one.show("a", qos, decided);
        one.publish(one.message(payload)).await;
    }
    let (queued, live) = one.came();
    assert_eq!(queued, ["2", "3"]);
    assert_eq!(live, ["1", "4"]);
}

/// As it is when the broker ends: somebody has it in hand, and waits for room.
#[tokio::test]
async fn what_is_given_back_at_the_end_without_room_is_counted() {
    let counters = Arc::<Counters>::default();
    let keeper = keep::tests::full("$share/g/a", &counters).await;
    let late = Arc::<Late>::default();
    let fanout = Arc::new(Fanout::new(late, Arc::clone(&counters), keeper));
    let mut publish = publish("a", "m");
    publish.qos = QoS::AtLeastOnce;
    for _ in 0..3 {
        let message = fanout.message(1, &publish);
        fanout.shared().offer_to(&Arc::from("$share/g/a"), &message);
    }
    let mut running = std::pin::pin!(Arc::clone(&fanout).run());
    // It takes all three in hand, and hears that there is no room.
    let wait = timeout(Duration::from_millis(100), &mut running);
    wait.await.unwrap_err();
    assert_eq!(counters.dropped_shared.get(), 0);
    tokio::select! {
        () = &mut running => unreachable!("it never ends"),
        () = fanout.give_rest_back() => {}
    }
    assert_eq!(counters.dropped_shared.get(), 3);
}

#[tokio::test]
async fn a_subscription_beside_another_brings_each_message_once() {
    let one = Replacing::start().await;
    let decided = one.keep("a", QoS::AtMostOnce).await;
    one.show("a", QoS::AtMostOnce, decided);
    one.publish(one.message("1")).await;
    let decided = one.keep("#", QoS::AtLeastOnce).await;
    one.publish(one.message("2")).await;
    one.show("#", QoS::AtLeastOnce, decided);
    one.publish(one.message("3")).await;
    let (queued, live) = one.came();
    assert_eq!(
        (live, queued),
        (vec!["1".into()], vec!["2".into(), "3".into()])
    );
}

#[tokio::test]
async fn a_subscription_is_replaced_where_there_is_no_room_for_another() {
    let (name, filter) = ("$share/g/a", "a");
    let counters = Arc::<Counters>::default();
    let subscription = |budget: &Arc<Budget>, qos| Subscription {
        outbox: Arc::new(Outbox::new(1_000_000, 64, budget)),
        qos,
        no_local: false,
        retain_as_published: false,
        id: None,
        kept: None,
        since: 0,
    };
    let fanout = |bytes| {
        let budget = Arc::new(Budget::of(bytes));
        let keeper = keeper(&counters, &budget);
        let carrier = Arc::<Late>::default();
        (Fanout::new(carrier, Arc::clone(&counters), keeper), budget)
    };
    let (plain, budget) = fanout(weight(filter));
    let (shared, other) = fanout(shared_weight(name, filter));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let one = subscription(&budget, qos);
        let never = SendRetained::Never;
        plain.subscribe(1, filter, one.clone(), never).unwrap();
        plain.subscribe(1, "b", one, never).unwrap_err();
        let one = subscription(&other, qos);
        shared.share(1, name, filter, one.clone()).unwrap();
        shared.share(2, name, filter, one).unwrap_err();
        assert_eq!(plain.qos_of(1, filter), Some(qos));
        assert_eq!(shared.qos_of(1, name), Some(qos));
    }
}
