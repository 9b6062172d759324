//! Every metric's name and help, in one place; docs/metrics.md says the same.
//!
//! Nothing is counted here: at each scrape the counts that the stages keep
//! anyway are written out, so the metrics balance exactly as the ledger does.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::sync::Arc;

use crate::{
    observer::{Account, Observer},
    status::{Destination, Status},
};

/// The media type of [`encode`]'s text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A metric without labels.
struct Plain {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Account) -> u64,
}

/// A metric of each destination.
struct PerDestination {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Destination) -> u64,
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&Account) -> u64,
) -> Plain {
    Plain { name, help, kind: MetricType::Counter, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Account) -> u64) -> Plain {
    Plain { name, help, kind: MetricType::Gauge, value }
}

const PLAIN: &[Plain] = &[
    gauge("gateway_uptime_seconds", "Seconds since the start", |a| a.status.uptime_secs),
    gauge("gateway_ready", "1 when every destination makes progress and devices are not pushed back", |a| {
        u64::from(a.status.ready)
    }),
    counter("gateway_store_accepted", "Taken from devices: stored + duplicate + quarantined", |a| {
        a.status.ledger.accepted
    }),
    counter("gateway_store_stored", "Events stored", |a| a.status.ledger.stored),
    counter("gateway_store_duplicate", "Second copies, not stored again", |a| {
        a.status.ledger.duplicate
    }),
    counter("gateway_store_quarantined", "Messages that could not be decoded", |a| {
        a.status.ledger.quarantined
    }),
    counter("gateway_store_refused_full", "Turned away because the journal was full", |a| {
        a.status.ledger.refused_full
    }),
    gauge("gateway_store_buffered_events", "Events in the journal", |a| a.status.store.buffered),
    gauge("gateway_store_file_bytes", "Database and write-ahead log", |a| a.status.store.file_bytes),
    gauge("gateway_store_max_bytes", "The most that the journal may take", |a| {
        a.status.store.max_bytes
    }),
    gauge("gateway_store_full", "1 while devices are pushed back", |a| {
        u64::from(a.status.store.full)
    }),
    gauge("gateway_store_quarantine_messages", "Messages in quarantine", |a| {
        a.status.store.in_quarantine
    }),
    gauge("gateway_store_set_aside_files", "Damaged journals that were set aside", |a| {
        u64::try_from(a.status.store.set_aside.len()).unwrap_or(u64::MAX)
    }),
    counter("gateway_store_written_bytes", "Bytes written by the store, for flash wear", |a| {
        a.status.store.written_bytes
    }),
    counter("gateway_store_commits", "Commits", |a| a.status.store.commits),
    gauge("gateway_dedup_keys", "Idempotency keys remembered", |a| a.status.store.dedup_keys),
    gauge("gateway_dedup_bytes", "Memory for remembered keys", |a| a.status.store.dedup_bytes),
];

const PER_DESTINATION: &[PerDestination] = &[
    PerDestination {
        name: "gateway_destination_routed",
        help: "Events for this destination: delivered + backlog + expired + evicted + damaged + dead",
        kind: MetricType::Counter,
        value: |d| d.routed,
    },
    PerDestination {
        name: "gateway_destination_delivered",
        help: "Events acknowledged by this destination",
        kind: MetricType::Counter,
        value: |d| d.delivered,
    },
    PerDestination {
        name: "gateway_destination_expired",
        help: "Events that expired before they could be delivered",
        kind: MetricType::Counter,
        value: |d| d.expired,
    },
    PerDestination {
        name: "gateway_destination_evicted",
        help: "Events evicted for room before they could be delivered",
        kind: MetricType::Counter,
        value: |d| d.evicted,
    },
    PerDestination {
        name: "gateway_destination_damaged",
        help: "Events lost with a damaged file",
        kind: MetricType::Counter,
        value: |d| d.damaged,
    },
    PerDestination {
        name: "gateway_destination_dead_events",
        help: "Events that this destination will not take: dead letters",
        kind: MetricType::Gauge,
        value: |d| d.dead,
    },
    PerDestination {
        name: "gateway_destination_backlog_events",
        help: "Events still to be delivered",
        kind: MetricType::Gauge,
        value: |d| d.backlog,
    },
    PerDestination {
        name: "gateway_destination_retrying_events",
        help: "Part of the backlog: events that wait for another attempt",
        kind: MetricType::Gauge,
        value: |d| d.retrying,
    },
    PerDestination {
        name: "gateway_destination_oldest_undelivered_age_seconds",
        help: "Age of the oldest event of the backlog, 0 without a backlog",
        kind: MetricType::Gauge,
        value: |d| d.oldest_undelivered_age_secs.unwrap_or(0),
    },
    PerDestination {
        name: "gateway_destination_stopped",
        help: "1 while this destination is stopped until somebody changes something",
        kind: MetricType::Gauge,
        value: |d| u64::from(d.state == "stopped"),
    },
];

/// Everything, in the OpenMetrics text format.
pub fn encode(observer: &Arc<Observer>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(observer.account())));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("writing to memory cannot fail");
    out
}

#[derive(Debug)]
struct Scrape(Account);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for plain in PLAIN {
            let value = (plain.value)(&self.0);
            let metric = encoder.encode_descriptor(plain.name, plain.help, None, plain.kind)?;
            sample(plain.kind, value, metric)?;
        }
        let Status { destinations, .. } = &self.0.status;
        for per in PER_DESTINATION {
            let mut family = encoder.encode_descriptor(per.name, per.help, None, per.kind)?;
            for destination in destinations {
                let labels = [("destination", &*destination.name)];
                sample(per.kind, (per.value)(destination), family.encode_family(&labels)?)?;
            }
        }
        for (name, help, label, counts) in self.0.labelled() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in counts {
                sample(MetricType::Counter, count, family.encode_family(&[(label, value)])?)?;
            }
        }
        Ok(())
    }
}

fn sample(
    kind: MetricType,
    value: u64,
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> std::fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}
