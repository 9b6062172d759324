//! Commands to devices.

use super::{Plain, counter, gauge};

pub(super) const COMMANDS: &[Plain] = &[
    gauge("gateway_commands_open", "Commands that are not over", |a| {
        a.status.commands.open
    }),
    gauge(
        "gateway_commands_oldest_age_seconds",
        "Seconds since the oldest command was placed that is not over; 0 where there is none",
        |a| a.status.commands.oldest_age_secs,
    ),
    counter(
        "gateway_commands_queued",
        "Commands that were placed, whoever placed them",
        |a| a.status.commands.queued,
    ),
    counter(
        "gateway_commands_sent",
        "Commands that were noted as sent",
        |a| a.status.commands.sent,
    ),
    counter(
        "gateway_commands_acknowledged",
        "Commands that are done, as their devices said",
        |a| a.status.commands.acknowledged,
    ),
    counter(
        "gateway_commands_failed",
        "Commands that are not done, as their devices said, or because it is not known after damage whether they were sent",
        |a| a.status.commands.failed,
    ),
    counter(
        "gateway_commands_expired",
        "Commands whose deadline passed, or whose device was removed after they were sent",
        |a| a.status.commands.expired,
    ),
    counter(
        "gateway_commands_cancelled",
        "Commands that were taken back, or whose device was removed before they were sent",
        |a| a.status.commands.cancelled,
    ),
];
