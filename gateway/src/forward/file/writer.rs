//! Appends batches to the newest file of a directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Config, name, packed, tail};
use crate::{
    event::Timestamp,
    forward::{batch::Batch, format::Format},
    record::Position,
};

/// A buffer larger than this is not kept.
const BUFFER_KEPT: usize = 8 * 1024 * 1024;

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("another process writes to {}", .0.display())]
    Locked(PathBuf),
    #[error("{action} {}: {source}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Names what was done to which file when it failed.
trait Doing<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Bytes of a file that may not be on disk, because writing them failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    path: PathBuf,
    from: u64,
}

/// A directory that is ours, with its newest file open.
#[derive(Debug)]
pub(super) struct Writer {
    config: Arc<Config>,
    /// Held for as long as the writer lives.
    _lock: File,
    current: Option<Current>,
    /// The name that new ones must sort after.
    newest: Option<String>,
    /// Lines that a crash left, by position.
    left: Vec<tail::Line>,
    buffer: Vec<u8>,
    /// Closed files that are to be compressed.
    closed: Vec<PathBuf>,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    name: String,
    /// Bytes that are on disk.
    synced: u64,
}

impl Writer {
    /// Makes sure of the directory, and of what the last writer left in it.
    pub(super) fn open(config: &Arc<Config>, doubt: Option<&Doubt>) -> Result<Self, Error> {
        let dir = &config.path;
        fs::create_dir_all(dir).doing("create", dir)?;
        let lock_path = dir.join(".lock");
        let lock = File::create(&lock_path).doing("open", &lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked(dir.clone())),
            Err(fs::TryLockError::Error(source)) => Err(source).doing("lock", &lock_path)?,
        }
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        let mut writer = Self {
            config: config.clone(),
            _lock: lock,
            current: None,
            newest: None,
            left: Vec::new(),
            buffer: Vec::new(),
            closed: Vec::new(),
        };
        packed::tidy(dir, config.format).doing("tidy", dir)?;
        let mut files = list(dir)?;
        if let Some(Listed { path, name, .. }) = files.pop_if(|newest| newest.is_plain()) {
            writer.current = Some(recover(path, name.clone(), doubt, &mut writer.left)?);
            writer.newest = Some(name);
        }
        let mut newest_closed = true;
        while writer.left.len() < tail::LINES
            && let Some(before) = files.pop()
        {
            writer.newest.get_or_insert_with(|| before.name.clone());
            let lines = before.lines().doing("read", &before.path)?;
            writer.left.extend(lines);
            if newest_closed && before.is_plain() {
                // A crash may have come between closing and compressing it.
                writer.closed.push(before.path.clone());
            }
            newest_closed = false;
        }
        writer.left.sort_unstable();
        Ok(writer)
    }

    /// Appends what is not there yet; durable when this returns.
    pub(super) fn write(&mut self, batch: &Batch, now: Timestamp) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut first = None;
        for item in &*batch.items {
            let (position, view) = (item.position(), item.view());
            // By the key that the line shows: that of a correction's record is another.
            let line_of = (position, view.attributes.key);
            if self.left.binary_search(&line_of).is_ok() {
                continue;
            }
            let line = buffer.len();
            let mut digits = itoa::Buffer::new();
            view.to_json(Some(digits.format(position.0)), &mut buffer);
            buffer.push(b'\n');
            if self.is_over(buffer.len(), now) && (line > 0 || self.size() > 0) {
                if let Some(first) = first {
                    self.append(&buffer[..line], first, now)?;
                }
                if let Some(closed) = self.current.take() {
                    self.closed.push(closed.path);
                }
                buffer.drain(..line);
                first = None;
            }
            first.get_or_insert(position);
        }
        if let Some(first) = first {
            self.append(&buffer, first, now)?;
        }
        if buffer.capacity() <= BUFFER_KEPT {
            self.buffer = buffer;
        }
        // Last, because compressing takes room before it gives any back.
        for closed in std::mem::take(&mut self.closed) {
            self.pack(&closed);
        }
        Ok(())
    }

    /// What a failed write leaves in doubt.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.current.as_ref().map(|current| Doubt {
            path: current.path.clone(),
            from: current.synced,
        })
    }

    fn size(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.synced)
    }

    /// Whether the current file is full with `more` bytes, or too old.
    fn is_over(&self, more: usize, now: Timestamp) -> bool {
        let Some(current) = &self.current else {
            return more as u64 > self.config.rotate_size;
        };
        let age = name::created(&current.name).map_or(0, |created| {
            now.as_millis().div_euclid(1_000).saturating_sub(created)
        });
        let old = u64::try_from(age).is_ok_and(|age| age >= self.config.rotate_age.as_secs());
        old || current.synced + more as u64 > self.config.rotate_size
    }

    fn append(&mut self, lines: &[u8], first: Position, now: Timestamp) -> Result<(), Error> {
        if self.current.is_none() {
            self.current = Some(self.create(first, now)?);
        }
        let current = self.current.as_mut().expect("just made sure of");
        current
            .file
            .write_all(lines)
            .doing("write", &current.path)?;
        current.file.sync_data().doing("sync", &current.path)?;
        current.synced += lines.len() as u64;
        Ok(())
    }

    /// Compresses a closed file, where that is wanted. One that cannot be, because the disk
    /// is full, stays as it is: nothing is missing.
    fn pack(&self, closed: &Path) {
        if self.config.format == Format::Plain {
            return;
        }
        if let Err(error) = packed::pack(closed, self.config.format) {
            tracing::warn!(file = %closed.display(), %error, "the file stays uncompressed");
        }
    }

    fn create(&mut self, first: Position, now: Timestamp) -> Result<Current, Error> {
        let dir = &self.config.path;
        let name = name::next(now, first, self.newest.as_deref());
        let path = dir.join(format!("{name}.{}", Format::Plain.suffix()));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .doing("create", &path)?;
        self.newest = Some(name.clone());
        sync_directory(dir)?;
        if self.config.files_max > 0 {
            delete_oldest(dir, self.config.files_max)?;
        }
        Ok(Current {
            file,
            path,
            name,
            synced: 0,
        })
    }
}

/// Opens the newest file and cuts off what is no line of ours.
fn recover(
    path: PathBuf,
    name: String,
    doubt: Option<&Doubt>,
    lines: &mut Vec<tail::Line>,
) -> Result<Current, Error> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(&path)
        .doing("open", &path)?;
    if let Some(doubt) = doubt.filter(|doubt| doubt.path == path) {
        // A failed sync may have left bytes in memory that look written.
        let length = file.metadata().doing("look at", &path)?.len();
        file.set_len(doubt.from.min(length)).doing("cut", &path)?;
    }
    let tail = tail::read(&mut file).doing("read", &path)?;
    if tail.end < tail.file_end {
        if tail.is_torn_only(&mut file).doing("read", &path)? {
            tracing::info!(
                file = %path.display(),
                bytes = tail.file_end - tail.end,
                "cut off a line that a crash left unfinished"
            );
        } else {
            tail::set_aside(&path, &mut file, tail.end).doing("set aside the end of", &path)?;
            tracing::error!(
                file = %path.display(),
                bytes = tail.file_end - tail.end,
                "the file does not end with lines of ours; what follows the last one was set aside"
            );
        }
        file.set_len(tail.end).doing("cut", &path)?;
    }
    // Lines of a crashed process may not be on disk yet.
    file.sync_data().doing("sync", &path)?;
    lines.extend(tail.lines);
    Ok(Current {
        file,
        path,
        name,
        synced: tail.end,
    })
}

/// One of our files.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    /// Without suffix: what sorts in the order of writing.
    name: String,
    path: PathBuf,
    format: Format,
}

impl Listed {
    fn is_plain(&self) -> bool {
        self.format == Format::Plain
    }

    /// The last lines of a closed file.
    fn lines(&self) -> io::Result<Vec<tail::Line>> {
        match self.format {
            Format::Plain => Ok(tail::read(&mut File::open(&self.path)?)?.lines),
            format => packed::lines(&self.path, format),
        }
    }
}

/// Our files, in the order of writing.
fn list(dir: &Path) -> Result<Vec<Listed>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).doing("list", dir)? {
        let path = entry.doing("list", dir)?.path();
        if let Some((name, format)) = name::of(&path) {
            files.push(Listed {
                name: name.to_owned(),
                format,
                path,
            });
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn delete_oldest(dir: &Path, keep: usize) -> Result<(), Error> {
    let files = list(dir)?;
    for Listed { path, .. } in &files[..files.len().saturating_sub(keep)] {
        fs::remove_file(path).doing("delete", path)?;
        tracing::info!(file = %path.display(), "deleted, because `files_max` files are kept");
    }
    Ok(())
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .doing("sync", dir)
}
