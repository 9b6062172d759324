//! The identity of a simulated message: `sim-<device>-<boot>-<seq>`.
//!
//! It is given at creation and never changes: a resend, a deliberate duplicate
//! and the copy that arrives at the far end all carry the same one. Device
//! names may hold dashes, so it is read from the right.

use std::fmt;

/// Marks an identity as the simulator's.
const PREFIX: &str = "sim-";

/// A message's identity in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    /// The device's name.
    pub(crate) device: &'a str,
    /// Which start of the device: one number for each run.
    pub(crate) boot: u64,
    /// The device's counter, from 0, in the order in which messages were created.
    pub(crate) seq: u64,
}

impl<'a> Identity<'a> {
    /// Reads an identity; `None` when `text` is not one of the simulator's.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (rest, seq) = text.strip_prefix(PREFIX)?.rsplit_once('-')?;
        let (device, boot) = rest.rsplit_once('-')?;
        if device.is_empty() {
            return None;
        }
        Some(Self {
            device,
            boot: number(boot)?,
            seq: number(seq)?,
        })
    }
}

/// Digits only and no leading zero, so that every identity has one spelling.
fn number(digits: &str) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    (canonical && plain).then(|| digits.parse().ok())?
}

impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}-{}", self.device, self.boot, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_is_no_identity_is_refused() {
        for text in [
            "",
            "sim-",
            "sim-a",
            "sim-a-1",
            "sim--1-2",
            "sim-a-x-2",
            "sim-a-1-x",
            "sim-a-1-",
            "sim-a-01-2",
            "sim-a-1-02",
            "sim-a-1-+2",
            "SIM-a-1-2",
            "a-1-2",
            "sim-a-1-99999999999999999999",
        ] {
            assert_eq!(Identity::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_identity_reads_back_whatever_the_device_is_called(
            device in "[a-z0-9_-]{1,20}", boot: u64, seq: u64,
        ) {
            let identity = Identity { device: &device, boot, seq };
            let text = identity.to_string();
            prop_assert_eq!(Identity::parse(&text), Some(identity));
        }
    }
}
