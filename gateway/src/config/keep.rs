//! The keys of `[broker]` about what outlives a connection: persistent sessions, their
//! queues, retained messages.

use std::time::Duration;

use penstock_broker::{KeepConfig, QueueFull, RetainedFull};

use super::{reader::Table, stages::bytes};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(86_400);

/// Reads them; the directory comes from elsewhere.
pub(super) fn keep(table: &Table<'_, '_, '_>) -> KeepConfig {
    let default = KeepConfig::default();
    let full = [
        ("drop-oldest", QueueFull::DropOldest),
        ("drop-newest", QueueFull::DropNewest),
        ("refuse", QueueFull::Refuse),
    ];
    let retained_full = [
        ("refuse", RetainedFull::Refuse),
        ("not-retained", RetainedFull::NotRetained),
    ];
    KeepConfig {
        dir: None,
        sessions_max: table.number("sessions_max", 1..=1_000_000, default.sessions_max),
        sessions_per_user_max: table.number(
            "sessions_per_user_max",
            1..=1_000_000,
            default.sessions_per_user_max,
        ),
        session_expiry_max: table.duration(
            "session_expiry_max",
            Duration::from_secs(1)..=36_500 * DAY,
            default.session_expiry_max,
        ),
        queue_messages_max: table.number(
            "queue_messages_max",
            1..=10_000_000,
            default.queue_messages_max,
        ),
        queue_bytes_max: table.size("queue_bytes_max", KIB..=TIB, default.queue_bytes_max),
        queue_total_bytes_max: table.size(
            "queue_total_bytes_max",
            KIB..=TIB,
            default.queue_total_bytes_max,
        ),
        queue_full: table.word("queue_full", &full, default.queue_full),
        retained_max: table.number("retained_max", 0..=10_000_000, default.retained_max),
        retained_bytes_max: bytes(table.size(
            "retained_bytes_max",
            0..=64 * 1024 * MIB,
            default.retained_bytes_max as u64,
        )),
        retained_full: table.word("retained_full", &retained_full, default.retained_full),
        seal: default.seal,
    }
}
