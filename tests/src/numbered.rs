//! Events with numbers: published over one connection, and looked for at destinations.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Setup,
    mqtt::{Client, Version},
};

/// How long an acknowledgement may take.
const SOON: Duration = Duration::from_secs(30);

/// Publishes events of some devices, with numbers that go up.
#[derive(Debug)]
pub struct Numbered {
    port: u16,
    devices: u64,
    client: Option<Client>,
    /// The number of the last one sent.
    last: u64,
    acked: BTreeSet<u64>,
    /// Those that were sent and not acknowledged yet, by their packets' ids.
    open: HashMap<u16, u64>,
}

impl Numbered {
    /// Nothing is published yet.
    pub fn new(setup: &Setup, devices: u64) -> Self {
        Self {
            port: setup.mqtt,
            devices,
            client: None,
            last: 0,
            acked: BTreeSet::new(),
            open: HashMap::new(),
        }
    }

    /// Publishes one more with `mark` in it, and does not wait.
    ///
    /// # Panics
    /// When the gateway takes no connection, or ends it.
    #[track_caller]
    pub fn publish(&mut self, mark: &str) {
        self.last += 1;
        let number = self.last;
        let id = u16::try_from(number % 60_000 + 1).expect("it is small");
        let port = self.port;
        let client = self
            .client
            .get_or_insert_with(|| Client::connect(port, Version::V5, "numbers"));
        let topic = format!("devices/press-{}/telemetry", number % self.devices);
        let payload = format!("{{\"n\":{number},\"mark\":\"{mark}\"}}");
        let sent = client.publish(&topic, payload.as_bytes(), 1, id);
        sent.expect("the gateway reads");
        self.open.insert(id, number);
    }

    /// Waits until everything that was published is acknowledged.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn wait_for_acks(&mut self) {
        while !self.open.is_empty() {
            let client = self.client.as_mut().expect("something was published");
            let ack = client.ack(SOON).expect("the gateway answers");
            let ack = ack.expect("an acknowledgement comes in time");
            assert_eq!(ack.reason, 0);
            self.acked.extend(self.open.remove(&ack.id));
        }
    }

    /// The gateway is gone: what it had acknowledged before counts, and the rest may be
    /// there or not.
    pub fn lost_the_connection(&mut self) {
        let Some(mut client) = self.client.take() else {
            return;
        };
        while let Ok(Some(ack)) = client.ack(Duration::from_secs(1)) {
            self.acked.extend(self.open.remove(&ack.id));
        }
        self.open.clear();
    }

    /// How many are sure to be there.
    pub fn acked(&self) -> u64 {
        self.acked.len() as u64
    }

    /// How many were published.
    pub fn published(&self) -> u64 {
        self.last
    }

    /// Holds what is in a directory of NDJSON files against what was published. `key` is
    /// the attribute with the key of the event.
    ///
    /// # Panics
    /// When something that was acknowledged is not there, something is that was never
    /// published, or copies of an event have different keys.
    #[track_caller]
    pub fn found(&self, place: &str, dir: &Path, key: &str) -> Found {
        let mut found = Found::default();
        let mut last = HashMap::<String, u64>::new();
        for event in events(dir) {
            let number = number(&event);
            assert!(number <= self.last, "{place}: {number} was never published");
            let text = |name: &str| event[name].as_str().expect("a text").to_owned();
            found.arrived += 1;
            let known = found.keys.insert(number, text(key));
            if let Some(known) = known {
                assert_eq!(known, text(key), "{place}: copies of {number} differ");
                continue;
            }
            let before = last.insert(text("device"), number);
            found.late += usize::from(before > Some(number));
        }
        let is_lost = |number: &&u64| !found.keys.contains_key(number);
        let lost: Vec<_> = self.acked.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "{place}: lost {lost:?}");
        found
    }
}

/// What a destination has.
#[derive(Debug, Default)]
pub struct Found {
    /// Events with all their copies.
    pub arrived: usize,
    /// First copies that came behind a later event of their device.
    pub late: usize,
    /// The keys of the events, by their numbers.
    pub keys: BTreeMap<u64, String>,
}

impl Found {
    /// Copies beyond the first of each event.
    pub fn copies(&self) -> usize {
        self.arrived - self.keys.len()
    }
}

/// The events in a directory, in the order of the files' names and of the lines.
fn events(dir: &Path) -> Vec<Value> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"))
        .collect();
    files.sort();
    let text: String = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line is an event"))
        .collect()
}

/// What an event says of `n`.
fn number(event: &Value) -> u64 {
    let all = event["data"]["m"].as_array().expect("measurements");
    let of_n = all.iter().find(|one| one["n"] == "n");
    // Where all numbers are doubles it is one, too.
    let number = of_n.and_then(|one| one["v"].as_f64());
    let number = number.unwrap_or_else(|| panic!("no number in {event}"));
    format!("{number}").parse().expect("a whole number")
}
