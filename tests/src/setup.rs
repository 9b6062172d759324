//! Writes the gateway's configuration.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::{Sandbox, ports, postgres};

/// A configuration with ports that stay the same over restarts.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The broker's port.
    pub mqtt: u16,
    /// The port of status and page.
    pub http: u16,
    data_dir: PathBuf,
    file: PathBuf,
    log: PathBuf,
    tables: String,
}

impl Setup {
    /// Ports, a data directory in the sandbox, a log for machines, and nothing else.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self {
            mqtt: ports::free(),
            http: ports::free(),
            data_dir: sandbox.path("data"),
            file: sandbox.path("penstock.toml"),
            log: sandbox.path("gateway.log"),
            tables: String::new(),
        }
    }

    /// Keeps the data elsewhere.
    #[must_use]
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = dir.to_path_buf();
        self
    }

    /// Adds any text, for example `[store]` with its keys.
    #[must_use]
    pub fn with(mut self, toml: &str) -> Self {
        writeln!(self.tables, "{toml}").expect("a string takes text");
        self
    }

    /// Adds a file destination that keeps every file.
    #[must_use]
    pub fn to_file(self, name: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"file\"\npath = \"{name}\""
        ))
    }

    /// Adds a JetStream destination that creates its stream.
    #[must_use]
    pub fn to_nats(self, name: &str, port: u16, stream: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"nats\"\n\
             servers = [\"nats://127.0.0.1:{port}\"]\nstream = \"{stream}\"\n\
             subject = \"{name}.{{device}}.{{type}}\"\nretry_max = \"2s\""
        ))
    }

    /// Adds a destination that is another MQTT broker, with events where the built-in
    /// mapping of a gateway looks for them; `more` are its other keys.
    #[must_use]
    pub fn to_mqtt(self, name: &str, port: u16, more: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"mqtt\"\n\
             server = \"mqtt://127.0.0.1:{port}\"\n\
             topic = \"devices/{{device}}/{{type}}\"\n\
             timeout = \"5s\"\nretry_max = \"1s\"\n{more}"
        ))
    }

    /// Adds a data stream at a stand-in for Kinesis; `more` are its other keys.
    #[must_use]
    pub fn to_kinesis(self, name: &str, port: u16, stream: &str, more: &str) -> Self {
        let keys = format!("type = \"kinesis\"\nstream = \"{stream}\"\n{more}");
        self.to_amazon(name, port, &keys)
    }

    /// Adds a destination at a stand-in for Amazon's services; `keys` say which.
    #[must_use]
    pub fn to_amazon(self, name: &str, port: u16, keys: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\n{keys}\n\
             region = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
             access_key_id = \"AKIA\"\nsecret_access_key = \"secret\"\n\
             timeout = \"5s\"\nretry_max = \"1s\""
        ))
    }

    /// Adds a topic of Kafka; `more` are its other keys.
    #[must_use]
    pub fn to_kafka(self, name: &str, port: u16, topic: &str, more: &str) -> Self {
        self.to_kafka_at(name, &[port], topic, more)
    }

    /// The same of several brokers.
    #[must_use]
    pub fn to_kafka_at(self, name: &str, ports: &[u16], topic: &str, more: &str) -> Self {
        let brokers: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"kafka\"\n\
             brokers = {brokers:?}\ntopic = \"{topic}\"\n\
             timeout = \"3s\"\nconnect_timeout = \"2s\"\nretry_max = \"1s\"\n{more}"
        ))
    }

    /// Adds a table of the server that the tests start; `more` are its other keys.
    #[must_use]
    pub fn to_postgres(self, name: &str, port: u16, more: &str) -> Self {
        let (user, password) = (postgres::USER, postgres::PASSWORD);
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"postgres\"\n\
             servers = [\"127.0.0.1:{port}\"]\ndatabase = \"postgres\"\n\
             user = \"{user}\"\npassword = \"{password}\"\n\
             timeout = \"3s\"\nconnect_timeout = \"2s\"\nretry_max = \"1s\"\n{more}"
        ))
    }

    /// Adds the indices of an OpenSearch; `more` are its other keys.
    #[must_use]
    pub fn to_opensearch(self, name: &str, port: u16, more: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"opensearch\"\n\
             url = \"http://127.0.0.1:{port}\"\n\
             timeout = \"10s\"\nconnect_timeout = \"2s\"\nretry_max = \"1s\"\n{more}"
        ))
    }

    /// Adds an HTTP destination.
    #[must_use]
    pub fn to_http(self, name: &str, url: &str) -> Self {
        self.with(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"http\"\nurl = \"{url}\"\n\
             timeout = \"5s\"\nretry_max = \"2s\""
        ))
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        &self.data_dir
    }

    /// Where the log goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Writes the file and says where it is.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self) -> PathBuf {
        let text = format!(
            "data_dir = \"{}\"\n\
             [broker]\nlisten = \"127.0.0.1:{}\"\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n\
             [log]\nlevel = \"info\"\nformat = \"json\"\n{}",
            self.data_dir.display(),
            self.mqtt,
            self.http,
            self.tables
        );
        fs::write(&self.file, text).expect("the sandbox can be written");
        self.file.clone()
    }
}
