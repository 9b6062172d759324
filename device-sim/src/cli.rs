//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::{
    chaos::Chaos,
    duration,
    fleet::{Config, IdentityBy},
    payload::Format,
    profile,
    session::Address,
    socket::{Broker, Tls},
    topic::Template,
    wire::{Login, Qos, Version},
};

/// Simulates devices over MQTT, and audits what arrived at the far end.
#[derive(Debug, Parser)]
#[command(name = "device-sim", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Simulate devices that publish to a gateway
    ///
    /// Exit code 0: everything was acknowledged. 1: not everything. 2: usage. 3: the simulator could not run.
    Run(Box<Run>),
    /// Compare what was acknowledged with what arrived
    ///
    /// Exit code 0: nothing is wrong. 1: lost, duplicated, phantom, out of order or unreadable. 2: usage. 3: the audit could not run.
    Audit(Audit),
    /// Receive CloudEvents over HTTP and append them to a file
    Receive(Receive),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The gateway's MQTT address: HOST:PORT, or ws://HOST:PORT/PATH, or wss://
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    pub(crate) broker: Broker,
    /// How many devices, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// Messages per second of all devices together; 0 = as fast as the window allows
    #[arg(long, value_name = "R", default_value_t = 10.0, value_parser = rate)]
    pub(crate) rate: f64,
    /// MQTT quality of service
    #[arg(long, value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// MQTT version
    #[arg(long, value_enum, default_value = "mixed")]
    pub(crate) protocol: Protocol,
    /// Payload encoding
    #[arg(long, value_enum, default_value = "mixed")]
    pub(crate) format: Encoding,
    /// environment, energy, machine, tracker, mixed, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "mixed")]
    pub(crate) profile: String,
    /// Where the identity of a message travels; `property` is a field for MQTT 3.1.1 devices
    #[arg(long, value_enum, default_value = "mixed")]
    pub(crate) identity: Identity,
    /// Messages that a device may have unacknowledged
    #[arg(long, value_name = "W", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=65_535))]
    pub(crate) window: u16,
    /// Samples that a device may owe after an outage; older ones are not taken
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) backlog: u64,
    /// Decides devices, values and chaos
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Part of every identity; by default the time of the start, so that no two runs are alike
    #[arg(long, value_name = "N")]
    pub(crate) boot: Option<u64>,
    /// Put in front of every device's name
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = prefix)]
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) length: Length,
    /// How long to wait for acknowledgements after the last sample; every acknowledgement renews it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    pub(crate) settle: Duration,
    /// Topic to publish to; {device} and {profile} are filled in
    #[arg(
        long,
        value_name = "TEMPLATE",
        default_value = "devices/{device}/telemetry"
    )]
    pub(crate) topic: Template,
    /// What goes wrong: duplicates=0.02,reorder=0.01,malformed=0.001,skew=5s,disconnect=0.0005,offline=0.0001,offline-for=5s
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) chaos: Chaos,
    /// Write what was sent and acknowledged, for `audit`
    #[arg(long, value_name = "FILE")]
    pub(crate) ack_log: Option<PathBuf>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Threads to run devices on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Seconds of MQTT keep-alive; 0 = none
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    pub(crate) keep_alive: u16,
    /// MQTT user name, for all devices
    #[arg(long, value_name = "NAME", requires = "password")]
    pub(crate) username: Option<String>,
    /// Connect over TLS and trust the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The devices' own certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// MQTT password, for all devices
    #[arg(
        long,
        value_name = "TEXT",
        requires = "username",
        env = "DEVICE_SIM_PASSWORD",
        hide_env_values = true
    )]
    pub(crate) password: Option<String>,
}

/// When a run ends; without either, on Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Length {
    /// Sample for so long
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) duration: Option<Duration>,
    /// Sample so many messages, of all devices together
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("arrived").required(true).args(["files", "nats"]))]
pub(crate) struct Audit {
    /// What a run sent and had acknowledged; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) ack_log: Vec<PathBuf>,
    /// NDJSON that arrived: a directory (its *.ndjson files in the order of their names) or a file; may be given more than once
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// NATS server whose stream has what arrived
    #[arg(long, value_name = "URL", requires = "stream")]
    pub(crate) nats: Option<String>,
    /// Name of the JetStream stream
    #[arg(long, value_name = "NAME", requires = "nats")]
    pub(crate) stream: Option<String>,
    /// Duplicates are counted and not held against the destination
    #[arg(long)]
    pub(crate) allow_duplicates: bool,
    /// Write the verdict as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// Address to listen on; port 0 takes any
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// File that events are appended to, one to a line
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Answer only when the events are on disk
    #[arg(long)]
    pub(crate) fsync: bool,
    /// Chance of answering 503 and keeping nothing
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub(crate) fail_rate: f64,
    /// Chance of keeping the events and answering 500 all the same
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub(crate) lie_rate: f64,
    /// Chance of answering 429 with Retry-After
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub(crate) throttle_rate: f64,
    /// Wait before every answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration::parse)]
    pub(crate) delay: Duration,
    /// Largest body, before and after decompression
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub(crate) body_bytes_max: usize,
    /// Requests handled at once; further ones wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// Decides which requests fail
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Listen beyond loopback, where anybody can send
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Protocol {
    #[value(name = "3.1.1")]
    V4,
    #[value(name = "5")]
    V5,
    Mixed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Encoding {
    Json,
    Cbor,
    Mixed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Identity {
    Property,
    Field,
    Sequence,
    Mixed,
}

impl Run {
    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let Some(ca) = &self.tls_ca else {
            anyhow::ensure!(
                self.broker.wants_tls() != Some(true),
                "wss:// needs --tls-ca, the authorities to trust"
            );
            return Ok(None);
        };
        anyhow::ensure!(
            self.broker.wants_tls() != Some(false),
            "with --tls-ca the address begins with wss://"
        );
        let own = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        Tls::new(&self.broker, ca, own).map(Some)
    }

    /// The run as the fleet needs it.
    ///
    /// # Errors
    /// When the profile is wrong.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        Ok(Config {
            address: Address {
                broker: self.broker.clone(),
                tls: self.tls()?,
                login: self
                    .username
                    .clone()
                    .zip(self.password.clone())
                    .map(|(username, password)| Login { username, password }),
                keep_alive_secs: self.keep_alive,
            },
            devices: self.devices,
            rate: self.rate,
            qos: match self.qos {
                0 => Qos::Zero,
                1 => Qos::One,
                _ => Qos::Two,
            },
            versions: match self.protocol {
                Protocol::V4 => vec![Version::V4],
                Protocol::V5 => vec![Version::V5],
                Protocol::Mixed => vec![Version::V4, Version::V5],
            },
            formats: match self.format {
                Encoding::Json => vec![Format::Json],
                Encoding::Cbor => vec![Format::Cbor],
                Encoding::Mixed => vec![Format::Json, Format::Cbor],
            },
            identities: match self.identity {
                Identity::Property => vec![IdentityBy::Property],
                Identity::Field => vec![IdentityBy::Field],
                Identity::Sequence => vec![IdentityBy::Sequence],
                Identity::Mixed => vec![
                    IdentityBy::Property,
                    IdentityBy::Field,
                    IdentityBy::Sequence,
                ],
            },
            profiles: profile::load(&self.profile)?,
            window: self.window,
            backlog: self.backlog,
            seed: self.seed,
            boot: self.boot,
            prefix: self.prefix.clone(),
            topic: self.topic.clone(),
            duration: self.length.duration,
            count: self.length.count,
            settle: self.settle,
            chaos: self.chaos,
            threads: self.threads,
            ack_log: self.ack_log.clone(),
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| *rate == 0.0 || (0.001..=10_000_000.0).contains(rate))
        .ok_or_else(|| "write 0, or messages per second from 0.001".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|p| (0.0..=1.0).contains(p))
        .ok_or_else(|| "write a probability from 0 to 1".to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (text.len() <= 64 && text.chars().all(plain))
        .then(|| text.to_owned())
        .ok_or_else(|| "use up to 64 letters, digits, - or _".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_argument_is_a_usage_error() {
        for args in [
            "run --qos 3",
            "run --devices 0",
            "run --rate -1",
            "run --broker 127.0.0.1",
            "run --broker ws://127.0.0.1/mqtt",
            "run --chaos duplicate=1",
            "run --topic a/#",
            "run --for 30",
            "run --username a",
            "run --tls-cert a --tls-key b",
            "run --tls-ca a --tls-cert b",
            "run --prefix a/b",
            "audit --files x",
            "audit --ack-log x",
            "audit --ack-log x --nats nats://localhost",
            "audit --ack-log x --files y --nats nats://localhost --stream s",
            "receive",
        ] {
            let args = std::iter::once("device-sim").chain(args.split(' '));
            assert_eq!(
                Cli::try_parse_from(args.clone()).unwrap_err().exit_code(),
                2,
                "{:?}",
                args.collect::<Vec<_>>()
            );
        }
    }
}
