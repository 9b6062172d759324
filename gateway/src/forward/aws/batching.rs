//! How events are put together for services whose requests have ten entries.

use std::time::Duration;

use super::{Limits, Order, TooLarge, Unit};
use crate::forward::{Error, destination};

/// How events are put together into requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// Events that are worked on at once, at most.
    pub batch_records: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// Requests without an answer, at most.
    pub in_flight: usize,
    /// What is kept of the order, where the service keeps any.
    pub order: Order,
    /// Bytes of all that is in a request, as the service counts, at most.
    pub request_bytes: usize,
    /// Bytes of one event in it, with all that belongs to it, at most.
    pub record_bytes_max: usize,
}

/// Entries of a request: what the services take.
const REQUEST_RECORDS: usize = 10;
/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

impl Batching {
    /// The configured defaults, where a request and an event may have so many bytes.
    pub const fn of_bytes(bytes: usize) -> Self {
        Self {
            batch_records: 1_000,
            linger: Duration::from_millis(100),
            in_flight: 8,
            order: Order::Strict,
            request_bytes: bytes,
            record_bytes_max: bytes,
        }
    }

    pub(in crate::forward) fn check(&self, record_bytes_max: &str) -> Result<(), Error> {
        if self.record_bytes_max > self.request_bytes {
            let wrong = format!("{record_bytes_max} should be at most request_bytes");
            return Err(Error::Config(wrong));
        }
        Ok(())
    }

    /// What is taken from the journal at once.
    pub(in crate::forward) fn batches(&self) -> destination::Limits {
        destination::Limits {
            batch_records: self.batch_records.max(1),
            batch_bytes: BATCH_BYTES,
            linger: self.linger,
            in_flight: 1,
        }
    }

    /// What a request may have, to a service that keeps an order or one that keeps none.
    pub(in crate::forward) const fn requests(&self, keeps_order: bool) -> Limits {
        Limits {
            records: REQUEST_RECORDS,
            bytes: self.request_bytes,
            // Two requests at a time come in any order, also where all of it is taken.
            in_flight: match (keeps_order, self.order) {
                (true, Order::Relaxed) => 1,
                _ => self.in_flight,
            },
            order: match keeps_order {
                true => self.order,
                false => Order::Relaxed,
            },
        }
    }

    /// Tells those that are too large from the others.
    pub(in crate::forward) fn sort(
        &self,
        units: impl Iterator<Item = Unit>,
    ) -> (Vec<Unit>, TooLarge) {
        let (mut fit, mut too_large) = (Vec::new(), TooLarge::new());
        for unit in units {
            let (bytes, most) = (unit.len(), self.record_bytes_max);
            match bytes > most {
                true => too_large.extend(unit.items.iter().map(|at| {
                    let reason =
                        format!("{bytes} bytes with its attributes, and at most {most} can go");
                    (*at, reason)
                })),
                false => fit.push(unit),
            }
        }
        (fit, too_large)
    }
}
