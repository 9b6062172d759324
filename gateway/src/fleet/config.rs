//! How devices are kept, and commands delivered.

use std::{sync::Arc, time::Duration};

/// What a command looks like in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A JSON object with everything that a device needs, also one of MQTT 3.1.1:
    /// `id`, `key`, `name`, `payload`, `deadline`, `reply_to`.
    Envelope,
    /// Nothing but the payload: the rest is in the properties of MQTT 5, and the topic of
    /// the reply.
    Plain,
}

impl Payload {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 2] =
        [("envelope", Self::Envelope), ("plain", Self::Plain)];
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Devices in the registry, at most.
    pub devices_max: u64,
    /// Where commands are published; with `{device}` as one level of it.
    pub topic: Arc<str>,
    /// Where clients of this broker, and remote ones, may place commands; nowhere by
    /// default.
    pub orders: Option<Arc<str>>,
    /// Where devices hear what they should be, and say what they are: below it.
    pub shadow_topic: Arc<str>,
    /// Bytes of what is desired, and of what is reported, at most.
    pub shadow_bytes_max: usize,
    /// What commands look like.
    pub payload: Payload,
    /// How long a command has where nobody says it.
    pub deadline: Duration,
    /// The longest that it may have.
    pub deadline_max: Duration,
    /// Bytes of a command's payload, or of a reply, at most.
    pub payload_bytes_max: usize,
    /// Commands of one device that are not over, at most.
    pub open_per_device_max: u32,
    /// Those of all devices.
    pub open_max: u64,
    /// What devices, commands, shadows and answers to requests may take of the journal, in
    /// bytes, about.
    pub bytes_max: u64,
    /// How long commands are kept that are over.
    pub keep: Duration,
    /// And how many.
    pub keep_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            devices_max: 100_000,
            topic: "devices/{device}/commands".into(),
            orders: None,
            shadow_topic: "devices/{device}/shadow".into(),
            shadow_bytes_max: 16 * 1024,
            payload: Payload::Envelope,
            deadline: DAY,
            deadline_max: 30 * DAY,
            payload_bytes_max: 64 * 1024,
            open_per_device_max: 100,
            open_max: 100_000,
            bytes_max: 256 << 20,
            keep: 7 * DAY,
            keep_max: 100_000,
        }
    }
}
