//! Which version of a file was read.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What tells one version of a file from another: when it changed, how long it is, and
/// which file it is. A file that is not there has a stamp too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Option<(SystemTime, u64, u64)>);

/// Files as they were just before they were read: what is changed later is another version.
pub type Seen = BTreeMap<PathBuf, Stamp>;

impl Stamp {
    /// Of the file as it is now.
    pub fn of(path: &Path) -> Self {
        let of = |known: fs::Metadata| Some((known.modified().ok()?, known.len(), known.ino()));
        Self(fs::metadata(path).ok().and_then(of))
    }
}
