//! The result of a run, for people and as JSON.

use serde::Serialize;

use crate::{
    fleet::{Config, Outcome},
    stats::ByVersion,
    wire::{Qos, Version},
};

/// The result of a run. Field names are a contract with scripts.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) devices: u32,
    pub(crate) qos: u8,
    pub(crate) seed: u64,
    /// Part of every identity of this run.
    pub(crate) boot: u64,
    pub(crate) duration_secs: f64,
    /// Asked for, per second; 0 for none.
    pub(crate) rate_asked: f64,
    /// Reached: first transmissions per second.
    pub(crate) rate: f64,
    pub(crate) acked_per_sec: f64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) unacknowledged: u64,
    /// Devices that ended with something to send or to have acknowledged.
    pub(crate) devices_gave_up: u64,
    pub(crate) refused: u64,
    pub(crate) refused_malformed: u64,
    pub(crate) deferred: u64,
    pub(crate) resent: u64,
    pub(crate) duplicates_sent: u64,
    pub(crate) malformed: u64,
    pub(crate) reordered: u64,
    pub(crate) cut: u64,
    pub(crate) offline: u64,
    pub(crate) reconnects: u64,
    pub(crate) connect_failures: u64,
    pub(crate) connections_lost: u64,
    pub(crate) samples_skipped: u64,
    pub(crate) payload_bytes_mean: f64,
    pub(crate) ack_latency_us: Latency,
    pub(crate) protocols: Protocols,
}

/// From first transmission to acknowledgement.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Protocols {
    #[serde(rename = "3.1.1")]
    pub(crate) v4: ByVersion,
    #[serde(rename = "5")]
    pub(crate) v5: ByVersion,
}

impl Report {
    /// Sums up a run.
    #[expect(clippy::cast_precision_loss, reason = "rates and means, not counts")]
    pub(crate) fn new(config: &Config, outcome: &Outcome) -> Self {
        let stats = &outcome.stats;
        let seconds = outcome.elapsed.as_secs_f64().max(0.001);
        let latency = &stats.latency_us;
        Self {
            devices: config.devices,
            qos: match config.qos {
                Qos::Zero => 0,
                Qos::One => 1,
                Qos::Two => 2,
            },
            seed: config.seed,
            boot: outcome.boot,
            duration_secs: outcome.elapsed.as_secs_f64(),
            rate_asked: config.rate,
            rate: stats.sent as f64 / seconds,
            acked_per_sec: stats.acked as f64 / seconds,
            sent: stats.sent,
            acked: stats.acked,
            unacknowledged: stats.unacknowledged,
            devices_gave_up: stats.gave_up,
            refused: stats.refused,
            refused_malformed: stats.refused_malformed,
            deferred: stats.deferred,
            resent: stats.resent,
            duplicates_sent: stats.duplicates,
            malformed: stats.malformed,
            reordered: stats.reordered,
            cut: stats.cut,
            offline: stats.offline,
            reconnects: stats.reconnects,
            connect_failures: stats.connect_failures,
            connections_lost: stats.connections_lost,
            samples_skipped: stats.skipped,
            payload_bytes_mean: stats.payload_bytes as f64 / (stats.sent as f64).max(1.0),
            ack_latency_us: Latency {
                count: latency.len(),
                mean: latency.mean(),
                p50: latency.value_at_quantile(0.5),
                p90: latency.value_at_quantile(0.9),
                p99: latency.value_at_quantile(0.99),
                p99_9: latency.value_at_quantile(0.999),
                max: latency.max(),
            },
            protocols: Protocols {
                v4: stats.v4,
                v5: stats.v5,
            },
        }
    }

    /// Everything was sent, and what can be acknowledged was; a refused malformed
    /// message is as it should be.
    pub(crate) const fn is_complete(&self) -> bool {
        self.devices_gave_up == 0
            && self.unacknowledged == 0
            && self.refused == self.refused_malformed
    }

    /// A few lines for people.
    pub(crate) fn summary(&self) -> String {
        let latency = &self.ack_latency_us;
        let ms = |us: u64| format!("{}.{:03}", us / 1_000, us % 1_000);
        let protocols = [
            (Version::V4, self.protocols.v4),
            (Version::V5, self.protocols.v5),
        ]
        .map(|(version, counts)| {
            format!(
                "MQTT {}: {} devices, {} sent, {} acknowledged",
                version.as_str(),
                counts.devices,
                counts.sent,
                counts.acked
            )
        })
        .join("; ");
        format!(
            "{} sent, {} acknowledged, {} unacknowledged, {} refused in {:.1} s ({:.0} per second)\n\
             {} resent, {} duplicates, {} malformed, {} reordered, {} deferred, {} reconnects, {} samples not taken, {} devices gave up\n\
             ack latency in ms: p50 {}, p90 {}, p99 {}, p99.9 {}, max {}\n\
             {protocols}",
            self.sent,
            self.acked,
            self.unacknowledged,
            self.refused,
            self.duration_secs,
            self.rate,
            self.resent,
            self.duplicates_sent,
            self.malformed,
            self.reordered,
            self.deferred,
            self.reconnects,
            self.samples_skipped,
            self.devices_gave_up,
            ms(latency.p50),
            ms(latency.p90),
            ms(latency.p99),
            ms(latency.p99_9),
            ms(latency.max),
        )
    }
}
