//! The configuration: one TOML file for all stages.
//!
//! Promises: unknown keys are refused; every mistake is said at once, with the
//! file, the line, the key, what is wrong and what would be right; what came from
//! the environment is never shown. Reads the file and environment variables, and
//! touches nothing else: a configuration that is fine may still name a port that
//! is taken.
//!
//! Each stage has its own `Config`; this puts them together. What all the keys
//! mean is in `docs/configuration.md`, which a test compares with what is read here.

pub mod auth;
#[cfg(feature = "aws")]
mod aws;
mod classes;
mod destination;
mod encryption;
mod fixed;
mod fleet;
mod http_api;
mod intake;
mod json;
#[cfg(feature = "kafka")]
mod kafka;
mod keep;
mod lanes;
mod limits;
mod listener;
mod mapping;
mod mistake;
#[cfg(feature = "mqtt")]
pub(crate) mod mqtt;
mod pacing;
mod reader;
pub(crate) mod rule;
mod schema;
mod seen;
mod shed;
mod stages;
#[cfg(feature = "http")]
mod to_http;
#[cfg(feature = "nats")]
mod to_nats;
#[cfg(feature = "opensearch")]
mod to_opensearch;
#[cfg(feature = "postgres")]
mod to_postgres;
mod unit;
mod units;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod upstream;
mod words;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use penstock_broker::{listener::config::Address, seal::Seal};
use toml::de::DeTable;

pub use fixed::Fixed;
pub use mistake::{Mistake, Mistakes};
pub use seen::{Seen, Stamp};
pub use unit::{NotADuration, NotASize, parse_duration, parse_size};

use crate::{
    events, forward, http, ingest,
    normalise::mapping::{Keep, Scope},
    query,
    record::DESTINATIONS_MAX,
    rules::{ACTIONS, Rule},
    store::{self},
    telemetry,
};
use reader::{Reader, Table};

/// Where the journal is kept unless the configuration says otherwise.
const DATA_DIR: &str = "./penstock-data";
/// A configuration file has at most so many bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from, if any.
    pub file: Option<PathBuf>,
    /// Where the journal and the file destinations are.
    pub data_dir: PathBuf,
    /// How long an orderly end may take.
    pub shutdown_grace_period: Duration,
    /// The MQTT side.
    pub broker: penstock_broker::Config,
    /// Who is asked about clients, if anybody is.
    pub auth_service: Option<auth::Service>,
    /// The status pages.
    pub http: http::Config,
    /// The journal.
    pub store: store::Config,
    /// How messages become events.
    pub ingest: ingest::Config,
    /// Where events go.
    pub destinations: Vec<forward::Config>,
    /// Which events go to which of them.
    pub rules: Vec<Rule>,
    /// What the rules are written for, and what holds until a restart.
    pub fixed: Fixed,
    /// The files that all of this was read from, patterns among them, as they were then.
    pub read_from: Seen,
    /// The stream of events for local subscribers.
    pub events: events::Config,
    /// The registry of devices, and commands to them.
    pub fleet: crate::fleet::Config,
    /// The read side.
    pub read: query::Config,
    /// The key that values lie sealed with.
    pub encryption: crate::encryption::Config,
    /// Brokers from which messages come.
    #[cfg(feature = "mqtt")]
    pub remotes: Vec<crate::remote::Config>,
    /// Streams from which commands come.
    #[cfg(any(feature = "kafka", feature = "nats"))]
    pub upstreams: Vec<crate::upstream::Config>,
    /// The log.
    pub log: telemetry::Config,
}

impl Config {
    /// What works of single destinations, and is probably not what is wanted.
    pub(crate) fn destination_warnings(&self) -> impl Iterator<Item = String> {
        let own = self.destinations.iter().filter(|d| d.lane_of.is_none());
        own.flat_map(destination::warnings)
    }

    /// What works between remotes and destinations, and is probably not what is wanted.
    #[cfg(feature = "mqtt")]
    pub(crate) fn bridge_warnings(&self) -> Vec<String> {
        let own = self.destinations.iter().filter(|d| d.lane_of.is_none());
        mqtt::warnings(&self.remotes, &own.cloned().collect::<Vec<_>>())
    }

    /// Reads the keys that `[encryption]` names.
    ///
    /// # Errors
    /// When one is missing, or readable by others.
    pub fn seal(&self) -> anyhow::Result<Seal> {
        let seal = self.encryption.seal();
        match &self.file {
            Some(file) => seal.with_context(|| file.display().to_string()),
            None => Ok(seal?),
        }
    }

    /// Reads the keys, for whoever opens the databases of the data directory; looks whether
    /// they are those that these need.
    ///
    /// # Errors
    /// When one is missing, or readable by others.
    pub fn unlock(&mut self) -> anyhow::Result<()> {
        let seal = self.seal()?;
        crate::encryption::check(&self.data_dir, &seal)?;
        self.broker.keep.seal = seal.clone();
        self.store.seal = seal;
        Ok(())
    }

    /// Reads a file; without one, the defaults, in `./penstock-data`. Environment
    /// variables are those of the process.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn load(path: Option<&Path>) -> Result<Self, Mistakes> {
        Self::load_for(path, false)
    }

    /// The same for who makes the dictionaries that it names: one that is not there yet is
    /// no mistake.
    ///
    /// # Errors
    /// Every other mistake in it.
    pub(crate) fn load_without_dictionaries(path: Option<&Path>) -> Result<Self, Mistakes> {
        Self::load_for(path, true)
    }

    fn load_for(path: Option<&Path>, training: bool) -> Result<Self, Mistakes> {
        let Some(path) = path else {
            return Ok(Self::defaults(Path::new(DATA_DIR)));
        };
        let stamp = Stamp::of(path);
        let with_file = |mut mistakes: Mistakes| {
            mistakes.file = Some(path.to_path_buf());
            mistakes.read_from.insert(path.to_path_buf(), stamp);
            mistakes
        };
        let text = read_text(path).map_err(|what| {
            let whole = Mistake {
                file: None,
                line: None,
                key: String::new(),
                what,
            };
            with_file(Mistakes::new(vec![whole]))
        })?;
        // What is relative is relative to the file, wherever the program was started.
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let env = |name: &str| std::env::var(name).ok();
        let reader = Reader::new(&text, &env, dir);
        let reader = match training {
            true => reader.without_dictionaries(),
            false => reader,
        };
        Self::parse(reader, dir)
            .0
            .map(|mut config| {
                config.file = Some(path.to_path_buf());
                config.read_from.insert(path.to_path_buf(), stamp);
                config
            })
            .map_err(with_file)
    }

    /// The `[[rule]]` tables of a file and nothing else of it, whatever destinations
    /// they name: rules can be tried before they are in a configuration.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn rules_of(path: &Path) -> Result<Vec<Rule>, Mistakes> {
        let with_file = |mistakes| Mistakes {
            file: Some(path.to_path_buf()),
            ..Mistakes::new(mistakes)
        };
        let whole = |line, what| Mistake {
            file: None,
            line,
            key: String::new(),
            what,
        };
        let text = read_text(path).map_err(|what| with_file(vec![whole(None, what)]))?;
        let text = match rule::files::is_json(path) {
            true => json::rules(&text)
                .map_err(|wrong| with_file(vec![whole(Some(wrong.line), wrong.what)]))?,
            false => text,
        };
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let env = |name: &str| std::env::var(name).ok();
        let reader = Reader::new(&text, &env, dir);
        let root = DeTable::parse(&text).map_err(|error| {
            let what = format!("not TOML: {}", error.message().trim());
            with_file(vec![whole(None, what)])
        })?;
        let root = Table::root(&reader, root.get_ref());
        let read = rule::read(&root, dir, None, Duration::MAX);
        if root.span("rule").is_none() && root.span("rule_files").is_none() {
            root.mistake(None, "rule", "is missing; for example [[rule]]");
        }
        match reader.finish().0 {
            mistakes if mistakes.is_empty() => Ok(read.rules),
            mistakes => Err(with_file(mistakes)),
        }
    }

    /// One rule as JSON, with the keys of a `[[rule]]`; patterns may be objects. Nothing
    /// is filled in, and no file is read. `destinations` are those that it may name.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn rule_of_json(text: &str, destinations: &[Arc<str>]) -> Result<Rule, Vec<Mistake>> {
        let whole = |what: String| {
            vec![Mistake {
                file: None,
                line: None,
                key: String::new(),
                what,
            }]
        };
        let text = json::rule(text).map_err(|wrong| whole(wrong.what))?;
        let reader = Reader::foreign(&text);
        let root = DeTable::parse(&text).map_err(|error| whole(error.message().to_owned()))?;
        let root = Table::root(&reader, root.get_ref());
        let mut read = rule::read(&root, Path::new(""), Some(destinations), Duration::MAX);
        let (mut mistakes, _) = reader.finish();
        for mistake in &mut mistakes {
            mistake.line = None;
            let key = mistake.key.trim_start_matches("rule[1]");
            mistake.key = key.trim_start_matches('.').to_owned();
        }
        match read.rules.pop().filter(|_| mistakes.is_empty()) {
            Some(rule) => Ok(rule),
            None => Err(mistakes),
        }
    }

    /// Everything by default, with the journal in `data_dir`.
    pub fn defaults(data_dir: &Path) -> Self {
        let reader = Reader::new("", &|_| None, Path::new(""));
        let (config, _) = Self::parse(reader, Path::new(""));
        config.expect("no text has no mistakes").moved_to(data_dir)
    }

    /// Reads a text. `dir` is what a relative `data_dir` is relative to, `env` has
    /// the environment variables.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn from_text(
        text: &str,
        dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        Self::parse(Reader::new(text, env, dir), dir).0
    }

    fn moved_to(mut self, data_dir: &Path) -> Self {
        self.store.dir = data_dir.to_path_buf();
        self.broker.keep.dir = Some(data_dir.to_path_buf());
        self.destinations = vec![destination::default(data_dir)];
        self.data_dir = data_dir.to_path_buf();
        self
    }

    /// Also says which keys are known, as far as the text goes.
    fn parse(reader: Reader<'_>, dir: &Path) -> (Result<Self, Mistakes>, BTreeSet<String>) {
        let text = reader.text();
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            reader.mistake(
                error.span().as_ref(),
                "",
                format!("not TOML: {}", error.message().trim()),
            );
        }
        // What was recovered may be something else than what was meant.
        let config = errors
            .is_empty()
            .then(|| Self::read(&Table::root(&reader, root.get_ref()), dir));
        let (mistakes, known) = reader.finish();
        match config {
            Some(config) if mistakes.is_empty() => {
                let fixed = Fixed::of(text);
                (Ok(Self { fixed, ..config }), known)
            }
            config => {
                let read_from = config.map(|config| config.read_from).unwrap_or_default();
                let mistakes = Mistakes {
                    read_from,
                    ..Mistakes::new(mistakes)
                };
                (Err(mistakes), known)
            }
        }
    }

    fn read(root: &Table<'_, '_, '_>, dir: &Path) -> Self {
        let data_dir = root.text("data_dir");
        // Collected anew, so that no "." stays within it.
        let data_dir: PathBuf = dir
            .join(data_dir.as_ref().map_or(DATA_DIR, |text| &text.value))
            .components()
            .collect();
        let site = root.parsed("site", |site| match site {
            "" => Err("a site has a name; leave the key away for none"),
            site => Ok(Arc::from(site)),
        });
        let shutdown_grace_period = root.duration(
            "shutdown_grace_period",
            Duration::from_secs(1)..=Duration::from_secs(3_600),
            Duration::from_secs(20),
        );
        let (auth, auth_service) = auth::read(root, dir);
        let clients_are_asked = auth.is_on();
        let mut broker = stages::broker(root.table("broker"), dir, auth);
        broker.keep.dir = Some(data_dir.clone());
        let http_table = root.table("http");
        let http_listen = http_table.span("listen");
        let http = http_api::read(http_table, dir);
        let (raw, late_after, clock_wait) = intake::read(&root.table("ingest"));
        let shared = mapping::Shared {
            raw,
            units: Arc::new(units::read(&root.table("units"))),
            schemas: schema::read(root, dir),
            dir: dir.to_owned(),
        };
        let mut mappings = match root.tables("mapping") {
            Some(tables) => {
                if tables.is_empty() {
                    let what = "with no mapping every message would be quarantined; leave the key away for the built-in ones";
                    root.mistake(root.span("mapping").as_ref(), "mapping", what);
                }
                let read = |table| mapping::read(table, &shared);
                tables.iter().filter_map(read).collect::<Vec<_>>()
            }
            None => ingest::Config::default()
                .mappings
                .into_iter()
                .map(|mapping| shared.by_default(mapping))
                .collect(),
        };
        for mapping in &mut mappings {
            if clients_are_asked && mapping.dedup_scope == Scope::User {
                mapping.dedup_scope = Scope::Asked;
            }
        }
        let keeps = mappings.iter().any(|mapping| mapping.raw == Keep::Always);
        let journal = stages::journal(root.table("store"), root.table("dedup"), keeps);
        let destinations = match root.tables("destination") {
            Some(tables) => destinations(root, &tables, &data_dir, dir),
            None => vec![destination::default(&data_dir)],
        };
        intake::check(root, &mappings, &destinations);
        let names: Vec<_> = destinations.iter().map(|d| d.name.clone()).collect();
        let fleet = fleet::read(
            root.table("devices"),
            root.table("commands"),
            root.table("shadow"),
            journal.max_bytes,
        );
        let rule::Read { rules, files } = rule::read(root, dir, Some(&names), fleet.deadline_max);
        #[cfg(feature = "mqtt")]
        let remotes = mqtt::read_remotes(root, dir, &destinations);
        let destinations = with_lanes(destinations);
        let events = stages::events(root.table("events"));
        #[cfg(any(feature = "kafka", feature = "nats"))]
        let upstreams = upstream::read(root, dir, fleet.orders.is_some());
        let read = stages::read(root.table("read"));
        let encryption = encryption::read(root.table("encryption"), dir, read.enabled);
        let log = stages::log(root.table("log"));
        let of_broker = |one: &penstock_broker::listener::Config| {
            one.address == Address::Ip(http.listen) && http.listen.port() != 0
        };
        if broker.listeners.iter().any(of_broker) {
            let what = format!("{} is the broker's address too", http.listen);
            root.mistake(http_listen.as_ref(), "http.listen", what);
        }
        root.finish();
        Self {
            store: store::Config {
                dir: data_dir.clone(),
                max_bytes: journal.max_bytes,
                max_age: journal.max_age,
                keep_delivered: journal.keep_delivered,
                on_full: journal.on_full,
                shed: journal.shed,
                reserve_bytes: journal.reserve_bytes,
                dedup_age: journal.dedup_age,
                dedup_count: journal.dedup_count,
                dedup_memory_bytes: journal.dedup_memory_bytes,
                destinations: journaled(&destinations),
                from_kept: from_kept(&destinations),
                seal: Seal::default(),
            },
            file: None,
            data_dir,
            shutdown_grace_period,
            broker,
            auth_service,
            http,
            ingest: ingest::Config {
                mappings,
                site,
                late_after,
                clock_wait,
            },
            destinations,
            rules,
            fixed: Fixed::default(),
            read_from: files,
            events,
            fleet,
            read,
            encryption,
            #[cfg(feature = "mqtt")]
            remotes,
            #[cfg(any(feature = "kafka", feature = "nats"))]
            upstreams,
            log,
        }
    }
}

/// Each with its lanes behind it, where it has some.
fn with_lanes(destinations: Vec<forward::Config>) -> Vec<forward::Config> {
    let lanes = destinations.into_iter().flat_map(|one| {
        let lanes = one.lanes();
        std::iter::once(one).chain(lanes)
    });
    lanes.collect()
}

/// The names that rules may know: what goes by a lane is decided by classes, and by what
/// there is to do.
pub(crate) fn named(destinations: &[forward::Config]) -> Vec<Arc<str>> {
    let named = destinations.iter().filter(|d| d.lane_of.is_none());
    named.map(|d| d.name.clone()).collect()
}

/// The names that the journal keeps cursors for.
pub(crate) fn journaled(destinations: &[forward::Config]) -> Vec<Arc<str>> {
    let names = destinations.iter().map(|d| d.name.clone());
    names.chain([Arc::from(ACTIONS)]).collect()
}

/// Those that begin with what is kept, where the journal does not know them yet. What is kept
/// goes by none of the lanes: an event that moved from one to the other because a class was
/// changed meanwhile would go twice, or not at all.
fn from_kept(destinations: &[forward::Config]) -> Vec<Arc<str>> {
    let from_kept = destinations
        .iter()
        .filter(|d| d.start != forward::Start::Now && d.lane_of.is_none());
    from_kept.map(|d| d.name.clone()).collect()
}

fn destinations(
    root: &Table<'_, '_, '_>,
    tables: &[Table<'_, '_, '_>],
    data_dir: &Path,
    dir: &Path,
) -> Vec<forward::Config> {
    let span = root.span("destination");
    if tables.is_empty() {
        let what = "with no destination events would go nowhere; leave the key away for a file";
        root.mistake(span.as_ref(), "destination", what);
    }
    // One is whoever does what rules ask for beside sending.
    let max = DESTINATIONS_MAX - 1;
    if tables.len() > max {
        let what = format!("{} destinations; there can be {max}", tables.len());
        root.mistake(span.as_ref(), "destination", what);
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut paths: HashMap<PathBuf, usize> = HashMap::new();
    let mut configs = Vec::with_capacity(tables.len());
    for (n, table) in tables.iter().enumerate() {
        let read = destination::read(table, data_dir, dir);
        if let Some(name) = read.name
            && let Some(first) = names.insert(name.value, n)
        {
            let what = format!(
                "destination[{}] is named {:?} as well",
                first + 1,
                name.written
            );
            table.mistake(Some(&name.span), "name", what);
        }
        let Some(config) = read.config else { continue };
        if let forward::Kind::File(file) = &config.kind
            && let Some(first) = paths.insert(file.path.clone(), n)
        {
            let what = format!("destination[{}] writes there as well", first + 1);
            table.mistake(table.span("path").as_ref(), "path", what);
        }
        configs.push(config);
    }
    let lanes: usize = configs.iter().map(|d| d.lanes().len()).sum();
    if lanes > 0 && configs.len() + lanes > max {
        let what = format!(
            "{} destinations, and {lanes} lanes (urgent, live) of theirs; there can be {max}",
            configs.len()
        );
        root.mistake(span.as_ref(), "destination", what);
    }
    configs
}

fn read_text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests;
