//! One gateway with every kind of destination at once, each behind a wire of its own.

use std::{fmt::Write as _, path::PathBuf, thread, time::Duration};

use crate::{
    Gateway, HttpReceiver, KafkaServer, MotoServer, NatsServer, Numbered, OpenSearchServer,
    PostgresServer, Sandbox, Setup, Wire,
    numbered::Found,
    postgres::{PASSWORD, USER},
    status::Status,
};

/// How long a destination waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// As the gateway would make it, with a column that counts insertions.
const TABLE: &str = "\
    CREATE TABLE telemetry (deliverykey uuid PRIMARY KEY, eventkey uuid NOT NULL, \
        correctedtime timestamptz, time timestamptz NOT NULL, \
        recordedtime timestamptz NOT NULL, device text NOT NULL, site text, \
        type text NOT NULL, event jsonb NOT NULL, place bigserial)";
const ROWS: &str = "SELECT event FROM telemetry ORDER BY place";

/// What docs/delivery.md promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Each event once, in the order of its device.
    Once,
    /// The same as long as the gateway is not killed, and at least once otherwise.
    OnceWithoutKill,
    /// At least once, in the order of its device.
    Copies,
    /// At least once, in any order.
    CopiesInAnyOrder,
}

/// The destinations, by their names, which are those of their kinds.
pub const DESTINATIONS: [(&str, Promise); 13] = [
    ("file", Promise::Once),
    ("http", Promise::Copies),
    ("nats", Promise::Once),
    ("kafka", Promise::OnceWithoutKill),
    ("kafka-transactions", Promise::Once),
    ("kinesis", Promise::Copies),
    ("sqs", Promise::Once),
    ("sns", Promise::Once),
    ("eventbridge", Promise::CopiesInAnyOrder),
    ("s3", Promise::Once),
    ("opensearch", Promise::Once),
    ("postgres", Promise::Once),
    ("mqtt", Promise::Once),
];

/// The servers, the wires to them, and the configuration of the gateway.
#[derive(Debug)]
pub struct Everywhere {
    /// For a gateway with all of them.
    pub setup: Setup,
    /// By the destination's name; `file` has none.
    pub wires: Vec<(&'static str, Wire)>,
    moto: MotoServer,
    queues: [String; 2],
    kafka: KafkaServer,
    nats: NatsServer,
    opensearch: OpenSearchServer,
    postgres: PostgresServer,
    receiver: HttpReceiver,
    /// The broker of `mqtt`: another gateway, which keeps each key once.
    far: Gateway,
    _far_sandbox: Sandbox,
}

impl Everywhere {
    /// Starts all the servers; `None`, said aloud, where one is missing.
    ///
    /// # Panics
    /// When one does not start.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let mut to_kafka = Vec::new();
        // Those that take long start beside each other.
        let (opensearch, kafka, moto, postgres) = thread::scope(|scope| {
            let opensearch = scope.spawn(|| OpenSearchServer::start(sandbox));
            let kafka = scope.spawn(|| {
                let (kafka, _) = KafkaServer::with_doors(sandbox, |door| {
                    let wire = Wire::to(door);
                    let port = wire.port;
                    to_kafka.push(wire);
                    port
                })?;
                for topic in ["plain", "transactions"] {
                    kafka.create_topic(topic, &[]);
                }
                Some(kafka)
            });
            let moto = scope.spawn(|| MotoServer::start(sandbox));
            let postgres = PostgresServer::start(sandbox);
            let done = "it started";
            (
                opensearch.join().expect(done),
                kafka.join().expect(done),
                moto.join().expect(done),
                postgres,
            )
        });
        let (opensearch, kafka, moto, postgres) = (opensearch?, kafka?, moto?, postgres?);
        let nats = NatsServer::start(sandbox)?;
        let receiver = HttpReceiver::start(sandbox);
        let far_sandbox = Sandbox::new();
        let far = Gateway::start(&Setup::new(&far_sandbox).to_file("file"));
        postgres.query(TABLE);
        moto.create_stream("stream");
        moto.create_bus("plant");
        moto.create_bucket("lake");
        let topic = moto.create_topic("topic.fifo");
        let queues = [
            moto.create_queue("queue.fifo"),
            moto.create_queue("behind.fifo"),
        ];
        moto.subscribe(&topic, &queues[1], None);

        let mut wires: Vec<(&str, Wire)> = ["kafka", "kafka-transactions"]
            .into_iter()
            .zip(to_kafka)
            .collect();
        for (name, port) in [
            ("http", receiver.port),
            ("nats", nats.port),
            ("kinesis", moto.port),
            ("sqs", moto.port),
            ("sns", moto.port),
            ("eventbridge", moto.port),
            ("s3", moto.port),
            ("opensearch", opensearch.port),
            ("postgres", postgres.port),
            ("mqtt", far.setup().mqtt),
        ] {
            wires.push((name, Wire::to(port)));
        }
        let setup = configured(sandbox, &wires, &topic, &queues[0]);
        Some(Self {
            setup,
            wires,
            moto,
            queues,
            kafka,
            nats,
            opensearch,
            postgres,
            receiver,
            far,
            _far_sandbox: far_sandbox,
        })
    }

    /// Holds what every place has against what was published and what the gateway says of it,
    /// prints it, and sees to it that each keeps its promise. Gives what was found, in the order of [`DESTINATIONS`].
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn audit(
        &self,
        sandbox: &Sandbox,
        published: &Numbered,
        status: &Status,
        was_killed: bool,
    ) -> Vec<(&'static str, Found)> {
        self.far.wait_until_drained(Duration::from_secs(60));
        // Most of it is waiting for Java and Python to start.
        let found: Vec<(&str, Found)> = thread::scope(|scope| {
            let looks = DESTINATIONS.map(|(name, _)| {
                let look = move || {
                    let dir = self.dump(sandbox, name, published.acked());
                    let key = if name == "mqtt" { "id" } else { "eventkey" };
                    published.found(name, &dir, key)
                };
                (name, scope.spawn(look))
            });
            let found = |(name, look): (_, thread::ScopedJoinHandle<'_, Found>)| {
                let found = look
                    .join()
                    .unwrap_or_else(|_| panic!("{name} is not right"));
                (name, found)
            };
            looks.into_iter().map(found).collect()
        });
        let mut table = String::new();
        for ((name, promise), (_, found)) in DESTINATIONS.iter().zip(&found) {
            let (events, copies, late) = (found.keys.len(), found.copies(), found.late);
            let ledger = status.destination(name);
            assert_eq!(ledger.routed, events as u64, "{name}");
            assert_eq!(
                (ledger.delivered, ledger.dead),
                (ledger.routed, 0),
                "{name}"
            );
            writeln!(
                table,
                "{name:20} {events:5} events {copies:4} copies {late:4} out of order  {promise:?}"
            )
            .expect("a string takes text");
        }
        println!(
            "of {} published, {} acknowledged; routed = delivered = events everywhere\n{table}",
            published.published(),
            published.acked()
        );
        for (name, copies) in self.refused() {
            println!("{name} refused {copies} copies");
        }
        let (_, first) = &found[0];
        for ((name, promise), (_, found)) in DESTINATIONS.iter().zip(&found) {
            assert_eq!(
                found.keys, first.keys,
                "{name} and {} differ",
                DESTINATIONS[0].0
            );
            let once = match promise {
                Promise::Once => true,
                Promise::OnceWithoutKill => !was_killed,
                Promise::Copies | Promise::CopiesInAnyOrder => false,
            };
            if once {
                assert_eq!(found.copies(), 0, "{name} has each event once\n{table}");
            }
            if *promise != Promise::CopiesInAnyOrder {
                assert_eq!(found.late, 0, "{name} keeps the order of devices\n{table}");
            }
        }
        found
    }

    /// Second copies that were sent to a destination which refuses them, as far as it says.
    pub fn refused(&self) -> [(&'static str, u64); 2] {
        // A row that is there already takes a place, too.
        let places = "SELECT max(place) - count(*) FROM telemetry";
        let rows = self.postgres.query(places);
        let rows = rows.trim().parse().expect("a count");
        [
            ("postgres", rows),
            ("mqtt", self.far.status().ledger.duplicate),
        ]
    }

    /// Ends the gateway behind `mqtt` and looks through its log.
    pub fn finish(self) {
        self.far.finish();
    }

    /// Writes what is at a destination into a directory, where so many are sure to be.
    fn dump(&self, sandbox: &Sandbox, name: &str, count: u64) -> PathBuf {
        let [queue, behind] = &self.queues;
        match name {
            "file" => self.setup.data().join("file"),
            "http" => self.receiver.dir().to_path_buf(),
            "nats" => self.nats.dump(sandbox, "TELEMETRY"),
            "kafka" => self.kafka.dump(sandbox, "plain", count),
            "kafka-transactions" => self.kafka.dump(sandbox, "transactions", count),
            "kinesis" => self.moto.dump(sandbox, "stream"),
            "sqs" => self.moto.messages(sandbox, "queue", queue),
            "sns" => self.moto.messages(sandbox, "behind", behind),
            "eventbridge" => self.moto.bus_events(sandbox, "plant"),
            "s3" => self.moto.objects(sandbox, "lake"),
            "opensearch" => self.opensearch.dump(sandbox, "telemetry-*"),
            "postgres" => self.postgres.dump(sandbox, "telemetry", ROWS),
            "mqtt" => self.far.setup().data().join("file"),
            other => panic!("no destination {other}"),
        }
    }
}

/// A gateway with all of them. Nothing is compressed, so that marks are found, and nobody is
/// patient.
fn configured(sandbox: &Sandbox, wires: &[(&str, Wire)], topic: &str, queue: &str) -> Setup {
    let port = |name: &str| {
        let of_name = wires.iter().find(|(of, _)| *of == name);
        of_name.map(|(_, wire)| wire.port).expect("it has a wire")
    };
    let amazon = |name: &str, keys: &str| {
        let text = format!(
            "type = \"{name}\"\n{keys}\nregion = \"eu-central-1\"\n\
             endpoint = \"http://127.0.0.1:{}\"\naccess_key_id = \"AKIA\"\n\
             secret_access_key = \"secret\"\nconnect_timeout = \"2s\"\nlinger = \"20ms\"",
            port(name)
        );
        (name.to_owned(), text)
    };
    let kafka = |name: &str, keys: &str| {
        let text = format!(
            "type = \"kafka\"\nbrokers = [\"127.0.0.1:{}\"]\ncompression = \"none\"\n\
             connect_timeout = \"2s\"\nlinger = \"20ms\"\n{keys}",
            port(name)
        );
        (name.to_owned(), text)
    };
    let plain = |name: &str, text: String| (name.to_owned(), text);
    let tables = [
        plain(
            "http",
            format!(
                "type = \"http\"\nurl = \"http://127.0.0.1:{}/\"\ngzip = false\n\
                 connect_timeout = \"2s\"\nlinger = \"20ms\"",
                port("http")
            ),
        ),
        plain(
            "nats",
            format!(
                "type = \"nats\"\nservers = [\"nats://127.0.0.1:{}\"]\n\
                 stream = \"TELEMETRY\"\nsubject = \"events.{{device}}.{{type}}\"",
                port("nats")
            ),
        ),
        kafka("kafka", "topic = \"plain\""),
        kafka(
            "kafka-transactions",
            "topic = \"transactions\"\ntransactional = true",
        ),
        amazon("kinesis", "stream = \"stream\""),
        amazon("sqs", &format!("queue = \"{queue}\"")),
        amazon("sns", &format!("topic = \"{topic}\"")),
        amazon("eventbridge", "bus = \"plant\""),
        amazon("s3", "bucket = \"lake\"\nformat = \"ndjson\""),
        plain(
            "opensearch",
            format!(
                "type = \"opensearch\"\nurl = \"http://127.0.0.1:{}\"\ngzip = false\n\
                 connect_timeout = \"2s\"\nlinger = \"20ms\"",
                port("opensearch")
            ),
        ),
        plain(
            "postgres",
            format!(
                "type = \"postgres\"\nservers = [\"127.0.0.1:{}\"]\ndatabase = \"postgres\"\n\
                 user = \"{USER}\"\npassword = \"{PASSWORD}\"\n\
                 connect_timeout = \"2s\"\nlinger = \"20ms\"",
                port("postgres")
            ),
        ),
        plain(
            "mqtt",
            format!(
                "type = \"mqtt\"\nserver = \"mqtt://127.0.0.1:{}\"\n\
                 topic = \"devices/{{device}}/{{type}}\"",
                port("mqtt")
            ),
        ),
    ];
    let mut setup = Setup::new(sandbox).to_file("file");
    for (name, keys) in tables {
        setup = setup.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntimeout = \"{}s\"\nretry_max = \"1s\"\n{keys}",
            PATIENCE.as_secs()
        ));
    }
    setup
}
