//! MQTT packets by hand: a client that says exactly what a test wants said.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// A packet as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The packet type, 1 to 15.
    pub kind: u8,
    /// What follows the fixed header.
    pub body: Vec<u8>,
}

/// The answer to a PUBLISH with QoS 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The packet id.
    pub id: u16,
    /// The reason code; zero in MQTT 3.1.1.
    pub reason: u8,
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    version: Version,
}

impl Client {
    /// Connects with a clean session and waits for CONNACK.
    ///
    /// # Panics
    /// When the broker does not take it.
    #[track_caller]
    pub fn connect(port: u16, version: Version, id: &str) -> Self {
        Self::try_connect(port, version, id).expect("the broker takes the client")
    }

    /// Connects, if the broker takes it.
    ///
    /// # Errors
    /// When it does not.
    pub fn try_connect(port: u16, version: Version, id: &str) -> io::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut client = Self { socket, version };
        client.socket.write_all(&connect(version, id))?;
        let answer = client.read()?;
        if answer.kind != 2 || answer.body.get(1) != Some(&0) {
            return Err(io::Error::other(format!(
                "CONNECT was answered with {answer:?}"
            )));
        }
        Ok(client)
    }

    /// Connects over MQTT 3.1.1 without a clean session; whether the broker still had one.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub fn try_resume(port: u16, id: &str) -> io::Result<(Self, bool)> {
        Self::try_resume_with(port, id, None)
    }

    /// The same, with the topic and the payload of a will at QoS 1.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub fn try_resume_with(
        port: u16,
        id: &str,
        will: Option<(&str, &str)>,
    ) -> io::Result<(Self, bool)> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut client = Self {
            socket,
            version: Version::V4,
        };
        let mut body = string("MQTT");
        body.extend([4, if will.is_some() { 0b0000_1100 } else { 0 }, 0, 60]);
        body.extend(string(id));
        if let Some((topic, payload)) = will {
            body.extend(string(topic));
            body.extend(string(payload));
        }
        client.socket.write_all(&packet(0x10, body))?;
        match client.read()? {
            Packet { kind: 2, body } if body.get(1) == Some(&0) => Ok((client, body[0] == 1)),
            answer => Err(io::Error::other(format!(
                "CONNECT was answered with {answer:?}"
            ))),
        }
    }

    /// Sends a PUBLISH; with QoS 0 the id is not sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, id: u16) -> io::Result<()> {
        self.socket
            .write_all(&publish(self.version, topic, payload, qos, id))
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Waits at most this long for a PUBACK; `None` when none came.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn ack(&mut self, within: Duration) -> io::Result<Option<Ack>> {
        while let Some(packet) = self.next(within)? {
            if packet.kind != 4 {
                continue;
            }
            let [high, low, rest @ ..] = &packet.body[..] else {
                return Err(io::Error::other("a PUBACK without an id"));
            };
            let reason = rest.first().copied().unwrap_or(0);
            return Ok(Some(Ack {
                id: u16::from_be_bytes([*high, *low]),
                reason,
            }));
        }
        Ok(None)
    }

    /// The next packet; `None` if none comes within that time.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Packet>> {
        use io::ErrorKind::{TimedOut, WouldBlock};
        self.socket.set_read_timeout(Some(within))?;
        match self.read() {
            Ok(packet) => Ok(Some(packet)),
            Err(error) if [WouldBlock, TimedOut].contains(&error.kind()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one packet. A timeout inside a packet loses the connection's place, so the
    /// timeout is long where packets are expected.
    ///
    /// # Errors
    /// When none came, or the connection is gone.
    pub fn read(&mut self) -> io::Result<Packet> {
        let mut byte = [0];
        self.socket.read_exact(&mut byte)?;
        let kind = byte[0] >> 4;
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            self.socket.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok(Packet { kind, body })
    }
}

/// A CONNECT packet with a clean session and a keep-alive of a minute.
pub fn connect(version: Version, id: &str) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([if version == Version::V4 { 4 } else { 5 }, 2, 0, 60]);
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(string(id));
    packet(0x10, body)
}

/// A PUBLISH packet.
pub fn publish(version: Version, topic: &str, payload: &[u8], qos: u8, id: u16) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | (qos << 1), body)
}

/// A SUBSCRIBE packet for one filter.
pub fn subscribe(version: Version, filter: &str, qos: u8, id: u16) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(string(filter));
    body.push(qos);
    packet(0x82, body)
}

/// PINGREQ.
pub const PING: [u8; 2] = [0xc0, 0];
/// DISCONNECT.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

fn packet(first: u8, body: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        bytes.push(u8::try_from(length & 0x7f).expect("seven bits") | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short string");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_standard() {
        assert_eq!(
            connect(Version::V4, "a"),
            [
                0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'a'
            ]
        );
        assert_eq!(
            publish(Version::V5, "t", b"x", 1, 7),
            [0x32, 7, 0, 1, b't', 0, 7, 0, b'x']
        );
        assert_eq!(publish(Version::V4, "t", b"", 0, 7), [0x30, 3, 0, 1, b't']);
        assert_eq!(packet(0x30, vec![0; 300])[..3], [0x30, 0xac, 0x02]);
    }
}
