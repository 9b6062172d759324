//! What an operator may set, with the limits that bound the broker's memory.
//!
//! [`Config::bind`] binds the port and refuses what cannot be right, before
//! anything runs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::listener::Broker;

/// Settings of the broker. Every limit is per connection unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Allow anyone to connect from beyond this machine. There is no
    /// authentication yet, so this must be said in words.
    pub allow_anonymous: bool,
    /// Connections open at the same time, over all clients.
    pub connections_max: usize,
    /// Largest MQTT packet taken, in bytes, fixed header included.
    pub packet_bytes_max: usize,
    /// Time from TCP accept to a complete CONNECT; also how long a packet that has
    /// begun may pause.
    pub connect_timeout: Duration,
    /// QoS 1 and 2 publishes received and not acknowledged (MQTT 5 Receive Maximum).
    pub receive_max: u16,
    /// QoS 1 and 2 messages sent to a subscriber and not acknowledged.
    pub outbound_in_flight_max: u16,
    /// Bytes waiting for a subscriber; beyond it live messages are dropped and counted.
    pub outbound_queue_bytes_max: usize,
    /// Subscriptions of one client.
    pub subscriptions_per_client_max: usize,
    /// The longest keep-alive, in whole seconds; MQTT 5 clients that ask for a longer
    /// one, or for none, are told. `None`: whatever clients ask for.
    pub keep_alive_max: Option<Duration>,
    /// What MQTT 5 clients get that ask where to have responses sent (Response
    /// Information), with `{client}` for their identifier. `None`: nothing.
    pub response_information: Option<Arc<str>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            allow_anonymous: false,
            connections_max: 10_000,
            packet_bytes_max: 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            receive_max: 1024,
            outbound_in_flight_max: 64,
            outbound_queue_bytes_max: 1024 * 1024,
            subscriptions_per_client_max: 100,
            keep_alive_max: None,
            response_information: None,
        }
    }
}

impl Config {
    /// Checks the settings and binds the port.
    ///
    /// # Errors
    /// [`Error::Anonymous`] beyond loopback without `allow_anonymous`,
    /// [`Error::Invalid`] for a limit that cannot work, [`Error::Bind`] when the
    /// system refuses.
    pub async fn bind(self) -> Result<Broker, Error> {
        self.check()?;
        Broker::bind(self)
    }

    fn check(&self) -> Result<(), Error> {
        if !self.listen.ip().is_loopback() && !self.allow_anonymous {
            return Err(Error::Anonymous(self.listen));
        }
        let at_least = |name, value: usize, least: usize| {
            if value < least {
                Err(Error::Invalid { name, value, least })
            } else {
                Ok(())
            }
        };
        at_least("connections_max", self.connections_max, 1)?;
        at_least("packet_bytes_max", self.packet_bytes_max, 128)?;
        at_least("receive_max", self.receive_max.into(), 1)?;
        at_least(
            "outbound_in_flight_max",
            self.outbound_in_flight_max.into(),
            1,
        )?;
        at_least(
            "outbound_queue_bytes_max",
            self.outbound_queue_bytes_max,
            1024,
        )?;
        if self.connect_timeout.is_zero() {
            return Err(Error::Invalid {
                name: "connect_timeout",
                value: 0,
                least: 1,
            });
        }
        Ok(())
    }
}

/// Why the broker could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Listening beyond loopback without saying that anyone may connect.
    #[error(
        "listen on {0}: there is no authentication yet, so set allow_anonymous = true to listen beyond loopback"
    )]
    Anonymous(SocketAddr),
    /// A limit below what the protocol needs.
    #[error("{name} is {value}, the least is {least}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// What it was.
        value: usize,
        /// What it has to be at least.
        least: usize,
    },
    /// The system refused the address.
    #[error("listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listening_beyond_loopback_takes_a_word() {
        let open = Config {
            listen: "0.0.0.0:0".parse().unwrap(),
            ..Config::default()
        };
        assert!(matches!(
            open.clone().bind().await,
            Err(Error::Anonymous(_))
        ));
        let said = Config {
            allow_anonymous: true,
            ..open
        };
        assert_ne!(said.bind().await.unwrap().local_addr().port(), 0);
    }

    #[tokio::test]
    async fn limits_that_cannot_work_are_named() {
        let bad = Config {
            receive_max: 0,
            ..Config::default()
        };
        assert_eq!(
            bad.bind().await.unwrap_err().to_string(),
            "receive_max is 0, the least is 1"
        );
    }
}
