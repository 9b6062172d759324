//! The filters that a remote broker has of us, so that one that is taken out of the
//! configuration is taken out there too.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// See the module. The broker keeps them with our session, which outlives this process,
/// and there is no way to ask it; so they are in a file of the data directory.
#[derive(Debug, Clone)]
pub(super) struct Filters {
    path: PathBuf,
}

impl Filters {
    pub(super) fn of(dir: &Path, remote: &str) -> Self {
        Self {
            path: dir.join(format!("remote-{remote}.filters")),
        }
    }

    /// Those that were subscribed to, as far as is known. Blocking.
    pub(super) fn known(&self) -> BTreeSet<String> {
        let read = fs::read(&self.path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match read {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "not known which filters a remote broker has");
                BTreeSet::new()
            }
        }
    }

    /// Remembers these. On disk whole or not at all. Blocking.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub(super) fn remember(&self, filters: &BTreeSet<String>) -> io::Result<()> {
        if self.known() == *filters {
            return Ok(());
        }
        let beside = self.path.with_extension("filters.new");
        let mut file = fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec(filters)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_known_and_damage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let filters = Filters::of(dir.path(), "cloud");
        assert!(filters.known().is_empty());
        let some = BTreeSet::from(["a/#".to_owned(), "$share/g/\n".to_owned()]);
        filters.remember(&some).unwrap();
        assert_eq!(filters.known(), some);
        fs::write(dir.path().join("remote-cloud.filters"), "[").unwrap();
        assert!(filters.known().is_empty());
        filters.remember(&some).unwrap();
        let files = fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, ["remote-cloud.filters"], "nothing stays beside it");
    }
}
