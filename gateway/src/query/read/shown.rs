//! What answers look like.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// An answer of the read side.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReadAnswer)]
pub struct Answer<T> {
    /// What was asked for.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; null at the end.
    pub next: Option<String>,
    /// It reflects every event up to here.
    pub position: u64,
    /// Events of the journal that it does not reflect yet.
    pub lag: u64,
    /// Positions that were never seen, because they left the journal before.
    pub missing: Vec<Missing>,
}

/// Positions from the first to the last.
#[derive(Debug, Serialize, ToSchema)]
pub struct Missing {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

/// The last value of a series.
#[derive(Debug, Serialize, ToSchema)]
pub struct LastValue {
    /// The device.
    pub device: String,
    /// The measurement.
    pub name: String,
    /// What was measured: a number, a text, true or false.
    pub value: Value,
    /// Its unit.
    pub unit: Option<String>,
    /// Its quality, where it is not good.
    pub quality: Option<String>,
    /// When it was measured; null where nobody knows.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Value,
    /// The position of the event.
    pub position: i64,
}

/// A number of a series.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HistoryPoint)]
pub struct Point {
    /// When it was measured.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Value,
    /// The number.
    pub value: f64,
    /// The position of the event.
    pub position: i64,
}

/// The numbers of a series within a step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HistoryStep)]
pub struct Step {
    /// When the step begins.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Value,
    /// How many numbers there are.
    pub count: i64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
}

/// Every number, or what steps come to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = HistoryItem)]
pub enum Recorded {
    /// A number.
    Point(Point),
    /// What a step comes to.
    Step(Step),
}

/// What has the words that were looked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[schema(as = SearchHit)]
pub enum Found {
    /// An event.
    Event {
        /// Its position.
        position: i64,
        /// When it was received.
        #[schema(value_type = Option<String>, format = DateTime)]
        received: Value,
        /// As destinations receive it.
        event: Value,
    },
    /// A message in quarantine.
    Quarantine {
        /// Its number.
        id: i64,
        /// When it was received.
        #[schema(value_type = Option<String>, format = DateTime)]
        received: Value,
        /// Who sent it.
        client_id: String,
        /// On which topic.
        topic: String,
        /// Why it could not be decoded, in a word.
        class: String,
        /// The same in a sentence.
        reason: String,
    },
    /// A dead letter.
    DeadLetter {
        /// Its number.
        id: i64,
        /// When it was given up.
        #[schema(value_type = Option<String>, format = DateTime)]
        at: Value,
        /// The destination.
        destination: String,
        /// The position of the event.
        position: i64,
        /// Attempts that were made.
        attempts: i64,
        /// What the destination said.
        reason: String,
    },
}

/// Where an event is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Whereabouts)]
pub struct Whereabouts {
    /// Its position.
    pub position: u64,
    /// Its key.
    pub eventkey: String,
    /// When it was received.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub received: Value,
    /// Its device.
    pub device: Option<String>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The topic that it came by.
    pub topic: Option<String>,
    /// Whether the journal has it.
    pub in_journal: bool,
    /// Where it goes to no destination: `for-nobody`, `held` or `gone`.
    #[schema(value_type = Option<String>)]
    pub nowhere: Option<&'static str>,
    /// What became of it for each destination.
    pub destinations: Vec<FateShown>,
}

/// What became of an event for a destination.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Fate)]
pub struct FateShown {
    /// The destination's name; null where nobody knows it any more.
    pub name: Option<String>,
    /// `backlog`, `delivered`, `delivered-or-lost`, `retrying`, `dead-letter`,
    /// `dead-letter-gone` or `forgotten`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// Attempts that were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// What the destination said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of the dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Events that the destination never got because they expired, were evicted or damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

/// What became of the events of a device.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerDevice {
    /// The device.
    pub device: String,
    /// The same of all destinations.
    #[serde(flatten)]
    pub sum: LedgerSum,
}

/// What became of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerSum {
    /// Events stored.
    pub stored: i64,
    /// Events given up while room was short, beside those.
    pub shed: i64,
    /// Of those stored: to no destination.
    pub nowhere: Option<LedgerNowhere>,
    /// By destination.
    pub destinations: Vec<LedgerDestination>,
}

/// Events that the rules sent to no destination.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerNowhere {
    /// All of them.
    pub total: i64,
    /// Of those: in the journal, or gone since without a count.
    pub held: i64,
    /// Of those: expired.
    pub expired: i64,
    /// Of those: evicted.
    pub evicted: i64,
    /// Of those: damaged.
    pub damaged: i64,
}

/// Events for a destination.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerDestination {
    /// Its name.
    pub name: String,
    /// All of them.
    pub routed: i64,
    /// Of those: expired.
    pub expired: i64,
    /// Of those: evicted.
    pub evicted: i64,
    /// Of those: damaged.
    pub damaged: i64,
    /// Of those: dead letters.
    pub dead: i64,
    /// Of those: still to be delivered; null where there was no time to count it, and not
    /// there of many devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub backlog: Option<Option<i64>>,
    /// Of those: delivered; as that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub delivered: Option<Option<i64>>,
}

/// What is said beside devices.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerMore {
    /// Whether what waits was counted to the end.
    pub complete: bool,
    /// Devices that are not told apart; where one is asked for this and what follows is
    /// left away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<LedgerSum>,
    /// What nobody knows the device of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<LedgerSum>,
    /// What the journal counted, and nobody can tell the device of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed: Option<u64>,
}

/// The ledger by device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LedgerAnswer)]
pub struct LedgerShown {
    /// The devices.
    #[serde(flatten)]
    pub devices: Answer<LedgerDevice>,
    /// What is said beside.
    #[serde(flatten)]
    pub more: LedgerMore,
}
