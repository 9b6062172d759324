//! How events are put together into requests of ten entries.

use std::time::Duration;

use super::{KIB, LINGER_MAX, MIB, ORDERS, check_fits};
use crate::{
    config::{reader::Table, stages::bytes},
    forward::aws::{Batching, Order},
};

/// What the services take where everything was raised.
const REQUEST_BYTES_MAX: u64 = MIB;

/// Reads the keys but for the order; `record_bytes_max` is what the largest event is called
/// there.
pub(super) fn read(
    table: &Table<'_, '_, '_>,
    record_bytes_max: &'static str,
    default: &Batching,
) -> Batching {
    let size = |key, default| table.size(key, KIB..=REQUEST_BYTES_MAX, default as u64);
    let request = size("request_bytes", default.request_bytes);
    let record = size(record_bytes_max, default.record_bytes_max);
    check_fits(table, record_bytes_max, record, request);
    Batching {
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        linger: table.duration("linger", Duration::ZERO..=LINGER_MAX, default.linger),
        in_flight: table.number("in_flight", 1..=64, default.in_flight),
        order: default.order,
        request_bytes: bytes(request),
        record_bytes_max: bytes(record),
    }
}

/// Reads what is kept of the order, where the place keeps any.
#[cfg(any(feature = "sns", feature = "sqs"))]
pub(super) fn read_order(table: &Table<'_, '_, '_>, is_fifo: bool, default: Order) -> Order {
    let order = table.word("order", &ORDERS, default);
    if !is_fifo && table.span("order").is_some() {
        let what = "only what has a name with \".fifo\" at its end keeps an order";
        table.mistake(table.span("order").as_ref(), "order", what);
    }
    order
}
