//! The ack log: what was sent, and what the gateway promised to have.
//!
//! ```text
//! {"t":"sent","id":"sim-env-0001-17-0","device":"env-0001","n":0,"malformed":false}
//! {"t":"acked","id":"sim-env-0001-17-0"}
//! {"t":"deferred","id":"sim-env-0001-17-1"}
//! {"t":"refused","id":"sim-env-0001-17-2","reason":135}
//! ```
//! `sent` is written once, at the first transmission, and `n` counts those of a
//! device in a run. `acked` means PUBACK, or PUBREC for QoS 2. `deferred` means
//! that the gateway had no room (reason 0x97) and the message went again behind
//! later ones, so its order proves nothing. Lines are buffered for at most
//! [`FLUSH_EVERY`]; only killing the simulator itself can lose any.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::identity::Identity;

/// How long a line may wait.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// A buffer is written when it has this many bytes, whatever its age.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The file, shared by all threads of a run.
#[derive(Debug, Clone)]
pub(crate) struct Destination(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: File,
    failed: Option<io::Error>,
}

impl Destination {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Inner {
            file: File::create(path)?,
            failed: None,
        }))))
    }

    /// Whatever went wrong with writing.
    pub(crate) fn error(&self) -> Option<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.failed.as_ref().map(ToString::to_string)
    }

    fn write(&self, lines: &[u8]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.failed.is_none()
            && let Err(error) = inner.file.write_all(lines)
        {
            inner.failed = Some(error);
        }
    }
}

/// One thread's end of the log. Only whole lines reach the file.
#[derive(Debug)]
pub(crate) struct AckLog {
    destination: Option<Destination>,
    buffer: Vec<u8>,
}

impl AckLog {
    /// Writes to `destination`, or nowhere.
    pub(crate) const fn new(destination: Option<Destination>) -> Self {
        Self {
            destination,
            buffer: Vec::new(),
        }
    }

    /// A message was sent for the first time.
    pub(crate) fn sent(&mut self, id: Identity<'_>, n: u64, malformed: bool) {
        self.line(format_args!(
            r#"{{"t":"sent","id":"{id}","device":"{}","n":{n},"malformed":{malformed}}}"#,
            id.device
        ));
    }

    /// The gateway has the message.
    pub(crate) fn acked(&mut self, id: Identity<'_>) {
        self.line(format_args!(r#"{{"t":"acked","id":"{id}"}}"#));
    }

    /// The gateway had no room for the message.
    pub(crate) fn deferred(&mut self, id: Identity<'_>) {
        self.line(format_args!(r#"{{"t":"deferred","id":"{id}"}}"#));
    }

    /// The gateway will not have the message.
    pub(crate) fn refused(&mut self, id: Identity<'_>, reason: u8) {
        self.line(format_args!(
            r#"{{"t":"refused","id":"{id}","reason":{reason}}}"#
        ));
    }

    /// Hands over what is buffered.
    pub(crate) fn flush(&mut self) {
        if let Some(destination) = &self.destination
            && !self.buffer.is_empty()
        {
            destination.write(&self.buffer);
        }
        self.buffer.clear();
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if self.destination.is_none() {
            return;
        }
        // Names are checked to need no escapes.
        writeln!(self.buffer, "{line}").expect("writing to memory cannot fail");
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.flush();
        }
    }
}

impl Drop for AckLog {
    fn drop(&mut self) {
        self.flush();
    }
}
