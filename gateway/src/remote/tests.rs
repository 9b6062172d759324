//! Against a server that does what the test says, with a journal behind.

use std::sync::{Mutex, MutexGuard};

use bytes::BytesMut;
use rumqttc::mqttbytes::{self, v4::Packet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
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
    /// Packets to be sent once the client is connected.
    send: Vec<Packet>,
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
                // The end of a connection is the client's affair.
                drop(serving.serve(stream).await);
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
        self.shared().send.push(Packet::Publish(publish));
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

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut read, mut is_subscribed) = (BytesMut::new(), false);
        loop {
            let mut write = BytesMut::new();
            if is_subscribed {
                for packet in self.shared().send.drain(..) {
                    packet.write(&mut write, usize::MAX).unwrap();
                }
            }
            while let Ok(packet) = Packet::read(&mut read, usize::MAX) {
                let answer = match &packet {
                    Packet::Connect(_) => Some(Packet::ConnAck(mqttbytes::v4::ConnAck::new(
                        mqttbytes::v4::ConnectReturnCode::Success,
                        false,
                    ))),
                    Packet::Subscribe(subscribe) => {
                        is_subscribed = true;
                        let filters = subscribe.filters.iter();
                        let codes =
                            filters.map(|one| mqttbytes::v4::SubscribeReasonCode::Success(one.qos));
                        Some(Packet::SubAck(mqttbytes::v4::SubAck::new(
                            subscribe.pkid,
                            codes.collect(),
                        )))
                    }
                    Packet::PingReq => Some(Packet::PingResp),
                    _ => None,
                };
                self.shared().came.push(packet);
                if let Some(answer) = answer {
                    answer.write(&mut write, usize::MAX).unwrap();
                }
            }
            stream.write_all(&write).await?;
            tokio::select! {
                read = stream.read_buf(&mut read) => if read? == 0 {
                    return Ok(());
                },
                () = self.to_send.notified() => {}
            }
        }
    }
}

/// A gateway as far as remotes need one.
struct Place {
    _dir: tempfile::TempDir,
    store: store::Running,
    ingest: Arc<Ingest>,
    local: Local,
    stop: CancellationToken,
    broker: JoinHandle<()>,
}

impl Place {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = crate::config::Config::defaults(dir.path());
        whole.store.reserve_bytes = 1 << 16;
        let clock = Arc::new(SystemClock);
        let (store, _) = Store::open(whole.store, clock.clone()).unwrap();
        let store = store.run().unwrap();
        let settings = ingest::Config::default();
        let ingest = Ingest::new(settings, Routes::NONE, store.handle(), clock);
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
            _dir: dir,
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
            ..Server::new("127.0.0.1", cloud.port)
        };
        let config = Config {
            subscriptions,
            ..Config::new("cloud", server)
        };
        Remote::new(config, self.local.clone(), self.ingest.clone())
    }

    async fn end(self) {
        self.stop.cancel();
        self.broker.await.unwrap();
        self.store.shutdown().await.unwrap();
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
    let remote = place.remote(&cloud, vec![kept("own/#", "own/")]);
    let handle = remote.handle();
    let running = tokio::spawn(remote.run(place.stop.clone()));
    cloud.publish(1, "own", b"{\"v\":1}");
    cloud.publish(2, "own/a", b"{\"v\":2}");
    until(|| cloud.acknowledged() == [1, 2]).await;
    let counts = handle.counted();
    assert_eq!((counts.received, counts.kept, counts.refused), (2, 2, 0));
    let journal = place.store.handle();
    let status = journal.status();
    assert_eq!((status.stored, status.quarantined), (1, 1));
    let listed = journal.listing().unwrap().quarantine(0, 10).unwrap();
    assert_eq!((&*listed[0].topic, &*listed[0].class), ("own", "topic"));
    place.stop.cancel();
    running.await.unwrap();
    place.end().await;
}
