//! Whether files are others than those that were read.

use std::path::PathBuf;

use crate::config::Seen;

/// The files that were read, and what became of them since.
#[derive(Debug)]
pub(super) struct Watch {
    /// As they were just before they were read.
    seen: Seen,
    /// As they were at the last look, if that was another version.
    last: Option<Seen>,
}

impl Watch {
    pub(super) const fn new(seen: Seen) -> Self {
        Self { seen, last: None }
    }

    /// The files to look at.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.seen.keys().cloned().collect()
    }

    /// Whether to read them again, now that they are like this. What differs is left alone
    /// until it is the same in two looks: half of a file that is being written can be
    /// valid, and say something else than the whole.
    pub(super) fn has_changed(&mut self, now: &Seen) -> bool {
        if *now == self.seen {
            self.last = None;
            return false;
        }
        let settled = self.last.as_ref() == Some(now);
        self.last = Some(now.clone());
        settled
    }

    /// These were read instead.
    pub(super) fn read(&mut self, seen: Seen) {
        *self = Self::new(seen);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Stamp;

    fn look(watch: &mut Watch) -> bool {
        let now = watch.files().into_iter().map(|file| {
            let stamp = Stamp::of(&file);
            (file, stamp)
        });
        watch.has_changed(&now.collect())
    }

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "whole").unwrap();
        let mut watch = Watch::new([(file.clone(), Stamp::of(&file))].into());
        assert!(!look(&mut watch) && !look(&mut watch));
        fs::write(&file, "ha").unwrap();
        assert!(!look(&mut watch));
        fs::write(&file, "half").unwrap();
        assert!(!look(&mut watch), "it still changes");
        assert!(look(&mut watch), "now it does not");
        watch.read([(file.clone(), Stamp::of(&file))].into());
        assert!(!look(&mut watch) && !look(&mut watch));
    }

    #[test]
    fn what_changed_before_the_first_look_or_while_it_was_read_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        let mut watch = Watch::new([(file.clone(), Stamp::of(&file))].into());
        fs::write(&file, "it was not there").unwrap();
        assert!(!look(&mut watch));
        assert!(look(&mut watch));
        let before = Stamp::of(&file);
        fs::write(&file, "and changed while it was read").unwrap();
        watch.read([(file, before)].into());
        assert!(!look(&mut watch));
        assert!(look(&mut watch));
    }
}
