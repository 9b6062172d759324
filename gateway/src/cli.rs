//! The command line: what can be asked, and who answers.

mod alarm;
mod broker;
mod buffer;
mod check;
mod command;
mod dead_letter;
mod dedup;
mod destination;
mod device;
mod dictionary;
mod encryption;
mod learn;
mod map;
mod offline;
pub(crate) mod output;
mod quarantine;
mod read;
mod replay;
mod rules;
pub(crate) mod run;
pub(crate) mod status;
mod tail;
mod user;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::Config;

/// An edge telemetry gateway: MQTT in, durable, exactly once out.
#[derive(Debug, Parser)]
#[command(name = "penstock", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Check the configuration, say every mistake, and exit
    CheckConfig(ConfigFile),
    /// Show the running gateway's ledger, backlog and destinations
    Status(status::Args),
    /// Who may connect with a password
    #[command(subcommand)]
    User(user::Command),
    /// What small events are compressed with, one by one
    #[command(subcommand)]
    Dictionary(dictionary::Command),
    /// Messages that could not be decoded
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Make events again from the messages as they came, or send events again
    Replay(replay::Args),
    /// Events that a destination will not take
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    /// Alarms that rules raise
    #[command(subcommand)]
    Alarm(alarm::Command),
    /// How destinations are run: pause, resume, drain, remove
    #[command(subcommand)]
    Destination(destination::Command),
    /// What was taken for the same event
    #[command(subcommand)]
    Dedup(dedup::Command),
    /// What mappings make of messages
    #[command(subcommand)]
    Map(map::Command),
    /// Propose mappings and schemas from messages that are seen
    Learn(Box<learn::Args>),
    /// The running gateway's MQTT clients, retained messages and subscriptions
    #[command(subcommand)]
    Broker(broker::Command),
    /// The devices that the running gateway knows
    #[command(subcommand)]
    Device(device::Command),
    /// Commands to devices
    #[command(subcommand)]
    Command(command::Command),
    /// Patterns of rules, without a gateway
    #[command(subcommand)]
    Rules(rules::Command),
    /// Watch events as they are committed
    Tail(tail::Args),
    /// What became of the events of each device, by destination
    Ledger(read::Ledger),
    /// Last values of measurements
    Last(read::Last),
    /// Numbers of a measurement over time
    History(read::History),
    /// Search events, quarantine and dead letters, newest first
    Search(read::Search),
    /// Where an event is: in the journal, delivered, waiting, given up
    Where(read::Where),
    /// The read side, which answers these
    #[command(subcommand)]
    Read(read::Command),
    /// Print the document of the HTTP API (OpenAPI 3.1)
    Openapi,
    /// The key that data lie sealed with on the disk
    #[command(subcommand)]
    Encryption(encryption::Command),
    /// The journal itself
    #[command(subcommand)]
    Buffer(buffer::Command),
    /// Run a gateway with 25 simulated devices and watch events arrive in a file
    #[cfg(feature = "demo")]
    Demo(crate::demo::Args),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The TOML file; without one the defaults run
    #[arg(long, short, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    config: Option<PathBuf>,
}

/// Parses the arguments and does what they say.
///
/// # Errors
/// What went wrong, for a person to read.
pub fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(file) => run::run(&file),
        Command::CheckConfig(file) => check::run(&file),
        Command::Status(args) => status::run(&args),
        Command::User(command) => user::run(command),
        Command::Dictionary(command) => dictionary::run(command),
        Command::Quarantine(command) => quarantine::run(command),
        Command::Replay(args) => replay::run(&args),
        Command::DeadLetter(command) => dead_letter::run(command),
        Command::Alarm(command) => alarm::run(command),
        Command::Destination(command) => destination::run(command),
        Command::Dedup(command) => dedup::run(command),
        Command::Learn(args) => learn::run(&args),
        Command::Map(command) => map::run(command),
        Command::Broker(command) => broker::run(command),
        Command::Device(command) => device::run(command),
        Command::Command(command) => command::run(command),
        Command::Rules(command) => rules::run(command),
        Command::Tail(args) => tail::run(&args),
        Command::Ledger(args) => read::ledger(&args),
        Command::Last(args) => read::last(&args),
        Command::History(args) => read::history(&args),
        Command::Search(args) => read::search(&args),
        Command::Where(args) => read::whereabouts(&args),
        Command::Read(command) => read::run(&command),
        Command::Openapi => {
            output::line(crate::http::document().trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Encryption(command) => encryption::run(command),
        Command::Buffer(command) => buffer::run(command),
        #[cfg(feature = "demo")]
        Command::Demo(args) => crate::demo::run(&args),
    }
}

impl ConfigFile {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Every mistake in it.
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref())?)
    }

    /// The same, but dictionaries that it names may be missing.
    ///
    /// # Errors
    /// Every other mistake in it.
    fn load_without_dictionaries(&self) -> anyhow::Result<Config> {
        Ok(Config::load_without_dictionaries(self.config.as_deref())?)
    }
}
