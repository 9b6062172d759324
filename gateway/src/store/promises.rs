//! The promises file: where the journal stood when it last released receipts.
//!
//! Damage in the middle of a write-ahead log makes SQLite drop the commits after
//! it without a word, and the database looks sound. This small file, overwritten
//! in place before receipts are released, tells the next start how far the
//! journal had promised to be. It is not synced: after a power cut it may be
//! older than the journal, which says nothing, and is never newer than what the
//! journal had on disk.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use super::{account::Name, state::State};
use crate::record::DestinationId;

const FILE: &str = "journal.promises";
/// Where the names lie, behind the largest possible state.
const NAMES_AT: u64 = 8 * 1024;
const NAMES_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Promises {
    file: File,
    scratch: Vec<u8>,
}

impl Promises {
    /// Opens the file in `dir`; creates it where there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        Ok(Self {
            file,
            scratch: Vec::new(),
        })
    }

    /// Opens the file in `dir` for reading.
    pub(super) fn open_existing(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(dir.join(FILE))?,
            scratch: Vec::new(),
        })
    }

    /// What was promised; `None` where nothing was, or it cannot be read.
    pub(super) fn read(&self) -> Option<State> {
        let mut bytes = vec![0; 8 * 1024];
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(_) => return None,
            }
        }
        State::decode(&bytes[..length])
    }

    /// Names of the destinations as of the last start; a damaged journal may
    /// have lost them, and masks mean nothing without them.
    pub(super) fn names(&self) -> Vec<(DestinationId, String)> {
        let mut bytes = vec![0; NAMES_BYTES_MAX];
        let Ok(length) = self.file.read_at(&mut bytes, NAMES_AT) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&bytes[..length]);
        let Some((checksum, lines)) = text.split_once('\n') else {
            return Vec::new();
        };
        let Some((lines, _)) = lines.split_once("\n\n") else {
            return Vec::new();
        };
        if checksum != crc32fast::hash(lines.as_bytes()).to_string() {
            return Vec::new();
        }
        let names = lines.lines().filter_map(|line| line.split_once(' '));
        names
            .filter_map(|(id, name)| Some((DestinationId(id.parse().ok()?), name.to_owned())))
            .collect()
    }

    /// Notes the names of the destinations.
    pub(super) fn write_names(&self, names: &[Name]) -> io::Result<()> {
        let lines: Vec<_> = names
            .iter()
            .map(|n| format!("{} {}", n.id.0, n.name))
            .collect();
        let lines = lines.join("\n");
        let text = format!("{}\n{lines}\n\n", crc32fast::hash(lines.as_bytes()));
        let same = |noted: &[(DestinationId, String)]| {
            let mut both = noted.iter().zip(names);
            noted.len() == names.len() && both.all(|(a, b)| a.0 == b.id && *a.1 == *b.name)
        };
        if text.len() <= NAMES_BYTES_MAX && !same(&self.names()) {
            self.file.write_all_at(text.as_bytes(), NAMES_AT)?;
            // A number is given again by what is noted here, so it must not come back
            // with its earlier name.
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Notes that `state` is durable.
    pub(super) fn write(&mut self, state: &State) -> io::Result<()> {
        state.encode(&mut self.scratch);
        self.file.write_all_at(&self.scratch, 0)
    }
}
