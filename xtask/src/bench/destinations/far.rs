//! What backlogs go to: the servers of the tests, and sinks where a server would be the slow
//! part. Amazon's services are [`super::amazon`], or moto where the kind says so.

use anyhow::{Result, ensure};
use penstock_tests::{
    KafkaServer, MotoServer, NatsServer, OpenSearchServer, PostgresServer, Sandbox, postgres,
};

use super::{super::server::Server, CONNECTIONS, amazon::Amazon, name, sink::Sink};

/// All that can be measured.
pub(super) const KINDS: [&str; 17] = [
    "file",
    "http",
    "mqtt",
    "nats",
    "kafka",
    "postgres",
    "opensearch",
    "kinesis",
    "kinesis-few",
    "kinesis-aggregate",
    "sqs",
    "sqs-fifo",
    "sns",
    "sns-fifo",
    "eventbridge",
    "s3",
    "kinesis-moto",
];
/// Of these, those that say nothing of the gateway.
pub(super) const ONLY_WHEN_ASKED: [&str; 1] = ["kinesis-moto"];

/// Devices of a fleet that fills requests to a stream: they have one record of each.
const FLEET: usize = 1_000;

/// A server, for as long as it is needed.
pub(super) struct Far {
    what: What,
    /// Goes after the server that works in it.
    _sandbox: Sandbox,
}

enum What {
    File,
    Http(Sink),
    Mqtt(Server),
    Nats(NatsServer),
    Kafka(KafkaServer),
    Postgres(PostgresServer),
    OpenSearch(OpenSearchServer),
    Moto(MotoServer),
    Amazon(Amazon, Service),
}

/// Which of Amazon's, and how it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Kinesis { aggregate: bool, devices: usize },
    Sqs { fifo: bool },
    Sns { fifo: bool },
    EventBridge,
    S3,
}

impl Service {
    fn of(kind: &str) -> Option<Self> {
        let stream = |aggregate, devices| Self::Kinesis { aggregate, devices };
        Some(match kind {
            "kinesis" => stream(false, FLEET),
            "kinesis-few" => stream(false, CONNECTIONS),
            "kinesis-aggregate" => stream(true, CONNECTIONS),
            "sqs" => Self::Sqs { fifo: false },
            "sqs-fifo" => Self::Sqs { fifo: true },
            "sns" => Self::Sns { fifo: false },
            "sns-fifo" => Self::Sns { fifo: true },
            "eventbridge" => Self::EventBridge,
            "s3" => Self::S3,
            _ => return None,
        })
    }

    /// What a queue or topic of that name is called there.
    fn called(self, name: &str) -> String {
        match self {
            Self::Sqs { fifo: true } | Self::Sns { fifo: true } => format!("{name}.fifo"),
            _ => name.to_owned(),
        }
    }
}

impl Far {
    /// Starts what `kind` needs for so many rounds; `None` where it is missing.
    pub(super) async fn start(kind: &str, rounds: usize) -> Result<Option<Self>> {
        let sandbox = Sandbox::new();
        let what = match kind {
            "file" => Some(What::File),
            "http" => Some(What::Http(Sink::start().await?)),
            "mqtt" => Some(What::Mqtt(Server::mosquitto()?)),
            "nats" => NatsServer::start(&sandbox).map(What::Nats),
            "kafka" => KafkaServer::start(&sandbox, |port| port).map(|server| {
                (0..rounds).for_each(|round| server.create_topic(&name(round), &[]));
                What::Kafka(server)
            }),
            "postgres" => PostgresServer::start(&sandbox).map(What::Postgres),
            "opensearch" => OpenSearchServer::start(&sandbox).map(What::OpenSearch),
            "kinesis-moto" => MotoServer::start(&sandbox).map(|server| {
                (0..rounds).for_each(|round| server.create_stream(&name(round)));
                What::Moto(server)
            }),
            other => match Service::of(other) {
                Some(service) => Some(What::Amazon(Amazon::start()?, service)),
                None => anyhow::bail!("{other} is no kind of destination"),
            },
        };
        Ok(what.map(|what| Self {
            what,
            _sandbox: sandbox,
        }))
    }

    /// How much smaller a backlog is, so that a slow server does not take hours: moto is a
    /// stand-in in Python, and a request to a queue has ten messages.
    pub(super) const fn slower(&self) -> u64 {
        match &self.what {
            What::Moto(_) => 50,
            What::OpenSearch(_) => 10,
            What::Amazon(_, Service::Sqs { .. } | Service::Sns { .. } | Service::EventBridge) => 5,
            _ => 1,
        }
    }

    /// From how many devices it should come.
    pub(super) const fn devices(&self) -> usize {
        match &self.what {
            What::Amazon(_, Service::Kinesis { devices, .. }) => *devices,
            _ => CONNECTIONS,
        }
    }

    /// Whether as much arrived as was delivered, where the far side counts it.
    pub(super) fn check(&self, name: &str, delivered: u64) -> Result<()> {
        let What::Amazon(server, service) = &self.what else {
            return Ok(());
        };
        let arrived = server.count(&service.called(name));
        let is_all = match service {
            // Each entry or object has several.
            Service::S3
            | Service::Kinesis {
                aggregate: true, ..
            } => arrived > 0,
            _ => arrived == delivered,
        };
        ensure!(is_all, "{delivered} were delivered, and {arrived} arrived");
        Ok(())
    }

    /// The table of the destination of a round.
    pub(super) fn destination(&self, round: usize) -> String {
        let name = name(round);
        let keys = match &self.what {
            What::File => {
                format!("type = \"file\"\npath = \"{name}\"\nfiles_max = 2\n")
            }
            What::Http(sink) => format!("type = \"http\"\nurl = \"http://{}\"\n", sink.address),
            What::Mqtt(server) => format!(
                "type = \"mqtt\"\nserver = \"mqtt://{}\"\ntopic = \"{name}/{{device}}/{{type}}\"\n",
                server.mqtt
            ),
            What::Nats(server) => format!(
                "type = \"nats\"\nservers = [\"{}\"]\nstream = \"{name}\"\n\
                 subject = \"{name}.{{device}}.{{type}}\"\n",
                server.url()
            ),
            What::Kafka(server) => format!(
                "type = \"kafka\"\nbrokers = [\"127.0.0.1:{}\"]\ntopic = \"{name}\"\n",
                server.port
            ),
            What::Postgres(server) => format!(
                "type = \"postgres\"\nservers = [\"127.0.0.1:{}\"]\ndatabase = \"postgres\"\n\
                 user = \"{}\"\npassword = \"{}\"\ntable = \"{name}\"\n",
                server.port,
                postgres::USER,
                postgres::PASSWORD
            ),
            What::OpenSearch(server) => format!(
                "type = \"opensearch\"\nurl = \"http://127.0.0.1:{}\"\nindex = \"{name}\"\n",
                server.port
            ),
            What::Moto(server) => amazon(
                &format!("127.0.0.1:{}", server.port),
                &format!("type = \"kinesis\"\nstream = \"{name}\""),
            ),
            What::Amazon(server, service) => {
                let address = server.address.to_string();
                amazon(&address, &service.keys(&address, &name))
            }
        };
        format!("[[destination]]\nname = \"{name}\"\n{keys}")
    }

    /// What a bare client says to the server, if there is one for it: the kind, and where.
    pub(super) fn bare(&self) -> Option<(&'static str, String)> {
        match &self.what {
            What::Nats(server) => Some(("nats", format!("127.0.0.1:{}", server.port))),
            What::Kafka(server) => Some(("kafka", format!("127.0.0.1:{}", server.port))),
            What::Amazon(
                server,
                Service::Kinesis {
                    aggregate: false, ..
                },
            ) => Some(("kinesis", format!("http://{}", server.address))),
            What::Moto(server) => Some(("kinesis", format!("http://127.0.0.1:{}", server.port))),
            _ => None,
        }
    }

    /// Makes what the bare client of a round sends to, as that for the gateway was made.
    pub(super) fn prepare_bare(&self, round: usize) {
        match &self.what {
            What::Kafka(server) => server.create_topic(&format!("bare{round}"), &[]),
            What::Moto(server) => server.create_stream(&format!("bare{round}")),
            _ => {}
        }
    }
}

impl Service {
    /// Keys of a destination of that name.
    fn keys(self, address: &str, name: &str) -> String {
        let called = self.called(name);
        match self {
            Self::Kinesis { aggregate, .. } => {
                format!("type = \"kinesis\"\nstream = \"{called}\"\naggregate = {aggregate}")
            }
            Self::Sqs { .. } => {
                format!("type = \"sqs\"\nqueue = \"http://{address}/123456789012/{called}\"")
            }
            Self::Sns { .. } => {
                format!(
                    "type = \"sns\"\ntopic = \"arn:aws:sns:eu-central-1:123456789012:{called}\""
                )
            }
            Self::EventBridge => format!("type = \"eventbridge\"\nbus = \"{called}\""),
            // The last object of the backlog is not waited for so long.
            Self::S3 => format!(
                "type = \"s3\"\nbucket = \"{called}\"\npath_style = true\nlinger = \"500ms\""
            ),
        }
    }
}

fn amazon(address: &str, keys: &str) -> String {
    format!(
        "{keys}\nregion = \"eu-central-1\"\nendpoint = \"http://{address}\"\n\
         access_key_id = \"AKIA\"\nsecret_access_key = \"secret\"\n"
    )
}
