//! The gateway's account of itself, as `/api/v1/status` tells it.

use serde::Deserialize;

/// The whole.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether every destination makes progress.
    pub ready: bool,
    /// What came in.
    pub ledger: Ledger,
    /// The ledger compared with the journal.
    pub audit: Audit,
    /// What is kept.
    pub store: Store,
    /// What goes out.
    pub destinations: Vec<Destination>,
    /// The read side.
    pub read: Read,
    /// Brokers whose messages come here.
    pub remotes: Vec<Remote>,
    /// The front door.
    pub broker: Broker,
}

/// The read side.
#[derive(Debug, Clone, Deserialize)]
pub struct Read {
    /// What it is about.
    pub state: String,
    /// Positions that it never saw.
    pub missed: u64,
}

/// One broker whose messages come here.
#[derive(Debug, Clone, Deserialize)]
pub struct Remote {
    /// Whether messages can come.
    pub state: String,
    /// Messages that came.
    pub received: u64,
    /// Of those: been here before.
    pub circles: u64,
}

/// What came in.
#[derive(Debug, Clone, Deserialize)]
pub struct Ledger {
    /// Taken from devices.
    pub accepted: u64,
    /// Of those: events stored.
    pub stored: u64,
    /// Of those: refused a second copy.
    pub duplicate: u64,
    /// Of those: kept in quarantine.
    pub quarantined: u64,
    /// Of those: given up by class.
    pub shed: u64,
    /// Turned away for want of room.
    pub refused_full: u64,
}

/// The ledger compared with the journal.
#[derive(Debug, Clone, Deserialize)]
pub struct Audit {
    /// What did not balance.
    pub findings: Vec<String>,
}

/// What is kept.
#[derive(Debug, Clone, Deserialize)]
pub struct Store {
    /// Events in the journal.
    pub buffered: u64,
    /// Whether events are being turned away.
    pub full: bool,
    /// Whether events are being given up by class.
    pub shedding: bool,
    /// What was given up and is not told upstream yet.
    pub gaps: u64,
    /// Messages in quarantine now.
    pub in_quarantine: u64,
    /// Damaged files that were set aside; what is said of each is for people.
    pub set_aside: Vec<serde_json::Value>,
}

/// One destination.
#[derive(Debug, Clone, Deserialize)]
pub struct Destination {
    /// Its name.
    pub name: String,
    /// What it does at the moment.
    pub state: String,
    /// Why it does not deliver.
    pub error: Option<String>,
    /// Events routed to it.
    pub routed: u64,
    /// Of those: delivered.
    pub delivered: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Of those: dead letters.
    pub dead: u64,
    /// Of those: not settled yet.
    pub backlog: u64,
}

/// The front door.
#[derive(Debug, Clone, Deserialize)]
pub struct Broker {
    /// Connections now.
    pub connections_open: u64,
    /// Messages that wait for persistent sessions.
    pub queued_messages: u64,
    /// Messages that were damaged on disk.
    pub kept_damaged: u64,
    /// Damaged files that were set aside.
    pub keep_set_aside: u64,
}

impl Status {
    /// The destination of that name.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn destination(&self, name: &str) -> &Destination {
        self.destinations
            .iter()
            .find(|destination| destination.name == name)
            .unwrap_or_else(|| panic!("no destination {name} in {self:#?}"))
    }

    /// Whether nothing waits for any destination.
    pub fn drained(&self) -> bool {
        self.destinations
            .iter()
            .all(|destination| destination.backlog == 0)
    }

    /// Everything taken in is accounted for, here and at every destination.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_balanced(&self) {
        assert!(self.audit.findings.is_empty(), "{:?}", self.audit.findings);
        let ledger = &self.ledger;
        assert_eq!(
            ledger.accepted,
            ledger.stored + ledger.duplicate + ledger.quarantined + ledger.shed,
            "accepted = stored + duplicate + quarantined + shed does not hold in {self:#?}"
        );
        for one in &self.destinations {
            assert_eq!(
                one.routed,
                one.delivered + one.backlog + one.expired + one.evicted + one.damaged + one.dead,
                "routed = delivered + backlog + expired + evicted + damaged + dead does not \
                 hold for {} in {self:#?}",
                one.name
            );
        }
    }
}
