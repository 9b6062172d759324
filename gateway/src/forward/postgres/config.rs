//! What can be configured of a table of PostgreSQL.

use std::{fmt, time::Duration};

use crate::{
    forward::{Error, Secret},
    tls::Files,
};

/// How events are inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Servers of one database; the first that takes writes is used.
    pub servers: Vec<Server>,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<Secret>,
    /// Encrypts, if it is there.
    pub tls: Option<Files>,
    /// Where rows go.
    pub table: Table,
    /// What a row is.
    pub layout: Layout,
    /// The table is divided by time, as TimescaleDB's are, so what makes a row unique has
    /// the time as well.
    pub partitioned: bool,
    /// Makes the table where there is none.
    pub create_table: bool,
    /// Records in a batch, at most.
    pub batch_records: usize,
    /// Bytes of stored records in a batch, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// From connecting to the commit.
    pub timeout: Duration,
    /// For reaching one server.
    pub connect_timeout: Duration,
}

impl Config {
    /// The configured defaults.
    pub fn new(servers: Vec<Server>, database: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            servers,
            database: database.into(),
            user: user.into(),
            password: None,
            tls: None,
            table: Table {
                schema: None,
                name: "telemetry".to_owned(),
            },
            layout: Layout::Event,
            partitioned: false,
            create_table: true,
            batch_records: 1_000,
            batch_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }

    pub(in crate::forward) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        if self.servers.is_empty() {
            return wrong("servers: at least one is needed");
        }
        if self.connect_timeout > self.timeout {
            return wrong("connect_timeout should be at most timeout");
        }
        if self.tls.is_some() && self.servers.iter().any(Server::is_socket) {
            return wrong("tls: a Unix socket has no TLS");
        }
        Ok(())
    }

    /// Whether a word that is said to a server can be heard on the way.
    pub(crate) fn is_overheard(&self) -> bool {
        let is_far = |server: &Server| {
            let host = server.host.trim_start_matches('[').trim_end_matches(']');
            let here = host == "localhost"
                || host
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback());
            !here && !server.is_socket()
        };
        self.tls.is_none() && self.servers.iter().any(is_far)
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name or address, or the directory of its Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Server {
    /// The port where none is given.
    pub const PORT: u16 = 5_432;

    /// `HOST`, `HOST:PORT`, with an IPv6 address in brackets, or the directory of a Unix
    /// socket.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "a server is a host with or without a port, such as \"db.example:5432\", or the directory of a socket, such as \"/var/run/postgresql\"";
        let bare = |host: &str| Self {
            host: host.to_owned(),
            port: Self::PORT,
        };
        if text.ends_with(']') && text.starts_with('[') {
            return match text.len() > 2 {
                true => Ok(bare(&text[1..text.len() - 1])),
                false => Err(SHAPE),
            };
        }
        let server = match text.rsplit_once(':') {
            Some((host, port)) => Self {
                host: match host.strip_prefix('[') {
                    Some(inner) => inner.strip_suffix(']').ok_or(SHAPE)?.to_owned(),
                    None if host.contains(':') => return Err(SHAPE),
                    None => host.to_owned(),
                },
                port: port.parse().ok().filter(|port| *port > 0).ok_or(SHAPE)?,
            },
            None => bare(text),
        };
        let is_plain = |c: char| !c.is_whitespace() && !matches!(c, ',' | '@' | '\0');
        let is_host = server.is_socket() || !server.host.contains('/');
        match is_host && !server.host.is_empty() && server.host.chars().all(is_plain) {
            true => Ok(server),
            false => Err(SHAPE),
        }
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// The name of a table, perhaps in a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The schema; without one the server looks along its `search_path`.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

impl Table {
    /// `TABLE` or `SCHEMA.TABLE`, as they are: upper and lower case differ.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "a table is \"TABLE\" or \"SCHEMA.TABLE\", each of at most 63 bytes";
        const NAME_MAX: usize = 63;
        let is_name = |name: &str| {
            (1..=NAME_MAX).contains(&name.len())
                && !name.contains(|c: char| c.is_control() || matches!(c, '.' | '"'))
        };
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        match is_name(name) && schema.is_none_or(is_name) {
            true => Ok(Self {
                schema: schema.map(ToOwned::to_owned),
                name: name.to_owned(),
            }),
            false => Err(SHAPE),
        }
    }
}

/// Quoted, for a statement.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "\"{schema}\".\"{}\"", self.name),
            None => write!(f, "\"{}\"", self.name),
        }
    }
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A whole event, as JSON.
    Event,
    /// One measurement of an event.
    Measurement,
}

impl Layout {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 2] =
        [("event", Self::Event), ("measurement", Self::Measurement)];
}
