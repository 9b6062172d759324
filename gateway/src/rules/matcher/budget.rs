//! What it may cost to find out which rules take what a message became.
//!
//! Rules are written by operators and events by devices, and either alone is harmless.
//! Together they could keep a thread busy for minutes. So what is looked at is counted.

use super::TooMuch;

/// What one alternative of one rule may cost with one event: combinations of elements
/// that are compared, and values that are looked at.
const ALTERNATIVE_MAX: usize = 1 << 20;

/// What all rules together may cost with all events of one message: some tenths of a
/// second. Ten thousand rules that are looked at for every event, with a message of a
/// thousand events, are within it.
const MESSAGE_MAX: usize = 1 << 26;

/// What has been spent. Units are about five nanoseconds.
#[derive(Debug)]
pub(in crate::rules) struct Budget {
    alternative: usize,
    message: usize,
    message_max: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            alternative: 0,
            message: 0,
            message_max: MESSAGE_MAX,
        }
    }
}

impl Budget {
    /// Another message.
    pub(in crate::rules) const fn begin_message(&mut self) {
        self.message = 0;
    }

    /// Another alternative, or another event.
    pub(super) const fn begin_alternative(&mut self) {
        self.alternative = 0;
    }

    /// Takes what something costs.
    #[inline]
    pub(super) const fn spend(&mut self, cost: usize) -> Result<(), TooMuch> {
        self.alternative = self.alternative.saturating_add(cost);
        self.message = self.message.saturating_add(cost);
        if self.alternative > ALTERNATIVE_MAX || self.message > self.message_max {
            return Err(TooMuch);
        }
        Ok(())
    }

    /// The same for what belongs to no alternative.
    #[inline]
    pub(super) const fn spend_on_all(&mut self, cost: usize) -> Result<(), TooMuch> {
        self.message = self.message.saturating_add(cost);
        if self.message > self.message_max {
            return Err(TooMuch);
        }
        Ok(())
    }

    /// What this message has cost.
    #[cfg(test)]
    pub(in crate::rules) const fn spent(&self) -> usize {
        self.message
    }

    /// A message may cost this much.
    #[cfg(test)]
    pub(in crate::rules) const fn set_message_max(&mut self, max: usize) {
        self.message_max = max;
    }
}
