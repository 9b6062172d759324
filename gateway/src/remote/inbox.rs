//! Messages that came and are not settled: bounded, in order.
//!
//! Beyond [`Inbox::has_room`] nothing more should be read, but for as long as
//! acknowledgements have to leave: what comes meanwhile is held too, up to
//! [`Inbox::is_flooded`].

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::mqtt::link::Received;

/// Bytes of messages, about: one more may come below it.
pub(super) const BYTES_MAX: usize = 8 * 1024 * 1024;
/// What may come beyond that while acknowledgements leave: messages, and bytes beside
/// so many of the largest. The library reads up to ten packets between two of them.
const LATE_MAX: usize = 4_096;
const LATE_BYTES_MAX: usize = 8 * 1024 * 1024;
const LATE_LARGEST_MAX: usize = 16;
/// Messages handled at once, and their bytes, about.
const BATCH_MAX: usize = 64;
const BATCH_BYTES: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    /// How many the server may send before we have acknowledged them.
    messages_max: usize,
    /// More than that is too much.
    bytes_max: usize,
    held: Mutex<Held>,
    came: Notify,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    waiting: VecDeque<Received>,
    /// Of those that wait and those that are handled.
    messages: usize,
    bytes: usize,
}

impl Inbox {
    pub(super) fn new(in_flight: u16, packet_bytes_max: u32) -> Self {
        let largest = usize::try_from(packet_bytes_max).unwrap_or(usize::MAX);
        Self {
            bytes_max: largest
                .saturating_mul(LATE_LARGEST_MAX)
                .saturating_add(BYTES_MAX + LATE_BYTES_MAX),
            messages_max: usize::from(in_flight),
            held: Mutex::default(),
            came: Notify::new(),
            freed: Notify::new(),
        }
    }

    /// Another message came.
    pub(super) fn push(&self, message: Received) {
        let mut held = self.held();
        held.messages += 1;
        held.bytes += message.bytes();
        held.waiting.push_back(message);
        drop(held);
        self.came.notify_one();
    }

    /// Whether more should be read. A server that keeps to what we announced never
    /// sends more messages than there is room for.
    pub(super) fn has_room(&self) -> bool {
        let held = self.held();
        held.messages <= self.messages_max && held.bytes < BYTES_MAX
    }

    /// Whether there is more than even the end of acknowledgements excuses.
    pub(super) fn is_flooded(&self) -> bool {
        let held = self.held();
        held.messages > self.messages_max + LATE_MAX || held.bytes > self.bytes_max
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.freed.notified().await;
        }
    }

    /// Waits for messages, and takes some in their order.
    pub(super) async fn take(&self, batch: &mut Vec<Received>) {
        loop {
            let mut bytes = 0;
            {
                let mut held = self.held();
                while batch.len() < BATCH_MAX
                    && bytes < BATCH_BYTES
                    && let Some(message) = held.waiting.pop_front()
                {
                    bytes += message.bytes();
                    batch.push(message);
                }
            }
            if !batch.is_empty() {
                return;
            }
            self.came.notified().await;
        }
    }

    /// Messages that were taken are no longer held.
    pub(super) fn settled(&self, batch: &mut Vec<Received>) {
        let mut held = self.held();
        held.messages -= batch.len();
        held.bytes -= batch.iter().map(Received::bytes).sum::<usize>();
        batch.clear();
        drop(held);
        self.freed.notify_one();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use rumqttc::{QoS, v5};

    use super::*;

    fn message(bytes: usize) -> Received {
        Received::V4(rumqttc::Publish::new("t", QoS::AtLeastOnce, vec![0; bytes]))
    }

    #[test]
    fn there_is_room_for_so_many_bytes_whatever_is_being_handled() {
        let inbox = Inbox::new(u16::MAX, 1_000);
        let mut came = 0;
        while inbox.has_room() {
            inbox.push(message(512 * 1024));
            came += 1;
        }
        assert_eq!(came, BYTES_MAX / (512 * 1024));
        let mut batch = Vec::new();
        inbox.take(&mut batch).now_or_never().unwrap();
        assert_eq!(batch.len(), 2, "no more bytes are handled at once");
        assert!(!inbox.has_room() && !inbox.is_flooded());
        inbox.settled(&mut batch);
        assert!(inbox.has_room());
        while !inbox.is_flooded() {
            inbox.push(message(512 * 1024));
            came += 1;
        }
        assert!(came * 512 * 1024 <= BYTES_MAX + LATE_BYTES_MAX + 2 * BATCH_BYTES);
    }

    #[test]
    fn a_server_that_keeps_to_what_was_announced_always_finds_room() {
        let inbox = Inbox::new(3, 1_000);
        for _ in 0..3 {
            inbox.push(message(1));
            assert!(inbox.has_room());
        }
        inbox.push(message(1));
        assert!(!inbox.has_room());
    }

    #[test]
    fn what_consists_of_properties_counts() {
        let mut properties = v5::mqttbytes::v5::PublishProperties::default();
        let property = || ("n".repeat(1_000), "v".repeat(1_000));
        properties.user_properties = (0..100).map(|_| property()).collect();
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let publish = v5::mqttbytes::v5::Publish::new("t", qos, "", Some(properties));
        assert!(Received::V5(publish).bytes() >= 200_000);
    }
}
