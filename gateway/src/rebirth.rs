//! Asks Sparkplug nodes to be born again, of which something was missed: the command
//! `Node Control/Rebirth` on the topic that the node listens to (Eclipse Sparkplug 3.0,
//! section 5.4).
//!
//! Only nodes that are connected to this broker are asked, each once a minute at most
//! ([`Rebirths`](crate::normalise::protocol::births::Rebirths)), and not all at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use penstock_broker::{Local, Publish, QoS};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, event::Timestamp, ingest::Ingest};

/// Between two questions: their answers are the largest messages that nodes send.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two lines of the log: there may be many nodes.
const SAYING: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Rebirth {
    ingest: Arc<Ingest>,
    local: Local,
    clock: Arc<dyn Clock>,
}

impl Rebirth {
    /// Prepares; asks nobody yet.
    pub(crate) fn new(ingest: Arc<Ingest>, local: Local, clock: Arc<dyn Clock>) -> Self {
        Self {
            ingest,
            local,
            clock,
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let asking = async {
            let mut tally = Tally::default();
            loop {
                let topics = tokio::select! {
                    topics = self.ingest.rebirths() => topics,
                    () = tally.is_due() => Vec::new(),
                };
                for topic in topics {
                    tracing::debug!(topic = %topic, "a Sparkplug node is asked to be born again");
                    self.local.show(&[command(&topic, self.clock.now())]).await;
                    tally.asked += 1;
                    sleep(PAUSE).await;
                }
                if let Some(nodes) = tally.take(Instant::now()) {
                    tracing::info!(
                        nodes,
                        "Sparkplug nodes were asked to be born again: something of what they said was missed"
                    );
                }
            }
        };
        tokio::select! {
            () = asking => {}
            () = stop.cancelled() => {}
        }
    }
}

/// What is to be said of the nodes that were asked.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    said: Option<Instant>,
}

impl Tally {
    /// How many were asked since this was said, if it is time to say it.
    fn take(&mut self, now: Instant) -> Option<usize> {
        let late = self.said.is_none_or(|said| now - said >= SAYING);
        if self.asked == 0 || !late {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.asked))
    }

    /// Resolves when there is something to say.
    async fn is_due(&self) {
        match self.said {
            Some(said) if self.asked > 0 => sleep_until(said + SAYING).await,
            _ => std::future::pending().await,
        }
    }
}

/// The command, at the QoS that the specification wants (section 6.4.21).
fn command(topic: &Arc<str>, now: Timestamp) -> Publish {
    Publish {
        topic: topic.clone(),
        payload: Bytes::from(payload(now)),
        qos: QoS::AtMostOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    }
}

/// `{timestamp, metrics: [{name: "Node Control/Rebirth", timestamp, datatype: Boolean,
/// boolean_value: true}]}` in protobuf.
fn payload(now: Timestamp) -> Vec<u8> {
    const NAME: &[u8] = b"Node Control/Rebirth";
    const BOOLEAN: u8 = 11;
    let millis = u64::try_from(now.as_nanos() / 1_000_000).unwrap_or(0);
    let mut metric = vec![1 << 3 | 2, 20];
    metric.extend_from_slice(NAME);
    metric.push(3 << 3);
    varint(millis, &mut metric);
    metric.extend_from_slice(&[4 << 3, BOOLEAN, 14 << 3, 1]);
    let mut payload = vec![1 << 3];
    varint(millis, &mut payload);
    payload.push(2 << 3 | 2);
    varint(metric.len() as u64, &mut payload);
    payload.append(&mut metric);
    payload
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::decode::{Format, Node, decode};

    #[test]
    fn however_many_are_asked_there_is_a_line_a_minute() {
        let begun = Instant::now();
        let mut tally = Tally::default();
        assert_eq!(tally.take(begun), None);
        tally.asked = 1;
        assert_eq!(tally.take(begun), Some(1), "the first at once");
        tally.asked = 50;
        assert_eq!(tally.take(begun + SAYING / 2), None);
        tally.asked += 50;
        assert_eq!(tally.take(begun + SAYING), Some(100));
        assert_eq!(tally.take(begun + 3 * SAYING), None);
    }

    #[test]
    fn the_command_is_what_nodes_look_for() {
        let payload = payload(Timestamp::from_millis(1_772_366_400_000));
        let root = decode(Format::Sparkplug, &payload).unwrap();
        assert_eq!(root.child("timestamp"), Some(&Node::Int(1_772_366_400_000)));
        let Some(Node::Array(metrics)) = root.child("metrics") else {
            panic!("{root:?}");
        };
        let said = |name| metrics[0].child(name);
        assert_eq!(metrics.len(), 1);
        assert_eq!(
            said("name"),
            Some(&Node::Text("Node Control/Rebirth".into()))
        );
        assert_eq!(said("datatype"), Some(&Node::Int(11)));
        assert_eq!(said("bool"), Some(&Node::Bool(true)));
    }
}
