//! Asks Sparkplug nodes to be born again, of which something was missed: the command
//! `Node Control/Rebirth` on the topic that the node listens to (Eclipse Sparkplug 3.0,
//! section 5.4).
//!
//! Only nodes that are connected to this broker are asked, each once a minute at most
//! ([`Rebirths`](crate::normalise::protocol::births::Rebirths)), and not all at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use penstock_broker::{Local, Publish, QoS};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, event::Timestamp, ingest::Ingest};

/// Between two questions: their answers are the largest messages that nodes send.
const PAUSE: Duration = Duration::from_millis(20);

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
            loop {
                for topic in self.ingest.rebirths().await {
                    tracing::info!(topic = %topic, "a Sparkplug node is asked to be born again: something of what it said was missed");
                    self.local.show(&[command(&topic, self.clock.now())]).await;
                    sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = asking => {}
            () = stop.cancelled() => {}
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
