//! Against this project's own broker, whose verdicts a test holds, and against a
//! real Mosquitto.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{LazyLock, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::Duration,
};

use penstock_broker::{Admission, Admitted, Publish, Publisher, Receipt, Verdict as Said};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    dictionary::Known,
    forward::testing::{Model, batch, engine, large_record, record},
    mqtt::{Tls, Version},
};

mod closing;
mod originals;
mod refusing;

type Judge = Box<dyn FnMut(u64) -> Said + Send>;

/// Takes what is published, as the test wants it.
struct Inbox {
    judge: Plain<Judge>,
    /// What was accepted, in order.
    kept: watch::Sender<Vec<Publish>>,
    /// Receipts wait while this is false.
    open: watch::Sender<bool>,
    asked: AtomicUsize,
}

impl Inbox {
    fn positions(&self) -> Vec<u64> {
        self.kept.borrow().iter().map(position).collect()
    }

    async fn asked(&self, count: usize) {
        until(|| self.asked.load(SeqCst) >= count).await;
    }
}

static DICTIONARY: LazyLock<Dictionary> = LazyLock::new(crate::dictionary::tests::dictionary);

/// What a payload says, compressed or not.
fn json(payload: &[u8]) -> serde_json::Value {
    if payload.starts_with(b"{") {
        return serde_json::from_slice(payload).unwrap();
    }
    let known = Known::new(std::slice::from_ref(&*DICTIONARY)).unwrap();
    let mut inflated = Vec::with_capacity(64 * 1024);
    let size = known.inflate(DICTIONARY.id(), payload, &mut inflated);
    assert!(payload.len() < size.unwrap().unwrap());
    serde_json::from_slice(&inflated).unwrap()
}

fn position(publish: &Publish) -> u64 {
    let json = json(&publish.payload);
    json["sequence"].as_str().unwrap().parse().unwrap()
}

impl Admission for Inbox {
    #[expect(
        clippy::async_yields_async,
        reason = "an admission resolves to a receipt"
    )]
    fn admit<'a>(&'a self, _: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        Box::pin(async move {
            let verdicts: Vec<Said> = {
                let mut judge = self.judge.lock().unwrap();
                batch.iter().map(|one| judge(position(one))).collect()
            };
            let kept: Vec<Publish> = batch
                .iter()
                .zip(&verdicts)
                .filter(|(_, verdict)| **verdict == Said::Accepted)
                .map(|(publish, _)| publish.clone())
                .collect();
            self.kept.send_modify(|all| all.extend(kept));
            self.asked.fetch_add(batch.len(), SeqCst);
            let mut open = self.open.subscribe();
            let receipt: Receipt = Box::pin(async move {
                drop(open.wait_for(|open| *open).await);
                verdicts
            });
            receipt
        })
    }
}

/// A broker of ours.
struct Broker {
    port: u16,
    inbox: Arc<Inbox>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Broker {
    async fn start(change: impl FnOnce(&mut penstock_broker::Config)) -> Self {
        let mut config = penstock_broker::Config {
            listeners: vec![penstock_broker::listener::Config::tcp(
                "127.0.0.1:0".parse().unwrap(),
            )],
            ..penstock_broker::Config::default()
        };
        change(&mut config);
        let broker = config.bind().await.unwrap();
        let inbox = Arc::new(Inbox {
            judge: Plain::new(Box::new(|_| Said::Accepted)),
            kept: watch::Sender::new(Vec::new()),
            open: watch::Sender::new(true),
            asked: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let port = broker.local_addr().unwrap().port();
        let running = broker.run(inbox.clone(), stop.clone());
        Self {
            port,
            inbox,
            stop,
            task: tokio::spawn(async move { running.await.unwrap() }),
        }
    }

    fn judge(&self, judge: impl FnMut(u64) -> Said + Send + 'static) {
        *self.inbox.judge.lock().unwrap() = Box::new(judge);
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn config(port: u16, version: Version) -> Config {
    let server = Server {
        version,
        timeout: Duration::from_secs(20),
        ..Server::new("127.0.0.1", port)
    };
    Config::new(server)
}

fn mqtt(config: Config) -> Mqtt {
    Mqtt::new("test".into(), config).unwrap()
}

fn all_acknowledged(outcomes: &Outcomes) -> bool {
    let all = |outcomes: &Vec<Outcome>| outcomes.iter().all(|o| *o == Outcome::Acknowledged);
    outcomes.as_ref().is_ok_and(all)
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("it comes to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_in_order_on_their_topics_and_name_themselves() {
    for version in [Version::V4, Version::V5] {
        let broker = Broker::start(|_| {}).await;
        let mqtt = mqtt(config(broker.port, version));
        assert!(all_acknowledged(&mqtt.send(batch(1..=300)).await));
        assert_eq!(broker.inbox.positions(), (1..=300).collect::<Vec<_>>());
        let first = broker.inbox.kept.borrow()[0].clone();
        assert_eq!(&*first.topic, "telemetry/_/device-1/iot.telemetry.v1");
        assert!(!first.retain && !first.dup);
        let json: serde_json::Value = serde_json::from_slice(&first.payload).unwrap();
        if version == Version::V5 {
            let known = first.properties.unwrap();
            let of = |name: &str| {
                let mut user = known.user.iter();
                user.find(|(known, _)| **known == *name).unwrap().1.clone()
            };
            assert_eq!(
                known.content_type.as_deref(),
                Some("application/cloudevents+json")
            );
            assert_eq!(json["eventkey"], *of("idempotency-key"));
            assert_eq!(json["source"], *of("source"));
            assert_eq!(*of("penstock-via"), **mqtt.gateway.as_str());
        } else {
            assert!(first.properties.is_none());
        }
        mqtt.close().await;
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_dictionary_events_are_small_and_say_what_they_are() {
    for version in [Version::V4, Version::V5] {
        let broker = Broker::start(|_| {}).await;
        let mqtt = mqtt(Config {
            dictionary: Some(DICTIONARY.clone()),
            ..config(broker.port, version)
        });
        assert!(all_acknowledged(&mqtt.send(batch(1..=30)).await));
        assert_eq!(broker.inbox.positions(), (1..=30).collect::<Vec<_>>());
        let first = broker.inbox.kept.borrow()[0].clone();
        assert!(!first.payload.starts_with(b"{"));
        if version == Version::V5 {
            let known = first.properties.unwrap();
            let names: Vec<&str> = known.user.iter().map(|(name, _)| &**name).collect();
            assert_eq!(
                names,
                ["idempotency-key", "penstock-via", "content-encoding"]
            );
            let media = known.content_type.as_deref();
            assert_eq!(media, Some("application/cloudevents+json"));
        }
        mqtt.close().await;
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_connection_leaves_in_doubt_goes_again_in_order() {
    let broker = Broker::start(|_| {}).await;
    let (port, wire) = wire(broker.port).await;
    let destination = mqtt(Config {
        in_flight: 20,
        ..config(port, Version::V5)
    });
    broker.inbox.open.send_replace(false);
    let cut = async {
        // Both batches are there, and nobody has heard of it.
        broker.inbox.asked(20).await;
        wire.send_modify(|cuts| *cuts += 1);
    };
    let (first, second, ()) = tokio::join!(
        biased;
        destination.send(batch(1..=10)),
        destination.send(batch(11..=20)),
        cut
    );
    for outcomes in [&first, &second] {
        let unknown = |outcome: &Outcome| matches!(outcome, Outcome::Unknown(_));
        assert!(
            outcomes.as_ref().unwrap().iter().all(unknown),
            "{outcomes:?}"
        );
    }
    broker.inbox.open.send_replace(true);
    assert!(all_acknowledged(&destination.send(batch(1..=10)).await));
    assert!(all_acknowledged(&destination.send(batch(11..=20)).await));
    let expect: Vec<u64> = (1..=20).chain(1..=20).collect();
    assert_eq!(broker.inbox.positions(), expect);
    broker.stop().await;
}

/// A wire that can be cut: where it begins, and the count of cuts.
async fn wire(to: u16) -> (u16, watch::Sender<u32>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (cuts, cut) = watch::channel(0_u32);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cut.clone();
            cut.borrow_and_update();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await?;
                tokio::select! {
                    both = tokio::io::copy_bidirectional(&mut near, &mut far) => both.map(drop),
                    _ = cut.changed() => Ok(()),
                }
            });
        }
    });
    (port, cuts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_become_outcomes_of_their_message_alone() {
    let broker = Broker::start(|_| {}).await;
    broker.judge(|position| match position {
        2 => Said::Refused {
            reason: 0x90,
            text: "topic",
        },
        3 => Said::Refused {
            reason: 0x99,
            text: "payload",
        },
        5 => Said::Refused {
            reason: 0x83,
            text: "own",
        },
        6 => Said::Refused {
            reason: 0x80,
            text: "none",
        },
        _ => Said::Accepted,
    });
    let mqtt = mqtt(config(broker.port, Version::V5));
    let outcomes = mqtt.send(batch(1..=4)).await.unwrap();
    assert!(
        matches!(
            &outcomes[..],
            [
                Outcome::Acknowledged,
                Outcome::Permanent(topic),
                Outcome::Permanent(payload),
                Outcome::Acknowledged,
            ] if topic.ends_with(": topic") && payload.ends_with(": payload")
        ),
        "{outcomes:?}"
    );
    // What is refused for now stops what is not on the wire yet, so these go one by one.
    let one = async |position| mqtt.send(batch(position..=position)).await.unwrap();
    let own = one(5).await;
    assert!(
        matches!(&own[..], [Outcome::Transient(own)] if own.ends_with(": own")),
        "{own:?}"
    );
    let none = one(6).await;
    assert!(matches!(&none[..], [Outcome::Transient(_)]), "{none:?}");
    assert_eq!(one(7).await, [Outcome::Acknowledged]);
    assert_eq!(broker.inbox.positions(), [1, 4, 7]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_throttles_and_one_that_forbids_needs_a_person() {
    let broker = Broker::start(|_| {}).await;
    let mqtt = mqtt(config(broker.port, Version::V5));
    broker.judge(|_| Said::Busy);
    let outcomes = mqtt.send(batch(1..=1)).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Throttled { retry_after: None }]));
    broker.judge(|_| Said::Refused {
        reason: 0x87,
        text: "",
    });
    let outcomes = mqtt.send(batch(1..=1)).await;
    assert!(
        matches!(outcomes, Err(Error::Misconfigured(_))),
        "{outcomes:?}"
    );
    // While others are taken on the same connection it is the message that is forbidden.
    broker.judge(|position| match position {
        1 => Said::Accepted,
        _ => Said::Refused {
            reason: 0x87,
            text: "",
        },
    });
    let outcomes = mqtt.send(batch(1..=2)).await.unwrap();
    assert!(
        matches!(outcomes[..], [Outcome::Acknowledged, Outcome::Permanent(_)]),
        "{outcomes:?}"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_would_not_take_is_not_sent_and_costs_no_connection() {
    let broker = Broker::start(|config| config.packet_bytes_max = 2_000).await;
    let mqtt = mqtt(config(broker.port, Version::V5));
    let items = [record(1, 1), large_record(2, 3_000), record(3, 1)]
        .map(|record| crate::forward::batch::Item::check(record).unwrap());
    let batch = Batch {
        items: items.into(),
    };
    let outcomes = mqtt.send(batch).await.unwrap();
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Acknowledged, Outcome::Permanent(why), Outcome::Acknowledged]
                if why.ends_with("the server takes 2000")
        ),
        "{outcomes:?}"
    );
    assert_eq!(broker.inbox.positions(), [1, 3]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_unavailable() {
    let broker = Broker::start(|_| {}).await;
    let port = broker.port;
    let mqtt = mqtt(config(port, Version::V5));
    assert!(all_acknowledged(&mqtt.send(batch(1..=1)).await));
    broker.stop().await;
    for _ in 0..2 {
        let outcomes = mqtt.send(batch(2..=2)).await;
        assert!(
            matches!(&outcomes, Err(Error::Unavailable { .. }))
                || matches!(&outcomes, Ok(all) if matches!(all[..], [Outcome::Unknown(_)])),
            "{outcomes:?}"
        );
    }
}

/// A server of another make, killed when dropped.
struct Mosquitto {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Mosquitto {
    /// `None`, loudly, where there is none to run. `settings` come after `listener`.
    async fn start(test: &str, settings: impl FnOnce(&Path) -> String) -> Option<Self> {
        let program = [
            "/usr/sbin/mosquitto",
            "/usr/local/sbin/mosquitto",
            "mosquitto",
        ]
        .into_iter()
        .find(|program| Command::new(program).arg("-h").output().is_ok());
        let Some(program) = program else {
            let required = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
            assert!(
                !required("CI") && !required("PENSTOCK_REQUIRE_TOOLS"),
                "no mosquitto, and tests that need one must not be skipped here"
            );
            eprintln!("SKIPPED: {test}: no mosquitto");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        // It cannot be told to find a port; between finding one and taking it
        // somebody else may.
        for _ in 0..20 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            // Started as root it would become another user, who may not read its files.
            let text = format!("user root\nlistener {port} 127.0.0.1\n{settings}\n");
            std::fs::write(dir.path().join("conf"), text).unwrap();
            let mut process = Self::spawn(program, dir.path());
            if Self::is_ready(&mut process, port).await {
                return Some(Self { process, port, dir });
            }
        }
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        panic!("mosquitto does not start: {log}");
    }

    fn spawn(program: &str, dir: &Path) -> Child {
        Command::new(program)
            .arg("-c")
            .arg(dir.join("conf"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap()
    }

    /// Whether it listens, rather than having ended.
    async fn is_ready(process: &mut Child, port: u16) -> bool {
        let address = ("127.0.0.1", port);
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process.try_wait().unwrap().is_none()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_takes_events_and_nobody_subscribing_is_success() {
    for version in [Version::V4, Version::V5] {
        let Some(server) = Mosquitto::start("mosquitto_takes_events...", |_| {
            "allow_anonymous true".into()
        })
        .await
        else {
            return;
        };
        let mqtt = mqtt(config(server.port, version));
        // Mosquitto announces a receive maximum of 20, and answers 0x10.
        assert!(all_acknowledged(&mqtt.send(batch(1..=500)).await));
        mqtt.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_needs_a_person() {
    for version in [Version::V4, Version::V5] {
        let Some(server) = Mosquitto::start("a_wrong_password...", |dir| {
            let file = dir.join("passwords");
            let made = Command::new("mosquitto_passwd")
                .args(["-b", "-c"])
                .arg(&file)
                .args(["plant", "right"])
                .status();
            assert!(made.is_ok_and(|status| status.success()));
            format!("allow_anonymous false\npassword_file {}", file.display())
        })
        .await
        else {
            return;
        };
        let with = |password: &str| {
            let plain = config(server.port, version);
            mqtt(Config {
                server: Server {
                    user: Some("plant".into()),
                    password: Some(password.into()),
                    ..plain.server
                },
                ..plain
            })
        };
        let outcomes = with("wrong").send(batch(1..=1)).await;
        assert!(
            matches!(&outcomes, Err(Error::Misconfigured(_))),
            "{outcomes:?}"
        );
        assert!(all_acknowledged(&with("right").send(batch(1..=1)).await));
    }
}

/// Files of a certificate authority, a server and a client.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "plant authority");
    write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, names) in [
        ("server", vec!["127.0.0.1".to_owned()]),
        ("client", vec!["plant".to_owned()]),
    ] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_prove_who_they_are_or_a_person_is_needed() {
    let Some(server) = Mosquitto::start("both_sides_prove...", |dir| {
        certificates(dir);
        format!(
            "allow_anonymous true\ncafile {0}/ca.pem\ncertfile {0}/server.pem\nkeyfile {0}/server.key\nrequire_certificate true",
            dir.display()
        )
    })
    .await
    else {
        return;
    };
    let dir = server.dir.path();
    let strangers = tempfile::tempdir().unwrap();
    certificates(strangers.path());
    let with = |ca: &Path, identity: Option<&Path>, version| {
        let plain = config(server.port, version);
        mqtt(Config {
            server: Server {
                tls: Some(Tls {
                    ca: Some(ca.join("ca.pem")),
                    identity: identity.map(|dir| (dir.join("client.pem"), dir.join("client.key"))),
                    alpn: Vec::new(),
                }),
                ..plain.server
            },
            ..plain
        })
    };
    for version in [Version::V4, Version::V5] {
        let right = with(dir, Some(dir), version).send(batch(1..=10)).await;
        assert!(all_acknowledged(&right), "{right:?}");
        let stranger = strangers.path();
        for (ca, identity) in [(stranger, Some(dir)), (dir, Some(stranger)), (dir, None)] {
            let outcomes = with(ca, identity, version).send(batch(1..=1)).await;
            assert!(
                matches!(&outcomes, Err(Error::Misconfigured(_))),
                "{outcomes:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_server_does_nothing_is_lost_and_the_order_of_devices_is_kept() {
    const TOTAL: u64 = 3_000;
    let broker = Broker::start(|config| config.receive_max = 50).await;
    // Now and then there is no room, and whatever is on its way is turned away too.
    let mut asked = 0_u32;
    let mut refused: Option<u64> = None;
    broker.judge(move |position| {
        asked += 1;
        if let Some(first) = refused {
            if position > first {
                return Said::Busy;
            }
            refused = refused.filter(|first| position < *first);
        } else if asked.is_multiple_of(701) {
            refused = Some(position);
            return Said::Busy;
        }
        Said::Accepted
    });
    let model = Model::new();
    let (port, wire) = wire(broker.port).await;
    let destination = mqtt(config(port, Version::V5));
    let (engine, _) = engine(&model, Arc::new(destination), 1_000);
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    for position in 1..=TOTAL {
        model.append(record(position, u8::try_from(position % 7).unwrap()));
        if position % (TOTAL / 6) == 0 {
            let delivered = model.disk.lock().unwrap().delivered;
            wire.send_modify(|cuts| *cuts += 1);
            until(|| model.disk.lock().unwrap().delivered > delivered).await;
        }
    }
    until(|| model.backlog() == 0).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(model.disk.lock().unwrap().dead.is_empty());
    // A resend is a whole run from the first in doubt on: first arrivals are in order.
    let mut first = BTreeMap::new();
    for (at, position) in broker.inbox.positions().into_iter().enumerate() {
        first.entry(position).or_insert(at);
    }
    let own: Vec<(u64, usize)> = first.range(..=TOTAL).map(|(p, at)| (*p, *at)).collect();
    assert_eq!(own.len() as u64, TOTAL);
    for device in 0..7 {
        let of = own.iter().filter(|(position, _)| position % 7 == device);
        assert!(of.map(|(_, at)| at).is_sorted(), "order of device {device}");
    }
    broker.stop().await;
}
