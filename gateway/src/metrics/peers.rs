//! Where events go, and where messages come from: one value for each, by its name.

use prometheus_client::metrics::MetricType;

use crate::status::{Destination, Remote};

/// A metric of each remote broker.
pub(super) struct PerRemote {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) value: fn(&Remote) -> u64,
}

/// A metric of each destination.
pub(super) struct PerDestination {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) value: fn(&Destination) -> u64,
}

pub(super) const PER_DESTINATION: &[PerDestination] = &[
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

pub(super) const PER_REMOTE: &[PerRemote] = &[
    PerRemote {
        name: "gateway_remote_connected",
        help: "1 while this remote broker can send messages here",
        kind: MetricType::Gauge,
        value: |r| u64::from(r.state == "connected"),
    },
    PerRemote {
        name: "gateway_remote_received",
        help: "Messages of this remote broker: shown + kept + circles + refused",
        kind: MetricType::Counter,
        value: |r| r.counts.received,
    },
    PerRemote {
        name: "gateway_remote_shown",
        help: "Messages shown to local subscribers only",
        kind: MetricType::Counter,
        value: |r| r.counts.shown,
    },
    PerRemote {
        name: "gateway_remote_kept",
        help: "Messages kept in the journal, in quarantine too, or known there already",
        kind: MetricType::Counter,
        value: |r| r.counts.kept,
    },
    PerRemote {
        name: "gateway_remote_circles",
        help: "Messages that have been through this gateway before, and go nowhere",
        kind: MetricType::Counter,
        value: |r| r.counts.circles,
    },
    PerRemote {
        name: "gateway_remote_refused",
        help: "Messages not taken: no filter takes them, or they are for subscribers only and their topic can be none here",
        kind: MetricType::Counter,
        value: |r| r.counts.refused,
    },
    PerRemote {
        name: "gateway_remote_disconnects",
        help: "Connections to this remote broker that ended or could not be made",
        kind: MetricType::Counter,
        value: |r| r.counts.disconnects,
    },
];
