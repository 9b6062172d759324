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
    status::{Destination, Remote, Status},
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

/// A metric of each remote broker.
struct PerRemote {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Remote) -> u64,
}

/// A metric of each destination.
struct PerDestination {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Destination) -> u64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Account) -> u64) -> Plain {
    Plain {
        name,
        help,
        kind: MetricType::Counter,
        value,
    }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Account) -> u64) -> Plain {
    Plain {
        name,
        help,
        kind: MetricType::Gauge,
        value,
    }
}

const PLAIN: &[Plain] = &[
    gauge("gateway_uptime_seconds", "Seconds since the start", |a| {
        a.status.uptime_secs
    }),
    gauge(
        "gateway_ready",
        "1 when every destination makes progress and devices are not pushed back",
        |a| u64::from(a.status.ready),
    ),
    counter(
        "gateway_store_accepted",
        "Taken from devices: stored + duplicate + quarantined",
        |a| a.status.ledger.accepted,
    ),
    counter("gateway_store_stored", "Events stored", |a| {
        a.status.ledger.stored
    }),
    counter(
        "gateway_store_duplicate",
        "Second copies, not stored again",
        |a| a.status.ledger.duplicate,
    ),
    counter(
        "gateway_store_quarantined",
        "Messages that could not be decoded",
        |a| a.status.ledger.quarantined,
    ),
    counter(
        "gateway_store_refused_full",
        "Turned away because the journal was full",
        |a| a.status.ledger.refused_full,
    ),
    gauge(
        "gateway_store_buffered_events",
        "Events in the journal",
        |a| a.status.store.buffered,
    ),
    gauge(
        "gateway_store_file_bytes",
        "Database and write-ahead log",
        |a| a.status.store.file_bytes,
    ),
    gauge(
        "gateway_store_max_bytes",
        "The most that the journal may take",
        |a| a.status.store.max_bytes,
    ),
    gauge(
        "gateway_store_full",
        "1 while devices are pushed back",
        |a| u64::from(a.status.store.full),
    ),
    gauge(
        "gateway_store_quarantine_messages",
        "Messages in quarantine",
        |a| a.status.store.in_quarantine,
    ),
    gauge(
        "gateway_store_quarantine_bytes",
        "Room that messages in quarantine take, at most an eighth of the journal",
        |a| a.status.store.quarantine_bytes,
    ),
    counter(
        "gateway_store_quarantine_evicted",
        "Oldest messages in quarantine that made room for others",
        |a| a.status.store.quarantine_evicted,
    ),
    gauge(
        "gateway_store_set_aside_files",
        "Damaged journals that were set aside",
        |a| u64::try_from(a.status.store.set_aside.len()).unwrap_or(u64::MAX),
    ),
    counter(
        "gateway_store_written_bytes",
        "Bytes written by the store, for flash wear",
        |a| a.status.store.written_bytes,
    ),
    counter("gateway_store_commits", "Commits", |a| {
        a.status.store.commits
    }),
    gauge("gateway_dedup_keys", "Idempotency keys remembered", |a| {
        a.status.store.dedup_keys
    }),
    gauge("gateway_dedup_bytes", "Memory for remembered keys", |a| {
        a.status.store.dedup_bytes
    }),
    counter(
        "gateway_dedup_shortened_keys",
        "Keys forgotten early for want of memory",
        |a| a.status.store.dedup_shortened,
    ),
    gauge(
        "gateway_broker_connections_open",
        "Connections open now, also those that have not sent CONNECT",
        |a| a.status.broker.connections_open,
    ),
    counter(
        "gateway_broker_connections",
        "TCP connections accepted",
        |a| a.status.broker.connections_total,
    ),
    gauge(
        "gateway_broker_sessions_open",
        "Devices and subscribers connected now",
        |a| a.status.broker.sessions_open,
    ),
    counter("gateway_broker_sessions", "Sessions ever connected", |a| {
        a.status.broker.sessions_total
    }),
    counter(
        "gateway_broker_refused_connection_limit",
        "Connections refused because connections_max are open",
        |a| a.status.broker.refused_connection_limit,
    ),
    counter(
        "gateway_broker_refused_connect_timeout",
        "Connections that sent no complete CONNECT in time",
        |a| a.status.broker.refused_connect_timeout,
    ),
    counter(
        "gateway_broker_handshakes_given_up",
        "Connections that the client closed before its handshakes were over",
        |a| a.status.broker.handshakes_given_up,
    ),
    counter(
        "gateway_broker_handshakes_crowded",
        "Connections that were the slowest when too many handshakes were under way",
        |a| a.status.broker.handshakes_crowded,
    ),
    counter(
        "gateway_broker_proxy_refused",
        "Connections without a PROXY header where there has to be one, or from where none may come",
        |a| a.status.broker.proxy_refused,
    ),
    counter(
        "gateway_broker_websocket_refused",
        "Connections whose WebSocket request was refused",
        |a| a.status.broker.websocket_refused,
    ),
    counter(
        "gateway_broker_tls_plain_text",
        "Clients that did not speak TLS on a port that does nothing else",
        |a| a.status.broker.tls_plain_text,
    ),
    counter(
        "gateway_broker_tls_incompatible",
        "Clients with no TLS version or cipher in common with the gateway",
        |a| a.status.broker.tls_incompatible,
    ),
    counter(
        "gateway_broker_tls_certificate_refused",
        "Clients whose certificate was missing, unknown, expired or revoked",
        |a| a.status.broker.tls_certificate_refused,
    ),
    counter(
        "gateway_broker_tls_refused_by_client",
        "Clients that refused the gateway's certificate or settings",
        |a| a.status.broker.tls_refused_by_client,
    ),
    counter(
        "gateway_broker_tls_failed",
        "Clients whose TLS handshake failed otherwise",
        |a| a.status.broker.tls_failed,
    ),
    gauge(
        "gateway_broker_certificate_not_after_timestamp_seconds",
        "When the first of the listeners' certificates ends; 0 without any",
        |a| a.status.broker.certificate_ends,
    ),
    counter(
        "gateway_broker_refused_protocol",
        "Connections whose CONNECT was malformed or of an unknown protocol",
        |a| a.status.broker.refused_protocol,
    ),
    counter(
        "gateway_broker_refused_client_id",
        "Connections refused for their client identifier",
        |a| a.status.broker.refused_client_id,
    ),
    counter(
        "gateway_broker_refused_takeover_timeout",
        "Connections whose predecessor under the same identifier did not end in time",
        |a| a.status.broker.refused_takeover_timeout,
    ),
    counter(
        "gateway_broker_refused_memory",
        "Connections refused because all sessions together keep too much",
        |a| a.status.broker.refused_memory,
    ),
    counter(
        "gateway_broker_packets_stalled",
        "Connections closed because a packet that had begun did not arrive",
        |a| a.status.broker.packets_stalled,
    ),
    counter(
        "gateway_broker_auth_allowed",
        "Clients let in after they were asked who they are",
        |a| a.status.broker.auth_allowed,
    ),
    counter(
        "gateway_broker_auth_denied",
        "Clients turned away because of who they are, or are not",
        |a| a.status.broker.auth_denied,
    ),
    counter(
        "gateway_broker_auth_locked",
        "Clients turned away because of too many failed logins",
        |a| a.status.broker.auth_locked,
    ),
    counter(
        "gateway_broker_auth_unanswered",
        "Clients turned away because it could not be found out in time who they are",
        |a| a.status.broker.auth_unanswered,
    ),
    counter(
        "gateway_broker_passwords_checked",
        "Passwords checked against their hash; remembered ones are not",
        |a| a.status.broker.passwords_checked,
    ),
    counter(
        "gateway_broker_auth_questions",
        "Questions put to the authentication service; remembered answers are not",
        |a| a.status.broker.hook_questions,
    ),
    counter(
        "gateway_broker_publishes_denied",
        "Publishes that their client had no right to, dropped",
        |a| a.status.broker.publishes_denied,
    ),
    counter(
        "gateway_broker_subscriptions_denied",
        "Filters of SUBSCRIBE refused for want of a right",
        |a| a.status.broker.subscriptions_denied,
    ),
    counter(
        "gateway_broker_sessions_revoked",
        "Sessions ended because their token expired, or users or rules changed",
        |a| a.status.broker.sessions_revoked,
    ),
    counter(
        "gateway_broker_audit_held_back",
        "Lines of the audit log that were not written because there were too many",
        |a| a.status.broker.audit_held_back,
    ),
    counter(
        "gateway_broker_takeovers",
        "Sessions that ended because the client connected again",
        |a| a.status.broker.takeovers,
    ),
    counter(
        "gateway_broker_keep_alive_timeouts",
        "Sessions that ended because the client was silent",
        |a| a.status.broker.keep_alive_timeouts,
    ),
    counter(
        "gateway_broker_protocol_errors",
        "Sessions and connections ended for a malformed or illegal packet",
        |a| a.status.broker.protocol_errors,
    ),
    counter(
        "gateway_broker_packets_too_large",
        "Packets beyond packet_bytes_max, in or out",
        |a| a.status.broker.packets_too_large,
    ),
    counter(
        "gateway_broker_refused_address_limit",
        "Connections refused because connections_per_address_max are open from there",
        |a| a.status.broker.refused_address_limit,
    ),
    counter(
        "gateway_broker_refused_waiting",
        "Connections refused because too many, in all or from there, had not been let in yet",
        |a| a.status.broker.refused_waiting,
    ),
    counter(
        "gateway_broker_refused_identity_limit",
        "Connections refused because connections_per_identity_max are open under the user name",
        |a| a.status.broker.refused_identity_limit,
    ),
    counter(
        "gateway_broker_refused_connect_rate",
        "Connections refused because too many came in a short time, in all or from their address",
        |a| a.status.broker.refused_connect_rate,
    ),
    counter(
        "gateway_broker_publishes_paused",
        "Times a client was not read for a while because of its publish rate",
        |a| a.status.broker.publishes_paused,
    ),
    counter(
        "gateway_broker_topics_refused",
        "Publishes, wills and filters refused for their topic: reserved, malformed, too long or too deep",
        |a| a.status.broker.topics_refused,
    ),
    counter(
        "gateway_broker_subscriptions_refused",
        "Filters refused because their client, or all, had as many as they may",
        |a| a.status.broker.subscriptions_refused,
    ),
    counter(
        "gateway_broker_receive_max_exceeded",
        "Sessions that ended because a client exceeded the receive maximum",
        |a| a.status.broker.receive_max_exceeded,
    ),
    counter(
        "gateway_broker_memory_exceeded",
        "Sessions that ended because all together held too much to take more of them",
        |a| a.status.broker.memory_exceeded,
    ),
    gauge(
        "gateway_broker_memory_input_bytes",
        "What clients sent and was not settled yet, of a quarter of memory_max",
        |a| a.status.broker.memory_input_bytes,
    ),
    gauge(
        "gateway_broker_memory_output_bytes",
        "What waits to be sent to clients, of a quarter of memory_max",
        |a| a.status.broker.memory_output_bytes,
    ),
    gauge(
        "gateway_broker_memory_sessions_bytes",
        "What sessions keep as long as they last, of a quarter of memory_max",
        |a| a.status.broker.memory_sessions_bytes,
    ),
    gauge(
        "gateway_broker_memory_subscriptions_bytes",
        "What subscriptions take, estimated, of a quarter of memory_max",
        |a| a.status.broker.memory_subscriptions_bytes,
    ),
    counter(
        "gateway_broker_kicked",
        "Sessions that an operator ended",
        |a| a.status.broker.kicked,
    ),
    counter(
        "gateway_broker_packets_in",
        "Packets of every kind received in a session",
        |a| a.status.broker.packets_in,
    ),
    counter(
        "gateway_broker_answers",
        "Packets sent in answer to others than publishes",
        |a| a.status.broker.answers,
    ),
    gauge(
        "gateway_broker_sessions_max",
        "Most sessions that were connected at the same time",
        |a| a.status.broker.sessions_max,
    ),
    counter("gateway_broker_in_bytes", "Bytes read from devices", |a| {
        a.status.broker.bytes_in
    }),
    counter(
        "gateway_broker_out_bytes",
        "Bytes written to devices",
        |a| a.status.broker.bytes_out,
    ),
    counter(
        "gateway_broker_accepted",
        "Publishes kept by the gateway",
        |a| a.status.broker.accepted,
    ),
    counter(
        "gateway_broker_duplicates",
        "Publishes the gateway knew already",
        |a| a.status.broker.duplicates,
    ),
    counter(
        "gateway_broker_resent",
        "Publishes resent on their own connection, not handed on again",
        |a| a.status.broker.resent,
    ),
    counter(
        "gateway_broker_refused",
        "Publishes refused for good, by the gateway or for their topic",
        |a| a.status.broker.refused,
    ),
    counter(
        "gateway_broker_busy",
        "Times a publish found no room",
        |a| a.status.broker.busy,
    ),
    counter(
        "gateway_broker_lost",
        "Publishes whose fate was unknown; their sessions ended without acknowledgement",
        |a| a.status.broker.lost,
    ),
    counter(
        "gateway_broker_acknowledged",
        "PUBACK and PUBREC packets sent",
        |a| a.status.broker.acknowledged,
    ),
    counter("gateway_broker_wills", "Will messages published", |a| {
        a.status.broker.wills
    }),
    counter(
        "gateway_broker_wills_lost",
        "Will messages that could not be handed over",
        |a| a.status.broker.wills_lost,
    ),
    gauge(
        "gateway_broker_subscriptions",
        "Subscriptions that exist now",
        |a| a.status.broker.subscriptions,
    ),
    counter(
        "gateway_broker_delivered",
        "Messages sent to subscribers",
        |a| a.status.broker.delivered,
    ),
    counter(
        "gateway_broker_dropped_queue_full",
        "Messages a subscriber did not get because its queue, or what all may hold, was full",
        |a| a.status.broker.dropped_queue_full,
    ),
    counter(
        "gateway_broker_dropped_shared",
        "Messages of a shared subscription that no member was left for, or had room for",
        |a| a.status.broker.dropped_shared,
    ),
    counter(
        "gateway_broker_dropped_too_large",
        "Messages a subscriber did not get because of its Maximum Packet Size",
        |a| a.status.broker.dropped_too_large,
    ),
    counter(
        "gateway_broker_dropped_expired",
        "Messages that expired in a subscriber's queue",
        |a| a.status.broker.dropped_expired,
    ),
    counter(
        "gateway_broker_dropped_revoked",
        "Messages a client did not get because it lost the right to them while it was away",
        |a| a.status.broker.dropped_revoked,
    ),
    counter(
        "gateway_broker_dropped_router",
        "Live messages lost between commit and fan-out",
        |a| a.status.broker.dropped_router,
    ),
    counter(
        "gateway_broker_router_restarts",
        "Times the router was rebuilt",
        |a| a.status.broker.router_restarts,
    ),
    counter(
        "gateway_broker_unknown_acks",
        "Acknowledgements from subscribers for packets that were not in flight",
        |a| a.status.broker.unknown_acks,
    ),
    gauge(
        "gateway_broker_retained",
        "Retained messages held now",
        |a| a.status.broker.retained,
    ),
    gauge(
        "gateway_broker_sessions_kept",
        "Persistent sessions that exist now, connected or not",
        |a| a.status.broker.sessions_kept,
    ),
    counter(
        "gateway_broker_sessions_expired",
        "Persistent sessions that ended because their clients stayed away",
        |a| a.status.broker.sessions_expired,
    ),
    counter(
        "gateway_broker_refused_sessions_max",
        "Connections refused because there are sessions_max persistent sessions",
        |a| a.status.broker.refused_sessions_max,
    ),
    counter(
        "gateway_broker_refused_sessions_per_user_max",
        "Connections refused because their user has sessions_per_user_max persistent sessions",
        |a| a.status.broker.refused_sessions_per_user_max,
    ),
    gauge(
        "gateway_broker_subscriptions_kept",
        "Subscriptions of persistent sessions",
        |a| a.status.broker.subscriptions_kept,
    ),
    gauge(
        "gateway_broker_queued_messages",
        "Messages in the queues of persistent sessions, those in flight included",
        |a| a.status.broker.queued_messages,
    ),
    gauge(
        "gateway_broker_queued_bytes",
        "Bytes in the queues of persistent sessions",
        |a| a.status.broker.queued_bytes,
    ),
    counter(
        "gateway_broker_dropped_kept_queue_full",
        "Messages a persistent session did not get because its queue was full",
        |a| a.status.broker.dropped_kept_queue_full,
    ),
    counter(
        "gateway_broker_dropped_kept_disk_full",
        "Messages of the gateway itself that persistent sessions, or later subscribers, did not get because the disk of broker.db was full",
        |a| a.status.broker.dropped_kept_disk_full,
    ),
    counter(
        "gateway_broker_refused_queue_full",
        "Times a publish was refused or held because a queue, or the disk of broker.db, was full",
        |a| a.status.broker.refused_queue_full,
    ),
    counter(
        "gateway_broker_keep_full",
        "Times that broker.db had no more room, and connections refused or ended because of it",
        |a| a.status.broker.keep_full,
    ),
    counter(
        "gateway_broker_kept_damaged",
        "Queued or retained messages that were damaged on disk, and are gone",
        |a| a.status.broker.kept_damaged,
    ),
    counter(
        "gateway_broker_keep_set_aside",
        "Times a damaged broker.db was set aside",
        |a| a.status.broker.keep_set_aside,
    ),
    counter(
        "gateway_broker_retained_refused",
        "Retained messages not held because their store was full",
        |a| a.status.broker.retained_refused,
    ),
    counter(
        "gateway_broker_retained_cleared",
        "Empty retained messages: they clear one, and are not kept",
        |a| a.ingest.retained_cleared(),
    ),
    counter(
        "gateway_ingest_circles",
        "Messages that came back from another gateway, and were kept already",
        |a| a.ingest.circles(),
    ),
    counter(
        "gateway_ingest_not_data",
        "Messages that their protocol knows to be no data (commands, removals, keep-alives); acknowledged and not kept",
        |a| a.ingest.not_data(),
    ),
    counter(
        "gateway_rules_matched",
        "Events prepared that at least one rule takes",
        |a| a.ingest.matched(),
    ),
    counter(
        "gateway_rules_unmatched",
        "Events prepared that no rule takes, while there are rules",
        |a| a.ingest.unmatched(),
    ),
    counter(
        "gateway_rules_nowhere",
        "Events prepared that rules leave without any destination: kept, shown, and not forwarded",
        |a| a.ingest.nowhere(),
    ),
    counter(
        "gateway_events_shown",
        "Events handed to subscribers of $penstock/events",
        |a| a.status.events.shown,
    ),
    counter(
        "gateway_events_skipped",
        "Events that left memory before subscribers of $penstock/events could be shown them",
        |a| a.status.events.skipped,
    ),
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

const PER_REMOTE: &[PerRemote] = &[
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
        help: "Messages kept in the journal, or known there already",
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
        help: "Messages not taken: no filter takes them, their topic would be one of the gateway's own, or ingest refuses them",
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

/// Name, help and label of a counter by kind.
type ByKind = (&'static str, &'static str, &'static str);

const EVENTS_BY_IDENTITY: ByKind = (
    "gateway_ingest_events",
    "Events prepared, by what their identity was taken from",
    "id_source",
);
const REJECTS_BY_CLASS: ByKind = (
    "gateway_ingest_rejected",
    "Messages, or the rest of batches, that were quarantined, by the kind of reason",
    "class",
);

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
                sample(
                    per.kind,
                    (per.value)(destination),
                    family.encode_family(&labels)?,
                )?;
            }
        }
        for per in PER_REMOTE {
            let mut family = encoder.encode_descriptor(per.name, per.help, None, per.kind)?;
            for remote in &self.0.status.remotes {
                let labels = [("remote", &*remote.name)];
                let metric = family.encode_family(&labels)?;
                sample(per.kind, (per.value)(remote), metric)?;
            }
        }
        let events = self
            .0
            .ingest
            .events()
            .map(|(source, count)| (source.as_str(), count));
        labelled(&mut encoder, EVENTS_BY_IDENTITY, events)?;
        let rejects = self
            .0
            .ingest
            .rejects()
            .map(|(class, count)| (class.as_str(), count));
        labelled(&mut encoder, REJECTS_BY_CLASS, rejects)?;
        Ok(())
    }
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): ByKind,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (kind, count) in counts {
        sample(
            MetricType::Counter,
            count,
            family.encode_family(&[(label, kind)])?,
        )?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn exported() -> BTreeSet<String> {
        let total = |name: &str, kind: MetricType| match kind {
            MetricType::Counter => format!("{name}_total"),
            _ => name.to_owned(),
        };
        let plain = PLAIN.iter().map(|metric| total(metric.name, metric.kind));
        let per = PER_DESTINATION
            .iter()
            .map(|metric| total(metric.name, metric.kind));
        let remote = PER_REMOTE
            .iter()
            .map(|metric| total(metric.name, metric.kind));
        let by_kind = [EVENTS_BY_IDENTITY, REJECTS_BY_CLASS];
        let by_kind = by_kind
            .into_iter()
            .map(|(name, ..)| format!("{name}_total"));
        plain.chain(per).chain(remote).chain(by_kind).collect()
    }

    #[test]
    fn the_documents_name_exactly_the_metrics_there_are() {
        let text = include_str!("../../docs/metrics.md");
        let rows = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `gateway_"));
        let documented: BTreeSet<String> = rows
            .filter_map(|row| row.split('`').next())
            .map(|name| format!("gateway_{name}"))
            .collect();
        assert_eq!(documented, exported());
    }
}
