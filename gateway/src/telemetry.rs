//! Logging: `tracing` events to standard error, as text or as JSON lines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How the log reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A line for a person.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a `tracing` filter such as
    /// `info,penstock::forward=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Text,
        }
    }
}

impl Config {
    /// Whether `level` is a filter that [`init`] takes.
    pub fn level_is_valid(level: &str) -> bool {
        EnvFilter::builder().parse(level).is_ok()
    }
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(config: &Config) {
    // The router opens a span for every live message, and speaks only of our own links. The NATS
    // and Kafka clients call every failed attempt to connect an error or a warning, without a
    // name, and so does Amazon's with places where there are no credentials; the destination
    // says the same once, with its name, and the client's own words can be asked for. What
    // TLS finds odd in a client's handshake would be a line for each connection.
    let filter = format!(
        "rumqttd=off,async_nats=off,krafka=off,aws_config=off,rustls=error,{}",
        config.level
    );
    let filter = EnvFilter::builder().parse_lossy(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}
