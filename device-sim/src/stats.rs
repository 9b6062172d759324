//! What a run counts. One [`Stats`] for each thread, added up by whoever looks.

use hdrhistogram::Histogram;

use crate::wire::Version;

/// The longest latency told apart: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Counts of one protocol version.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct ByVersion {
    pub(crate) devices: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
}

/// The counters of a run, or of one thread of it.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    /// Messages sent, each counted at its first transmission.
    pub(crate) sent: u64,
    /// Messages that the gateway acknowledged, each counted once.
    pub(crate) acked: u64,
    /// Messages that the gateway refused for good.
    pub(crate) refused: u64,
    /// Of those, malformed ones.
    pub(crate) refused_malformed: u64,
    /// Times that the gateway had no room.
    pub(crate) deferred: u64,
    /// Transmissions of what was sent before, because it was not acknowledged.
    pub(crate) resent: u64,
    /// Deliberate duplicates.
    pub(crate) duplicates: u64,
    pub(crate) malformed: u64,
    pub(crate) reordered: u64,
    /// Deliberately cut connections.
    pub(crate) cut: u64,
    /// Times offline.
    pub(crate) offline: u64,
    pub(crate) connected: u64,
    pub(crate) reconnects: u64,
    pub(crate) connect_failures: u64,
    /// Connections lost other than by chaos.
    pub(crate) connections_lost: u64,
    /// Samples that were not taken because too many were owed.
    pub(crate) skipped: u64,
    pub(crate) unacknowledged: u64,
    /// Devices that had something to send, or to have acknowledged, when they ended.
    pub(crate) gave_up: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) v4: ByVersion,
    pub(crate) v5: ByVersion,
    /// First transmission to acknowledgement, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            sent: 0,
            acked: 0,
            refused: 0,
            refused_malformed: 0,
            deferred: 0,
            resent: 0,
            duplicates: 0,
            malformed: 0,
            reordered: 0,
            cut: 0,
            offline: 0,
            connected: 0,
            reconnects: 0,
            connect_failures: 0,
            connections_lost: 0,
            skipped: 0,
            unacknowledged: 0,
            gave_up: 0,
            payload_bytes: 0,
            v4: ByVersion::default(),
            v5: ByVersion::default(),
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("an hour in microseconds with three digits is within the limits"),
        }
    }
}

impl Stats {
    /// The counts of a protocol version.
    pub(crate) const fn version(&mut self, version: Version) -> &mut ByVersion {
        match version {
            Version::V4 => &mut self.v4,
            Version::V5 => &mut self.v5,
        }
    }

    /// Adds another thread's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.refused_malformed += other.refused_malformed;
        self.deferred += other.deferred;
        self.resent += other.resent;
        self.duplicates += other.duplicates;
        self.malformed += other.malformed;
        self.reordered += other.reordered;
        self.cut += other.cut;
        self.offline += other.offline;
        self.connected += other.connected;
        self.reconnects += other.reconnects;
        self.connect_failures += other.connect_failures;
        self.connections_lost += other.connections_lost;
        self.skipped += other.skipped;
        self.unacknowledged += other.unacknowledged;
        self.gave_up += other.gave_up;
        self.payload_bytes += other.payload_bytes;
        for (mine, theirs) in [(&mut self.v4, other.v4), (&mut self.v5, other.v5)] {
            mine.devices += theirs.devices;
            mine.sent += theirs.sent;
            mine.acked += theirs.acked;
        }
        self.latency_us
            .add(&other.latency_us)
            .expect("both histograms have the same bounds");
    }
}
