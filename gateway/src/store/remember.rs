//! The keys of the dedup window, read back from disk when the writer begins.

use std::time::Instant;

use super::{column::number, frame::integer, writer::Writer};
use crate::event::{Key, Timestamp};

impl Writer {
    /// Reads the keys of the window back. Appends wait for it in the queue.
    pub(super) fn load_keys(&mut self) -> rusqlite::Result<()> {
        let began = Instant::now();
        let mut statement = self
            .connection
            .prepare("SELECT sequence, at, checksum, keys FROM commits ORDER BY sequence")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sequence = integer(row.get(0)?);
            let (at, checksum) = (number(row, 1)?, number(row, 2)?);
            let (Some(at), Ok(blob)) = (at, row.get_ref(3)?.as_bytes()) else {
                tracing::error!(commit = sequence, "the keys of a commit are damaged");
                continue;
            };
            let at = Timestamp::from_nanos(at);
            let at = self.state.step.committed(sequence, at);
            if Some(i64::from(crc32fast::hash(blob))) != checksum {
                tracing::error!(commit = sequence, "the keys of a commit are damaged");
                continue;
            }
            let (keys, _) = blob.as_chunks::<16>();
            let forgotten = self.window.begin(at, keys.len());
            self.duties.forgotten = self.duties.forgotten.max(forgotten);
            for key in keys {
                self.window.insert(Key(*key), sequence, at);
            }
        }
        drop(rows);
        drop(statement);
        let now = self.look_at_clock();
        let forgotten = self.window.begin(now, 0);
        self.duties.forgotten = self.duties.forgotten.max(forgotten);
        tracing::debug!(
            keys = self.window.len(),
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "remembered the keys"
        );
        Ok(())
    }
}
