//! What an operator may set, with the limits that bound the broker's memory.
//!
//! [`Config::bind`] binds the ports and refuses what cannot be right, before
//! anything runs.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    auth,
    budget::Budgets,
    keep::{self, Keeper},
    limits::Limits,
    listener::{self, Broker},
    metrics::Counters,
};

/// Settings of the broker. Every limit is per connection unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen: at least one.
    pub listeners: Vec<listener::Config>,
    /// How clients are known and what they may do.
    pub auth: auth::Config,
    /// Connections open at the same time, over all clients.
    pub connections_max: usize,
    /// Largest MQTT packet taken, in bytes, fixed header included.
    pub packet_bytes_max: usize,
    /// Time from accepting a connection to a complete CONNECT, all handshakes before
    /// it included; also how long a packet that has begun may pause.
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
    /// How often `$SYS` topics are brought up to date; zero for never.
    pub sys_interval: Duration,
    /// What one client, address or identity may take, and what all may.
    pub limits: Limits,
    /// Persistent sessions and retained messages.
    pub keep: keep::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![listener::Config::default()],
            auth: auth::Config::default(),
            connections_max: 10_000,
            packet_bytes_max: 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            receive_max: 1024,
            outbound_in_flight_max: 64,
            outbound_queue_bytes_max: 1024 * 1024,
            subscriptions_per_client_max: 100,
            keep_alive_max: None,
            response_information: None,
            sys_interval: Duration::from_secs(10),
            limits: Limits::default(),
            keep: keep::Config::default(),
        }
    }
}

impl Config {
    /// Checks the settings and opens the broker's own file and binds the ports.
    ///
    /// # Errors
    /// [`Error::Anonymous`] beyond loopback without `allow_anonymous`,
    /// [`Error::Listeners`] for listeners that cannot be told apart,
    /// [`Error::Auth`] for a file that clients are known by and that cannot be used,
    /// [`Error::Keep`] for its own file, [`Error::Invalid`] for a limit that cannot
    /// work, [`Error::Bind`] when the system refuses.
    pub async fn bind(self) -> Result<Broker, Error> {
        self.check()?;
        let counters = Arc::<Counters>::default();
        let budgets = Budgets::of(self.limits.memory_part());
        let keeper = {
            let config = self.keep.clone();
            let counters = Arc::clone(&counters);
            let budget = Arc::clone(&budgets.output);
            tokio::task::spawn_blocking(move || Keeper::open(config, counters, budget))
                .await
                .map_err(std::io::Error::from)
                .map_err(keep::Error::from)??
        };
        Broker::bind(self, counters, budgets, keeper)
    }

    /// Whether nobody can connect from beyond this machine without saying who they
    /// are, unless the configuration says in words that anyone may.
    pub fn may_listen(&self, listener: &listener::Config) -> bool {
        listener.is_local()
            || listener.allow_anonymous
            || listener.requires_certificate()
            || self.auth.is_on()
    }

    fn check(&self) -> Result<(), Error> {
        if self.listeners.is_empty() {
            return Err(Error::Listeners("there is none".to_owned()));
        }
        let mut names = HashSet::new();
        for listener in &self.listeners {
            if !self.may_listen(listener) {
                return Err(Error::Anonymous(listener.address.to_string()));
            }
            if !names.insert(&listener.name) {
                let what = format!("two are named {}", listener.name);
                return Err(Error::Listeners(what));
            }
        }
        let at_least = |name, value: usize, least: usize| {
            if value < least {
                Err(Error::Invalid { name, value, least })
            } else {
                Ok(())
            }
        };
        at_least("sessions_max", self.keep.sessions_max, 1)?;
        at_least("sessions_per_user_max", self.keep.sessions_per_user_max, 1)?;
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
        self.limits.check(self.packet_bytes_max)?;
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
        "listen on {0}: it is beyond this machine and clients are not asked who they are; configure [auth], require client certificates, or set allow_anonymous = true to let anyone in"
    )]
    Anonymous(String),
    /// No listeners, or some that cannot be told apart.
    #[error("listeners: {0}")]
    Listeners(String),
    /// A certificate or key cannot be used.
    #[error("cannot encrypt: {0}")]
    Tls(#[from] listener::tls::Error),
    /// A file that clients are known by cannot be used.
    #[error("cannot tell who clients are: {0}")]
    Auth(#[from] auth::Error),
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
    /// A limit beyond what can be kept.
    #[error("{name} is {value}, the most is {most}")]
    TooMuch {
        /// The setting.
        name: &'static str,
        /// What it was.
        value: usize,
        /// What it may be at most.
        most: usize,
    },
    /// The broker's own file cannot be used, or can no longer be written.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// The system refused the address.
    #[error("listen on {address}")]
    Bind {
        /// The address asked for.
        address: String,
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
            listeners: vec![listener::Config::tcp("0.0.0.0:0".parse().unwrap())],
            ..Config::default()
        };
        assert!(matches!(
            open.clone().bind().await,
            Err(Error::Anonymous(_))
        ));
        let mut said = open;
        said.listeners[0].allow_anonymous = true;
        let address = said.bind().await.unwrap().local_addr();
        assert_ne!(address.unwrap().port(), 0);
    }

    #[tokio::test]
    async fn listeners_need_names_of_their_own() {
        let same = Config {
            listeners: vec![listener::Config::default(); 2],
            ..Config::default()
        };
        let said = same.bind().await.unwrap_err().to_string();
        assert_eq!(said, "listeners: two are named 127.0.0.1:1883");
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
