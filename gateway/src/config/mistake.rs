//! What is wrong in a configuration, for the person who wrote it.

use std::{fmt, path::PathBuf};

use super::Seen;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file, where it is another one than that of the configuration.
    pub file: Option<PathBuf>,
    /// Counted from 1; none where the whole file is meant.
    pub line: Option<usize>,
    /// The key with the tables around it; empty where the whole file is meant.
    pub key: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Every mistake in one configuration, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    /// The file; none for text that came from elsewhere.
    pub file: Option<PathBuf>,
    /// At least one.
    pub mistakes: Vec<Mistake>,
    /// The files that were read all the same, as they were then: to put right what is
    /// wrong is to change one of them.
    pub read_from: Seen,
}

impl Mistakes {
    pub(super) fn new(mistakes: Vec<Mistake>) -> Self {
        Self {
            file: None,
            mistakes,
            read_from: Seen::new(),
        }
    }
}

impl fmt::Display for Mistakes {
    /// One line each: `file:line: key: what is wrong; what would be right`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            match mistake.file.as_ref().or(self.file.as_ref()) {
                Some(file) => write!(f, "{}", file.display())?,
                None => f.write_str("configuration")?,
            }
            if let Some(line) = mistake.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
            if !mistake.key.is_empty() {
                write!(f, "{}: ", mistake.key)?;
            }
            f.write_str(&mistake.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
