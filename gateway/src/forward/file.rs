//! NDJSON files in a directory: one `CloudEvents` JSON object per line, each with
//! its `position` in the journal.
//!
//! Files are named `events-<UTC time of creation>-<first position>.ndjson`; the
//! names sort in the order of writing, and every file but the last is complete. With a
//! compressed format a file is compressed when it is closed, and called `.ndjson.gz` or
//! `.ndjson.zst` then; the last one stays plain ([`packed`]).
//! A batch is acknowledged after `fdatasync`; a new file's name is made durable
//! before anything in it is.
//!
//! **Exactly once**: a crash can only leave lines that the journal does not know
//! to be delivered, and a torn one after them. When the directory is opened, a
//! torn end is cut off, and the position and key of every line that a crash can
//! have left are remembered: a record that comes again with both is not written
//! again. A record with a position that was written by another journal has
//! another key, and is written. Nobody else may write here, which a lock on the
//! directory makes sure of.
//!
//! No record fails by itself here: a full disk or a missing permission is the
//! whole destination's trouble.

mod name;
mod packed;
mod tail;
mod writer;

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use self::writer::{Doubt, Writer};
use super::{
    batch::Batch,
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    format::Format,
};
use crate::{clock::Clock, event::Timestamp};

/// How files are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory, created if missing; already resolved against the data directory.
    pub path: PathBuf,
    /// A file is closed when it has this many bytes.
    pub rotate_size: u64,
    /// A file is closed when it is this old and there is something to write.
    pub rotate_age: Duration,
    /// Files kept, the oldest deleted first. Zero keeps all.
    pub files_max: usize,
    /// What closed files look like.
    pub format: Format,
}

impl Config {
    /// The configured defaults, writing to `path`.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            rotate_size: 64 * 1024 * 1024,
            rotate_age: Duration::from_secs(3600),
            files_max: 0,
            format: Format::Plain,
        }
    }
}

/// Records in a batch, at most: one `fdatasync` each.
const BATCH_RECORDS: usize = 4_096;
/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// The file destination.
#[derive(Debug)]
pub(super) struct File {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    slot: Arc<Mutex<Slot>>,
}

/// A writer stays open while everything goes well. After any failure it is
/// opened anew, so that what is on disk is looked at again.
#[derive(Debug, Default)]
struct Slot {
    writer: Option<Writer>,
    doubt: Option<Doubt>,
}

impl Slot {
    fn write(
        &mut self,
        config: &Arc<Config>,
        batch: &Batch,
        now: Timestamp,
    ) -> Result<(), writer::Error> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::open(config, self.doubt.as_ref())?,
        };
        self.doubt = None;
        match writer.write(batch, now) {
            Ok(()) => {
                self.writer = Some(writer);
                Ok(())
            }
            Err(error) => {
                self.doubt = writer.doubt();
                Err(error)
            }
        }
    }
}

impl File {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self {
            config: Arc::new(config),
            clock,
            slot: Arc::default(),
        }
    }
}

impl Destination for File {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: BATCH_RECORDS,
            batch_bytes: BATCH_BYTES,
            linger: Duration::ZERO,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let (config, slot) = (self.config.clone(), self.slot.clone());
        let now = self.clock.now();
        Box::pin(async move {
            let records = batch.items.len();
            let written = tokio::task::spawn_blocking(move || {
                // An abandoned write may still be running; the next one waits here.
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.write(&config, &batch, now)
            });
            match written.await {
                Ok(Ok(())) => Ok(vec![Outcome::Acknowledged; records]),
                Ok(Err(error)) => Err(Error::unavailable(error.to_string())),
                Err(error) => Err(Error::unavailable(format!(
                    "the writing thread died: {error}"
                ))),
            }
        })
    }
}

#[cfg(test)]
mod tests;
