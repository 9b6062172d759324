//! NDJSON files in a directory.

use std::{path::PathBuf, time::Duration};

/// How files are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory, created if missing; already resolved against the data directory.
    pub path: PathBuf,
    /// A file is closed when it has this many bytes.
    pub rotate_size: u64,
    /// A file is closed when it is this old.
    pub rotate_age: Duration,
    /// Files kept, the oldest deleted first. Zero keeps all.
    pub files_max: usize,
}

impl Config {
    /// The configured defaults, writing to `path`.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            rotate_size: 64 * 1024 * 1024,
            rotate_age: Duration::from_secs(3600),
            files_max: 0,
        }
    }
}
