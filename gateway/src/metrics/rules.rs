//! What rules do beside sending.

use super::{Plain, gauge};
use crate::actions::HeldBack;

/// A gauge by rule: its name, its help, its value.
pub(super) type PerRule = (&'static str, &'static str, fn(&HeldBack) -> u64);

/// Of a hundred rules that have a throttle, those first that held back most.
pub(super) const PER_RULE: &[PerRule] = &[
    (
        "gateway_rule_held_back",
        "How often the throttle of this rule held something back, since it has one; of the hundred rules that did most often",
        |rule| rule.held_back,
    ),
    (
        "gateway_rule_throttle_evicted",
        "Devices that the throttle of this rule has forgotten for want of room before their time was over; of the same rules",
        |rule| rule.evicted,
    ),
];

pub(super) const RULES: &[Plain] = &[
    gauge(
        "gateway_rules_acting",
        "Rules that do something beside sending",
        |a| a.status.rules.acting as u64,
    ),
    gauge(
        "gateway_rules_backlog_events",
        "Events that rules took and have not acted on yet",
        |a| a.status.rules.backlog,
    ),
    gauge("gateway_rules_alarms", "Alarms that hold", |a| {
        a.status.rules.alarms
    }),
    gauge(
        "gateway_rules_routed",
        "Events that rules which do something took, since the journal was begun",
        |a| a.status.rules.routed,
    ),
    gauge("gateway_rules_done", "Of those: acted on", |a| {
        a.status.rules.done
    }),
    gauge(
        "gateway_rules_expired",
        "Of those: expired by age before",
        |a| a.status.rules.expired,
    ),
    gauge(
        "gateway_rules_evicted",
        "Of those: evicted for room before",
        |a| a.status.rules.evicted,
    ),
    gauge(
        "gateway_rules_damaged",
        "Of those: lost with a damaged file before",
        |a| a.status.rules.damaged,
    ),
    gauge(
        "gateway_rules_dead",
        "Of those: dead letters, because they do not read back",
        |a| a.status.rules.dead,
    ),
    gauge(
        "gateway_rules_messages",
        "Messages to local subscribers, since `rules.db` was begun",
        |a| a.status.rules.messages,
    ),
    gauge(
        "gateway_rules_failures",
        "What rules could not do for an event, since `rules.db` was begun",
        |a| a.status.rules.failures,
    ),
    gauge(
        "gateway_rules_failures_evicted",
        "Of those: no longer kept, for want of room",
        |a| a.status.rules.failures_evicted,
    ),
    gauge(
        "gateway_rules_windows_evicted",
        "Windows that made room for those of other devices, since `rules.db` was begun",
        |a| a.status.rules.windows_evicted,
    ),
    gauge(
        "gateway_rules_held_back",
        "How often the throttle of a rule held something back, since `rules.db` was begun",
        |a| a.status.rules.held_back,
    ),
    gauge(
        "gateway_rules_lost",
        "Events that rules made, and failures, that were lost with a damaged `rules.db`",
        |a| a.status.rules.lost,
    ),
    gauge(
        "gateway_rules_set_aside_files",
        "Damaged `rulebook.db` and `rules.db` files that were set aside and are still there",
        |a| a.status.rules.set_aside.len() as u64,
    ),
    gauge(
        "gateway_rules_waiting",
        "1 while nothing is done, or what rules made waits for room in the journal",
        |a| u64::from(a.status.rules.error.is_some()),
    ),
];
