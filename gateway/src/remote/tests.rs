//! Against a server that does what the test says, with a journal behind.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use bytes::BytesMut;
use rumqttc::mqttbytes::{
    self,
    v4::{Packet, SubscribeFilter},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{clock::SystemClock, ingest, mqtt::Version, store::Store};

/// A server of MQTT 3.1.1 with one client.
#[derive(Clone)]
struct Cloud {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    to_send: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    /// What came, over all connections.
    came: Vec<Packet>,
    answers: VecDeque<Packet>,
    /// Messages to be sent once the client has subscribed.
    messages: VecDeque<Packet>,
    is_subscribed: bool,
    has_session: bool,
    /// Grants no more than QoS 0.
    is_stingy: bool,
    /// Bytes that the client, or the network, took.
    written: usize,
}

impl Cloud {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cloud = Self {
            port: listener.local_addr().unwrap().port(),
            shared: Arc::default(),
            to_send: Arc::default(),
        };
        let serving = cloud.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, write) = stream.into_split();
                // The end of a connection is the client's affair.
                tokio::select! {
                    _ = serving.read(read) => {}
                    _ = serving.write(write) => {}
                }
                serving.shared().is_subscribed = false;
            }
        });
        cloud
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Sends a message of QoS 1.
    fn publish(&self, id: u16, topic: &str, payload: &[u8]) {
        let qos = mqttbytes::QoS::AtLeastOnce;
        let mut publish = mqttbytes::v4::Publish::new(topic, qos, payload);
        publish.pkid = id;
        self.shared().messages.push_back(Packet::Publish(publish));
        self.to_send.notify_one();
    }

    /// Packet identifiers of what was acknowledged, in order.
    fn acknowledged(&self) -> Vec<u16> {
        let shared = self.shared();
        let acks = shared.came.iter().filter_map(|packet| match packet {
            Packet::PubAck(ack) => Some(ack.pkid),
            _ => None,
        });
        acks.collect()
    }

    /// Filters that were taken out, in order.
    fn taken_out(&self) -> Vec<String> {
        let shared = self.shared();
        let all = shared.came.iter().filter_map(|packet| match packet {
            Packet::Unsubscribe(unsubscribe) => Some(unsubscribe.topics.clone()),
            _ => None,
        });
        all.flatten().collect()
    }

    async fn read(&self, mut stream: OwnedReadHalf) -> std::io::Result<()> {
        let mut read = BytesMut::new();
        while stream.read_buf(&mut read).await? > 0 {
            while let Ok(packet) = Packet::read(&mut read, usize::MAX) {
                let mut shared = self.shared();
                let answer = shared.answer(&packet);
                shared.answers.extend(answer);
                shared.came.push(packet);
            }
            self.to_send.notify_one();
        }
        Ok(())
    }

    async fn write(&self, mut stream: OwnedWriteHalf) -> std::io::Result<()> {
        loop {
            let next = {
                let mut shared = self.shared();
                let answer = shared.answers.pop_front();
                match (answer, shared.is_subscribed) {
                    (None, true) => shared.messages.pop_front(),
                    (answer, _) => answer,
                }
            };
            let Some(packet) = next else {
                self.to_send.notified().await;
                continue;
            };
            let mut bytes = BytesMut::new();
            packet.write(&mut bytes, usize::MAX).unwrap();
            stream.write_all(&bytes).await?;
            self.shared().written += bytes.len();
        }
    }
}

impl Shared {
    fn answer(&mut self, packet: &Packet) -> Option<Packet> {
        use mqttbytes::v4::{
            ConnAck, ConnectReturnCode, SubAck, SubscribeReasonCode as Code, UnsubAck,
        };
        Some(match packet {
            Packet::Connect(_) => {
                Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, self.has_session))
            }
            Packet::Subscribe(subscribe) => {
                (self.is_subscribed, self.has_session) = (true, true);
                let granted = |one: &SubscribeFilter| match self.is_stingy {
                    true => Code::Success(mqttbytes::QoS::AtMostOnce),
                    false => Code::Success(one.qos),
                };
                let codes = subscribe.filters.iter().map(granted).collect();
                Packet::SubAck(SubAck::new(subscribe.pkid, codes))
            }
            Packet::Unsubscribe(unsubscribe) => Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)),
            Packet::PingReq => Packet::PingResp,
            _ => return None,
        })
    }
}

/// A gateway as far as remotes need one.
struct Place {
    dir: tempfile::TempDir,
    store: store::Running,
    ingest: Arc<Ingest>,
    local: Local,
    stop: CancellationToken,
    broker: JoinHandle<()>,
}

impl Place {
    async fn start() -> Self {
        Self::with_room(64 << 20).await
    }

    /// With so many bytes for the journal.
    async fn with_room(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = crate::config::Config::defaults(dir.path());
        whole.store.reserve_bytes = 1 << 16;
        whole.store.max_bytes = max_bytes;
        let clock = Arc::new(SystemClock);
        let (store, _) = Store::open(whole.store, clock.clone()).unwrap();
        let store = store.run().unwrap();
        let settings = ingest::Config::default();
        let ingest = Ingest::new(settings, Routes(1), store.handle(), clock);
        let ingest = Arc::new(ingest);
        let broker = penstock_broker::Config {
            listeners: vec![penstock_broker::listener::Config::tcp(
                "127.0.0.1:0".parse().unwrap(),
            )],
            ..penstock_broker::Config::default()
        };
        let broker = broker.bind().await.unwrap();
        let stop = CancellationToken::new();
        Self {
            dir,
            store,
            local: broker.handle().local(),
            stop: stop.clone(),
            broker: tokio::spawn({
                let ingest = ingest.clone();
                async move { broker.run(ingest, stop).await.unwrap() }
            }),
            ingest,
        }
    }

    fn remote(&self, cloud: &Cloud, subscriptions: Vec<Subscription>) -> Remote {
        let server = Server {
            version: Version::V4,
            keep_alive: Duration::from_secs(5),
            ..Server::new("127.0.0.1", cloud.port)
        };
        let config = Config {
            subscriptions,
            ..Config::new("cloud", server)
        };
        Remote::new(config, self.local.clone(), self.ingest.clone()).remembering_in(self.dir.path())
    }

    fn run(&self, cloud: &Cloud, subscriptions: Vec<Subscription>) -> Running {
        let remote = self.remote(cloud, subscriptions);
        let (handle, stop) = (remote.handle(), CancellationToken::new());
        Running {
            handle,
            stop: stop.clone(),
            task: tokio::spawn(remote.run(stop)),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.broker.await.unwrap();
        self.store.shutdown().await.unwrap();
    }
}

struct Running {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn is(&self, state: State) {
        until(|| self.handle.state().0 == state).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn kept(filter: &str, prefix: &str) -> Subscription {
    Subscription {
        filter: filter.to_owned(),
        qos: 1,
        remote_prefix: prefix.to_owned(),
        local_prefix: String::new(),
        journal: true,
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), wait)
        .await
        .expect("it comes to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_the_journal_that_can_have_no_topic_here_is_in_quarantine() {
    let (cloud, place) = (Cloud::start().await, Place::start().await);
    let running = place.run(&cloud, vec![kept("own/#", "own/")]);
    cloud.publish(1, "own", b"{\"v\":1}");
    cloud.publish(2, "own/a", b"{\"v\":2}");
    until(|| cloud.acknowledged() == [1, 2]).await;
    let counts = running.handle.counted();
    assert_eq!((counts.received, counts.kept, counts.refused), (2, 2, 0));
    let journal = place.store.handle();
    let status = journal.status();
    assert_eq!((status.stored, status.quarantined), (1, 1));
    let listed = journal.listing().unwrap().quarantine(0, 10).unwrap();
    assert_eq!((&*listed[0].topic, &*listed[0].class), ("own", "topic"));
    running.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_no_longer_configured_is_taken_out_at_the_broker_once() {
    let (cloud, place) = (Cloud::start().await, Place::start().await);
    let all = || ["a/#", "b/#", "c/#"].map(|filter| kept(filter, ""));
    let running = place.run(&cloud, all().into());
    running.is(State::Connected).await;
    running.end().await;
    assert!(cloud.taken_out().is_empty());
    for _ in 0..2 {
        let running = place.run(&cloud, all()[1..2].into());
        running.is(State::Connected).await;
        running.end().await;
        assert_eq!(cloud.taken_out(), ["a/#", "c/#"]);
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_grants_less_than_was_asked_for_needs_a_person() {
    let (cloud, place) = (Cloud::start().await, Place::start().await);
    cloud.shared().is_stingy = true;
    let running = place.run(&cloud, vec![kept("a/#", "")]);
    running.is(State::Stopped).await;
    let (_, why) = running.handle.state();
    assert!(why.unwrap().contains("grants QoS 0 only"));
    running.end().await;
    let less = Subscription {
        qos: 0,
        ..kept("a/#", "")
    };
    let running = place.run(&cloud, vec![less]);
    running.is(State::Connected).await;
    running.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_an_orderly_end_what_was_kept_is_acknowledged_and_the_broker_told() {
    let (cloud, place) = (Cloud::start().await, Place::start().await);
    let running = place.run(&cloud, vec![kept("a", "")]);
    running.is(State::Connected).await;
    for id in 1..=2_000 {
        cloud.publish(id, "a", b"1");
    }
    let journal = place.store.handle();
    until(|| journal.status().stored > 0).await;
    running.end().await;
    until(|| cloud.shared().came.contains(&Packet::Disconnect)).await;
    let acknowledged = cloud.acknowledged().len() as u64;
    assert_eq!(acknowledged, journal.status().stored);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_room_is_bounded_in_bytes_and_the_status_says_that_it_waits() {
    // Fewer messages than there may be, and more bytes.
    const BYTES: usize = 1_000_000;
    let (cloud, place) = (Cloud::start().await, Place::with_room(4 << 20).await);
    let running = place.run(&cloud, vec![kept("a", "")]);
    let payload = format!("{{\"v\":\"{}\"}}", "x".repeat(BYTES));
    for id in 1..=20 {
        cloud.publish(id, "a", payload.as_bytes());
    }
    let says = |what: &str| {
        let (state, why) = running.handle.state();
        state == State::Connected && why.is_some_and(|why| why.contains(what))
    };
    until(|| says("wait for room")).await;
    running.task.abort();
    place.end().await;
}
