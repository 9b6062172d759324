//! The blocking half of the engine: reads the journal and checks what it read,
//! so that neither costs the async half any time.

use super::{batch::Item, journal::Pages, waiting};
use crate::{
    event::CborError,
    record::{DestinationId, Position, Record},
    store,
};

/// A record that cannot be sent, with why.
pub(super) type Damaged = (Record, CborError);

/// What to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    /// Records after a position.
    Page {
        after: Position,
        records: usize,
        bytes: usize,
    },
    /// The records that wait for another attempt; `left` is given back as it is.
    Waiting { left: u64 },
}

/// What was read.
#[derive(Debug)]
pub(super) enum Loaded {
    Page {
        after: Position,
        items: Vec<Result<Item, Damaged>>,
        scanned_to: Position,
    },
    Waiting {
        left: u64,
        entries: Vec<(Result<Item, Damaged>, store::Retry)>,
        /// Whether these are all.
        complete: bool,
    },
}

/// Reads. Blocking.
pub(super) fn load(
    pages: &mut impl Pages,
    destination: DestinationId,
    request: Request,
) -> Result<Loaded, store::Error> {
    match request {
        Request::Page {
            after,
            records,
            bytes,
        } => {
            let page = pages.read(destination, after, records, bytes)?;
            Ok(Loaded::Page {
                after,
                items: page.records.into_iter().map(Item::check).collect(),
                scanned_to: page.scanned_to,
            })
        }
        Request::Waiting { left } => {
            let retries = pages.retries(destination, waiting::RECORDS_MAX, waiting::BYTES_MAX)?;
            let bytes: usize = retries.iter().map(|retry| retry.record.body.len()).sum();
            Ok(Loaded::Waiting {
                left,
                complete: retries.len() < waiting::RECORDS_MAX && bytes < waiting::BYTES_MAX,
                entries: retries
                    .into_iter()
                    .map(|retry| (Item::check(retry.record.clone()), retry))
                    .collect(),
            })
        }
    }
}
