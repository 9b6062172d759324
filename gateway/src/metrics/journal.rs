//! The journal, and the keys that are remembered.

use super::{Plain, counter, gauge};

pub(super) const JOURNAL: &[Plain] = &[
    counter(
        "gateway_store_accepted",
        "Taken from devices: stored + duplicate + quarantined + shed",
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
        "gateway_store_shed_low",
        "Given up while room was short, of class low",
        |a| a.status.ledger.shed_by_class.low,
    ),
    counter(
        "gateway_store_shed_normal",
        "Given up while room was short, of class normal",
        |a| a.status.ledger.shed_by_class.normal,
    ),
    counter(
        "gateway_store_shed_high",
        "Given up while room was short, of class high",
        |a| a.status.ledger.shed_by_class.high,
    ),
    gauge(
        "gateway_store_shedding",
        "1 while events are given up by class",
        |a| u64::from(a.status.store.shedding),
    ),
    gauge(
        "gateway_store_gaps",
        "Gaps that were counted and are not told upstream yet",
        |a| a.status.store.gaps,
    ),
    counter(
        "gateway_store_refused_full",
        "Turned away because the journal was full",
        |a| a.status.ledger.refused_full,
    ),
    counter(
        "gateway_store_audits",
        "How often the ledger was compared with what the journal has",
        |a| a.status.audit.runs,
    ),
    gauge(
        "gateway_store_audit_findings",
        "What did not balance when it was compared last; anything but 0 is an error of ours",
        |a| a.status.audit.findings.len() as u64,
    ),
    gauge(
        "gateway_store_buffered_events",
        "Events in the journal that a destination waits for",
        |a| a.status.store.buffered,
    ),
    counter(
        "gateway_store_nowhere",
        "Events that the rules sent to no destination: held + expired + evicted + damaged",
        |a| a.status.nowhere.total,
    ),
    gauge(
        "gateway_store_nowhere_held",
        "Of those: in the journal now",
        |a| a.status.nowhere.held,
    ),
    counter(
        "gateway_store_nowhere_expired",
        "Of those: expired by age",
        |a| a.status.nowhere.expired,
    ),
    counter(
        "gateway_store_nowhere_evicted",
        "Of those: evicted for room",
        |a| a.status.nowhere.evicted,
    ),
    counter(
        "gateway_store_nowhere_damaged",
        "Of those: lost with a damaged file",
        |a| a.status.nowhere.damaged,
    ),
    gauge(
        "gateway_store_settled_events",
        "Events in the journal that no destination waits for, about: all have them, or they are held for nobody; they give way when room is needed",
        |a| a.status.store.settled,
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
];
