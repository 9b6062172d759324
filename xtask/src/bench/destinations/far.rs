//! What backlogs go to: the servers of the tests, and sinks where a server would be the slow
//! part.

use anyhow::Result;
use penstock_tests::{
    KafkaServer, MotoServer, NatsServer, OpenSearchServer, PostgresServer, Sandbox, postgres,
};

use super::{super::server::Server, name, sink::Sink};

/// All that can be measured.
pub(super) const KINDS: [&str; 9] = [
    "file",
    "http",
    "mqtt",
    "nats",
    "kafka",
    "postgres",
    "opensearch",
    "kinesis",
    "sqs",
];

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
    Kinesis(MotoServer),
    Sqs(MotoServer, Vec<String>),
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
            "kinesis" => MotoServer::start(&sandbox).map(|server| {
                (0..rounds).for_each(|round| server.create_stream(&name(round)));
                What::Kinesis(server)
            }),
            "sqs" => MotoServer::start(&sandbox).map(|server| {
                let queue = |round| server.create_queue(&name(round));
                let queues = (0..rounds).map(queue).collect();
                What::Sqs(server, queues)
            }),
            other => return Err(anyhow::anyhow!("{other} is no kind of destination")),
        };
        Ok(what.map(|what| Self {
            what,
            _sandbox: sandbox,
        }))
    }

    /// How much smaller a backlog is, so that a slow server does not take hours: moto is a
    /// stand-in in Python.
    pub(super) const fn slower(&self) -> u64 {
        match &self.what {
            What::Kinesis(_) | What::Sqs(..) => 50,
            What::OpenSearch(_) => 10,
            _ => 1,
        }
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
            What::Kinesis(server) => {
                amazon(server, &format!("type = \"kinesis\"\nstream = \"{name}\""))
            }
            What::Sqs(server, queues) => {
                let queue = queues.get(round).map_or("", String::as_str);
                amazon(server, &format!("type = \"sqs\"\nqueue = \"{queue}\""))
            }
        };
        format!("[[destination]]\nname = \"{name}\"\n{keys}")
    }

    /// What a bare client says to the server, if there is one for it: the kind, and where.
    pub(super) fn bare(&self) -> Option<(&'static str, String)> {
        match &self.what {
            What::Nats(server) => Some(("nats", format!("127.0.0.1:{}", server.port))),
            What::Kafka(server) => Some(("kafka", format!("127.0.0.1:{}", server.port))),
            _ => None,
        }
    }

    /// Makes what the bare client of a round sends to, as that for the gateway was made.
    pub(super) fn prepare_bare(&self, round: usize) {
        if let What::Kafka(server) = &self.what {
            server.create_topic(&format!("bare{round}"), &[]);
        }
    }
}

fn amazon(server: &MotoServer, keys: &str) -> String {
    format!(
        "{keys}\nregion = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{}\"\n\
         access_key_id = \"AKIA\"\nsecret_access_key = \"secret\"\n",
        server.port
    )
}
