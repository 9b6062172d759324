//! A directory of its own for every test.

use std::{
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

/// A fresh directory: gone after a test that passed, kept after one that failed.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    /// Makes one, named after the running test.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn new() -> Self {
        let test = thread::current()
            .name()
            .unwrap_or("test")
            .replace("::", "-");
        let dir = tempfile::Builder::new()
            .prefix(&format!("penstock-{test}-"))
            .tempdir()
            .expect("a temporary directory can be made");
        Self { dir }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            self.dir.disable_cleanup(true);
            println!("kept for a look: {}", self.dir().display());
        }
    }
}
