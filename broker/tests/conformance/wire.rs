//! Packets taken apart, and a client that acknowledges.

use std::collections::VecDeque;

use crate::support::{Client, Running, packet, string, varint};

/// Properties in the order of the wire: identifier and value as it was sent.
pub(crate) type Properties = Vec<(u8, Vec<u8>)>;

/// A PUBLISH as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) properties: Properties,
}

impl Message {
    /// The values of one property.
    pub(crate) fn all(&self, id: u8) -> Vec<&[u8]> {
        values(&self.properties, id)
    }
}

pub(crate) fn values(properties: &Properties, id: u8) -> Vec<&[u8]> {
    let one = |(found, value): &'_ (u8, Vec<u8>)| *found == id && !value.is_empty();
    properties
        .iter()
        .filter(|found| one(found))
        .map(|(_, value)| &**value)
        .collect()
}

fn take_varint(bytes: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = take(bytes, 1)[0];
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(count);
    *bytes = rest;
    front
}

fn take_u16(bytes: &mut &[u8]) -> u16 {
    u16::from_be_bytes(take(bytes, 2).try_into().unwrap())
}

fn take_properties(bytes: &mut &[u8]) -> Properties {
    let len = take_varint(bytes);
    let mut block = take(bytes, len);
    let mut found = Vec::new();
    while !block.is_empty() {
        let id = take(&mut block, 1)[0];
        let value = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => take(&mut block, 1).to_vec(),
            0x13 | 0x21 | 0x22 | 0x23 => take(&mut block, 2).to_vec(),
            0x02 | 0x11 | 0x18 | 0x27 => take(&mut block, 4).to_vec(),
            0x0B => varint(take_varint(&mut block)),
            0x26 => {
                let name = take_u16(&mut block);
                let mut pair = take(&mut block, name.into()).to_vec();
                pair.push(b'=');
                let value = take_u16(&mut block);
                pair.extend_from_slice(take(&mut block, value.into()));
                pair
            }
            _ => {
                let len = take_u16(&mut block);
                take(&mut block, len.into()).to_vec()
            }
        };
        found.push((id, value));
    }
    found
}

fn body(packet: &[u8]) -> &[u8] {
    let mut rest = &packet[1..];
    take_varint(&mut rest);
    rest
}

/// Takes a PUBLISH apart.
pub(crate) fn message(packet: &[u8], v5: bool) -> Message {
    assert_eq!(packet[0] >> 4, 3, "a PUBLISH: {packet:02x?}");
    let mut rest = body(packet);
    let qos = packet[0] >> 1 & 3;
    let len = take_u16(&mut rest);
    let topic = String::from_utf8(take(&mut rest, len.into()).to_vec()).unwrap();
    let id = if qos > 0 { take_u16(&mut rest) } else { 0 };
    let properties = if v5 {
        take_properties(&mut rest)
    } else {
        Vec::new()
    };
    Message {
        topic,
        payload: String::from_utf8_lossy(rest).into_owned(),
        qos,
        retain: packet[0] & 1 != 0,
        dup: packet[0] & 8 != 0,
        id,
        properties,
    }
}

/// A CONNACK of version 5: session present, reason code, properties.
pub(crate) fn connack(packet: &[u8]) -> (bool, u8, Properties) {
    assert_eq!(packet[0], 0x20, "a CONNACK: {packet:02x?}");
    let mut rest = body(packet);
    let flags = take(&mut rest, 1)[0];
    assert_eq!(flags & !1, 0, "[MQTT-3.2.2-1]: bits 7-1 are reserved");
    let code = take(&mut rest, 1)[0];
    (flags == 1, code, take_properties(&mut rest))
}

/// A DISCONNECT of version 5: reason code and properties.
pub(crate) fn disconnect(packet: &[u8]) -> (u8, Properties) {
    assert_eq!(packet[0], 0xE0, "a DISCONNECT: {packet:02x?}");
    let mut rest = body(packet);
    let code = take(&mut rest, 1)[0];
    let properties = if rest.is_empty() {
        Vec::new()
    } else {
        take_properties(&mut rest)
    };
    (code, properties)
}

/// CONNECT of version 5 with a will.
pub(crate) fn connect_with_will(
    id: &str,
    flags: u8,
    properties: &[u8],
    will_properties: &[u8],
    topic: &str,
    payload: &str,
) -> Vec<u8> {
    packet(
        0x10,
        &[
            &string("MQTT"),
            &[5, flags | 0b100, 0, 0],
            &varint(properties.len()),
            properties,
            &string(id),
            &varint(will_properties.len()),
            will_properties,
            &string(topic),
            &string(payload),
        ],
    )
}

/// A client that speaks one version and knows what it is sent.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) v5: bool,
    last_id: u8,
    /// Messages that came while an acknowledgement was awaited.
    early: VecDeque<Vec<u8>>,
}

impl Peer {
    /// Connects with a clean start in either version.
    pub(crate) async fn connect(broker: &Running, v5: bool, id: &str) -> Self {
        let client = if v5 {
            broker.v5(id).await
        } else {
            broker.v4(id).await
        };
        Self::of(client, v5)
    }

    pub(crate) fn of(client: Client, v5: bool) -> Self {
        Self {
            client,
            v5,
            last_id: 0,
            early: VecDeque::new(),
        }
    }

    fn next_id(&mut self) -> u8 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Subscribes to one filter and gives the code of SUBACK back.
    pub(crate) async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_as(filter, options, None).await
    }

    pub(crate) async fn subscribe_as(&mut self, filter: &str, options: u8, id: Option<u8>) -> u8 {
        let number = self.next_id();
        let properties: Vec<u8> = match (self.v5, id) {
            (true, Some(id)) => vec![2, 0x0B, id],
            (true, None) => vec![0],
            (false, _) => vec![],
        };
        let parts: [&[u8]; 4] = [&[0, number], &properties, &string(filter), &[options]];
        self.client.send(&packet(0x82, &parts)).await;
        let answer = self.client.packet().await;
        // [MQTT-3.8.4-2]: the same packet identifier.
        assert_eq!((answer[0], answer[2], answer[3]), (0x90, 0, number));
        *answer.last().unwrap()
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> u8 {
        let number = self.next_id();
        let none: &[u8] = if self.v5 { &[0] } else { &[] };
        let parts: [&[u8]; 3] = [&[0, number], none, &string(filter)];
        self.client.send(&packet(0xA2, &parts)).await;
        let answer = self.client.packet().await;
        assert_eq!((answer[0], answer[2], answer[3]), (0xB0, 0, number));
        if self.v5 { answer[5] } else { 0 }
    }

    pub(crate) async fn publish(&mut self, topic: &str, qos: u8, payload: &str) {
        self.publish_with(topic, qos, false, &[], payload).await;
    }

    pub(crate) async fn retain(&mut self, topic: &str, payload: &str) {
        self.publish_with(topic, 1, true, &[], payload).await;
    }

    /// Publishes and goes through the whole exchange; what else comes meanwhile fails.
    pub(crate) async fn publish_with(
        &mut self,
        topic: &str,
        qos: u8,
        retain: bool,
        properties: &[u8],
        payload: &str,
    ) {
        let number = self.next_id();
        let bytes = self.publish_bytes(topic, qos, retain, number, properties, payload);
        self.client.send(&bytes).await;
        match qos {
            0 => {}
            1 => self.client.expect(&[0x40, 2, 0, number]).await,
            _ => {
                self.client.expect(&[0x50, 2, 0, number]).await;
                self.client.send(&[0x62, 2, 0, number]).await;
                self.client.expect(&[0x70, 2, 0, number]).await;
            }
        }
    }

    pub(crate) fn publish_bytes(
        &self,
        topic: &str,
        qos: u8,
        retain: bool,
        number: u8,
        properties: &[u8],
        payload: &str,
    ) -> Vec<u8> {
        let id: &[u8] = if qos > 0 { &[0, number] } else { &[] };
        let len = varint(properties.len());
        let len: &[u8] = if self.v5 { &len } else { &[] };
        packet(
            0x30 | qos << 1 | u8::from(retain),
            &[&string(topic), id, len, properties, payload.as_bytes()],
        )
    }

    /// The next message, not acknowledged.
    pub(crate) async fn take(&mut self) -> Message {
        let packet = match self.early.pop_front() {
            Some(packet) => packet,
            None => self.client.packet().await,
        };
        message(&packet, self.v5)
    }

    /// The next message, acknowledged to its end.
    pub(crate) async fn receive(&mut self) -> Message {
        let message = self.take().await;
        self.acknowledge(&message).await;
        message
    }

    pub(crate) async fn acknowledge(&mut self, message: &Message) {
        let [high, low] = message.id.to_be_bytes();
        match message.qos {
            0 => {}
            1 => self.client.send(&[0x40, 2, high, low]).await,
            _ => {
                self.client.send(&[0x50, 2, high, low]).await;
                loop {
                    let packet = self.client.packet().await;
                    if packet[0] >> 4 != 3 {
                        assert_eq!(packet, [0x62, 2, high, low]);
                        break;
                    }
                    self.early.push_back(packet);
                }
                self.client.send(&[0x70, 2, high, low]).await;
            }
        }
    }

    /// Nothing is on its way: a message of its own that goes the same way is the next.
    pub(crate) async fn nothing(&mut self) {
        assert!(self.early.is_empty(), "{:?}", self.early);
        let name = format!("marker/{}", self.last_id);
        assert_eq!(self.subscribe(&name, 0).await, 0);
        self.publish(&name, 0, "end").await;
        assert_eq!(self.take().await.topic, name, "nothing else");
        assert_eq!(self.unsubscribe(&name).await, 0);
    }
}
