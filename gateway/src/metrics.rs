//! Every metric's name and help, in one place; docs/metrics.md says the same.
//!
//! Nothing is counted here: at each scrape the counts that the stages keep
//! anyway are written out, so the metrics balance exactly as the ledger does.

mod broker;
mod commands;
mod journal;
mod peers;
mod read;
mod rules;

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use self::{
    broker::BROKER,
    commands::COMMANDS,
    journal::JOURNAL,
    peers::{PER_DESTINATION, PER_REMOTE},
    read::READ,
    rules::{PER_RULE, RULES},
};
use crate::{
    observer::{Account, Observer},
    status::Status,
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

const GENERAL: &[Plain] = &[
    gauge("gateway_uptime_seconds", "Seconds since the start", |a| {
        a.status.uptime_secs
    }),
    gauge(
        "gateway_ready",
        "1 when every destination makes progress and devices are not pushed back",
        |a| u64::from(a.status.ready),
    ),
    counter(
        "gateway_ingest_circles",
        "Messages that left this gateway as events and came back from another one; neither kept nor shown again",
        |a| a.ingest.circles(),
    ),
    counter(
        "gateway_ingest_not_data",
        "Messages, and elements of batches, that their protocol knows to be no data (commands, removals, keep-alives); acknowledged and not kept",
        |a| a.ingest.not_data(),
    ),
    counter(
        "gateway_ingest_sparkplug_gaps",
        "Messages of Sparkplug nodes before which one is missing, by their sequence numbers",
        |a| a.ingest.sparkplug_gaps(),
    ),
    counter(
        "gateway_ingest_sparkplug_rebirths",
        "Commands to Sparkplug nodes to be born again, because something of what they said was missed",
        |a| a.ingest.sparkplug_rebirths(),
    ),
    counter(
        "gateway_ingest_schema_mismatches",
        "Events prepared that are not as the schema of their type says, and are tagged or passed; what is quarantined for it is not among them",
        |a| a.ingest.schema_mismatches(),
    ),
    counter(
        "gateway_ingest_dropped",
        "Messages, and elements of batches, that the `drop` of their mapping says are no data; acknowledged and not kept",
        |a| a.ingest.dropped(),
    ),
    counter(
        "gateway_rules_matched",
        "Events prepared that at least one rule takes; second copies count again",
        |a| a.ingest.matched(),
    ),
    counter(
        "gateway_rules_unmatched",
        "Events prepared that no rule takes, while there are rules; destinations that no rule names get them",
        |a| a.ingest.unmatched(),
    ),
    counter(
        "gateway_rules_nowhere",
        "Events prepared that rules leave without any destination; what was stored of them is counted in `gateway_store_nowhere_total`",
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

/// Every metric without labels.
fn plain() -> impl Iterator<Item = &'static Plain> {
    GENERAL
        .iter()
        .chain(JOURNAL)
        .chain(READ)
        .chain(RULES)
        .chain(COMMANDS)
        .chain(BROKER)
}

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

const EVENTS_BY_MARK: ByKind = (
    "gateway_ingest_time_marks",
    "Events kept whose times are odd, by what is",
    "mark",
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
        for plain in plain() {
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
        for (name, help, value) in PER_RULE {
            let kind = MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for rule in self.0.status.rules.throttled.iter() {
                let labels = [("rule", &*rule.rule)];
                sample(kind, value(rule), family.encode_family(&labels)?)?;
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
        labelled(&mut encoder, EVENTS_BY_MARK, self.0.ingest.marks())?;
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

    /// A row of docs/metrics.md.
    fn row(name: &str, kind: MetricType, label: &str, help: &str) -> String {
        let (total, kind) = match kind {
            MetricType::Counter => ("_total", "counter"),
            _ => ("", "gauge"),
        };
        let label = match label {
            "" => String::new(),
            label => format!("`{label}`"),
        };
        format!("| `{name}{total}` | {kind} | {label} | {help} |")
    }

    fn exported() -> BTreeSet<String> {
        let plain = plain().map(|one| row(one.name, one.kind, "", one.help));
        let per = PER_DESTINATION.iter();
        let per = per.map(|one| row(one.name, one.kind, "destination", one.help));
        let remote = PER_REMOTE.iter();
        let remote = remote.map(|one| row(one.name, one.kind, "remote", one.help));
        let by_kind = [EVENTS_BY_IDENTITY, REJECTS_BY_CLASS, EVENTS_BY_MARK].into_iter();
        let by_kind =
            by_kind.map(|(name, help, label)| row(name, MetricType::Counter, label, help));
        let rules = PER_RULE.iter();
        let rules = rules.map(|(name, help, _)| row(name, MetricType::Gauge, "rule", help));
        let rest = remote.chain(rules).chain(by_kind);
        plain.chain(per).chain(rest).collect()
    }

    #[test]
    fn the_documents_say_exactly_what_the_metrics_say() {
        let text = include_str!("../../docs/metrics.md");
        let documented: BTreeSet<String> = text
            .lines()
            .filter(|line| line.starts_with("| `gateway_"))
            .map(str::to_owned)
            .collect();
        let exported = exported();
        let missing: Vec<_> = exported.difference(&documented).collect();
        let wrong: Vec<_> = documented.difference(&exported).collect();
        assert!(
            missing.is_empty() && wrong.is_empty(),
            "not documented: {missing:#?}\nand not so: {wrong:#?}"
        );
    }
}
