//! The read side.

use super::{Plain, counter, gauge};
use crate::query::State;

pub(super) const READ: &[Plain] = &[
    gauge(
        "gateway_read_following",
        "1 while the read side follows the journal; 0 while it is built anew, waits, or is off",
        |a| u64::from(a.status.read.state == State::Following),
    ),
    gauge(
        "gateway_read_position",
        "Answers of the read side reflect every event up to here",
        |a| a.status.read.position,
    ),
    gauge(
        "gateway_read_lag_events",
        "Events that answers of the read side do not reflect yet",
        |a| a.status.read.lag,
    ),
    gauge("gateway_read_file_bytes", "`read.db` and its log", |a| {
        a.status.read.bytes
    }),
    gauge(
        "gateway_read_max_bytes",
        "The most that `read.db` may take, about",
        |a| a.status.read.bytes_max,
    ),
    gauge("gateway_read_series", "Series that are followed", |a| {
        a.status.read.series
    }),
    gauge(
        "gateway_read_series_refused",
        "Values that `read.db` did not take because there are too many series",
        |a| a.status.read.series_refused,
    ),
    gauge(
        "gateway_read_evicted",
        "Events that left `read.db` for want of room",
        |a| a.status.read.evicted,
    ),
    gauge(
        "gateway_read_kept_evicted",
        "Messages in quarantine and dead letters that cannot be searched, for want of room",
        |a| a.status.read.kept_evicted,
    ),
    gauge(
        "gateway_read_held",
        "1 while the journal keeps for the read side what that has not read",
        |a| u64::from(a.status.read.held),
    ),
    gauge(
        "gateway_read_missed",
        "Positions that left the journal before the read side came to them",
        |a| a.status.read.missed,
    ),
    gauge(
        "gateway_read_unattributed",
        "Events of the ledger of which nobody can tell the device",
        |a| a.status.read.unattributed,
    ),
    counter(
        "gateway_read_rebuilt",
        "How often `read.db` was built anew since the start",
        |a| a.status.read.rebuilt,
    ),
];
