//! When a rule is in force. Whoever asks says the time.

use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;

use crate::{
    event::Timestamp,
    hours::{Hours, Window},
};

/// The hours in which a rule is in force.
#[derive(Debug)]
pub struct Schedule {
    windows: Vec<Window>,
    time_zone: TimeZone,
    /// The answer that was given last, and from when until when it is right.
    known: Mutex<Hours>,
}

impl Schedule {
    /// While one of these is open.
    pub fn new(windows: Vec<Window>, time_zone: TimeZone) -> Self {
        Self {
            windows,
            time_zone,
            known: Mutex::default(),
        }
    }

    /// The same, which knows nothing yet. Whoever asks of other times than everybody else has
    /// one of his own: there is room for one answer.
    pub fn anew(&self) -> Self {
        Self::new(self.windows.clone(), self.time_zone.clone())
    }

    /// Whether it is in force then. While the clock is not set it is not.
    pub fn is_open(&self, at: Timestamp) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !at.is_unset() && known.check(&self.windows, at, &self.time_zone).is_ok()
    }

    /// Whether it is known to be not in force then.
    pub fn is_closed(&self, at: Timestamp) -> bool {
        !at.is_unset() && !self.is_open(at)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.windows == other.windows && self.time_zone == other.time_zone
    }
}
