//! One connection to a remote broker, from CONNECT to its end.
//!
//! One half moves the connection, and the other handles what comes, in order, and
//! acknowledges it. An orderly end lets what is being handled be acknowledged, and
//! says goodbye; what was not begun stays with the broker.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Remote, Subscription, inbox::Inbox};
use crate::mqtt::{
    link::{self, Client, Link, Signal},
    reason::Broken,
};

/// What both halves know.
struct Connection {
    client: Client,
    inbox: Inbox,
    acks: Acks,
    is_connected: AtomicBool,
}

/// What is still to be asked of the broker before messages can come.
enum Request {
    /// Take out what is no longer configured.
    Unsubscribe(String),
    Subscribe,
}

impl Remote {
    /// One connection to its end; to nothing where it was ended in order.
    pub(super) async fn serve(&self, shutdown: &CancellationToken) -> Option<Broken> {
        let (server, opening) = (self.config.server.clone(), self.opening.clone());
        let prepared = tokio::task::spawn_blocking(move || link::prepare(&server, &opening)).await;
        let (client, link) = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(broken)) => return Some(broken),
            Err(error) => return Some(Broken::lost(error.to_string())),
        };
        let connection = Connection {
            client,
            inbox: Inbox::new(self.config.in_flight, self.config.packet_bytes_max),
            acks: Acks::default(),
            is_connected: AtomicBool::new(false),
        };
        let mut listening = pin!(self.listen(&connection, link, shutdown));
        let handled = tokio::select! {
            broken = &mut listening => return Some(broken),
            handled = self.handle_all(&connection, shutdown) => handled,
        };
        if let Err(broken) = handled {
            return Some(broken);
        }
        if connection.is_connected.load(SeqCst) {
            tokio::select! {
                // It ends with the goodbye.
                _ = &mut listening => {}
                () = connection.say_goodbye() => {}
            }
        }
        None
    }

    /// Moves the connection, and hands over what comes.
    async fn listen(
        &self,
        connection: &Connection,
        mut link: Link,
        shutdown: &CancellationToken,
    ) -> Broken {
        let Connection { inbox, acks, .. } = connection;
        let mut requests = match self.connect(connection, &mut link).await {
            Ok(requests) => requests,
            Err(broken) => return broken,
        };
        if requests.is_empty() {
            self.handle.connected();
        }
        if let Err(broken) = self.ask(connection, &mut requests).await {
            return broken;
        }
        loop {
            if !inbox.has_room() && acks.all_left() {
                // Nothing more is read until there is room, or something to be told.
                tokio::select! {
                    () = acks.asked() => {}
                    () = inbox.room() => {}
                    () = sleep(self.config.server.keep_alive) => self.waits_for_room(),
                }
                continue;
            }
            self.handle.has_room();
            if inbox.is_flooded() {
                return Broken::lost("messages come faster than acknowledgements leave");
            }
            match link.poll().await {
                // Those stay with the broker.
                Ok(Signal::Received(_)) if shutdown.is_cancelled() => {}
                Ok(Signal::Received(message)) => inbox.push(message),
                Ok(Signal::Acknowledged) => acks.left(),
                Ok(Signal::Left) => return Broken::lost("the connection was ended here"),
                Ok(Signal::Unsubscribed) => {
                    if let Err(broken) = self.ask(connection, &mut requests).await {
                        return broken;
                    }
                }
                Ok(Signal::Subscribed(granted)) => {
                    if let Err(broken) = self.check(&granted) {
                        return broken;
                    }
                    self.remember(self.configured().collect()).await;
                    self.subscribed.store(true, SeqCst);
                    self.handle.connected();
                    tracing::info!(remote = %self.name, "subscribed at a remote broker");
                }
                Ok(_) => {}
                Err(broken) => return broken,
            }
        }
    }

    /// Waits for the broker to take us, and says what is to be asked of it then.
    async fn connect(
        &self,
        connection: &Connection,
        link: &mut Link,
    ) -> Result<VecDeque<Request>, Broken> {
        let connecting = async {
            loop {
                if let Signal::Connected(announced) = link.poll().await? {
                    return Ok(announced);
                }
            }
        };
        let announced = timeout(self.config.server.timeout, connecting).await;
        let announced = announced.map_err(|_| Broken::lost("no connection in time"))??;
        tracing::debug!(remote = %self.name, ?announced, "connected");
        connection.is_connected.store(true, SeqCst);
        if announced.session_present && self.subscribed.load(SeqCst) {
            // Subscribing again would bring everything retained again.
            return Ok(VecDeque::new());
        }
        let configured: BTreeSet<String> = self.configured().collect();
        let mut known = self.known().await;
        if !announced.session_present {
            known.clear();
        }
        let old: Vec<String> = known.difference(&configured).cloned().collect();
        // Before they are asked for: a crash must not leave one that nobody knows.
        self.remember(&known | &configured).await;
        let old = old.into_iter().map(Request::Unsubscribe);
        Ok(old.chain([Request::Subscribe]).collect())
    }

    /// Asks for the next thing of the broker, if anything is left to ask for.
    async fn ask(
        &self,
        connection: &Connection,
        requests: &mut VecDeque<Request>,
    ) -> Result<(), Broken> {
        let client = &connection.client;
        let asked = match requests.pop_front() {
            None => Ok(()),
            Some(Request::Unsubscribe(filter)) => {
                tracing::info!(remote = %self.name, filter, "no longer configured: unsubscribed");
                client.unsubscribe(filter).await
            }
            Some(Request::Subscribe) => {
                let subscriptions = self.config.subscriptions.iter();
                let filters: Vec<_> = subscriptions
                    .map(|one| (one.filter.clone(), one.qos))
                    .collect();
                client.subscribe(&filters).await
            }
        };
        asked.map_err(|_| Broken::lost("the connection was lost"))
    }

    fn configured(&self) -> impl Iterator<Item = String> {
        let subscriptions = self.config.subscriptions.iter();
        subscriptions.map(|one| one.filter.clone())
    }

    async fn known(&self) -> BTreeSet<String> {
        let Some(filters) = self.filters.clone() else {
            return BTreeSet::new();
        };
        let known = tokio::task::spawn_blocking(move || filters.known()).await;
        known.unwrap_or_default()
    }

    async fn remember(&self, filters: BTreeSet<String>) {
        let Some(file) = self.filters.clone() else {
            return;
        };
        let remembered = tokio::task::spawn_blocking(move || file.remember(&filters)).await;
        if let Ok(Err(error)) = remembered {
            tracing::warn!(remote = %self.name, %error, "which filters a remote broker has could not be noted: one that is taken out of the configuration may stay there");
        }
    }

    /// Whether the broker grants what was asked for. With less than QoS 1 it would keep
    /// nothing while this gateway is away.
    fn check(&self, granted: &[Result<u8, String>]) -> Result<(), Broken> {
        for (Subscription { filter, qos, .. }, granted) in
            self.config.subscriptions.iter().zip(granted)
        {
            match granted {
                Ok(level) if level >= qos => {}
                Ok(level) => {
                    return Err(Broken::wrong(format!(
                        "subscribe to {filter:?}: the broker grants QoS {level} only, and would lose what comes while this gateway is away; if that may be, set qos = {level}"
                    )));
                }
                Err(why) => return Err(Broken::wrong(format!("subscribe to {filter:?}: {why}"))),
            }
        }
        Ok(())
    }

    fn waits_for_room(&self) {
        if self.handle.waits_for_room() {
            tracing::warn!(remote = %self.name, "messages of a remote broker wait for room: the disk may be full; it may end the connection, and send them again");
        }
    }

    /// Handles messages in order, and acknowledges them, until `shutdown`.
    async fn handle_all(
        &self,
        connection: &Connection,
        shutdown: &CancellationToken,
    ) -> Result<(), Broken> {
        let Connection {
            client,
            inbox,
            acks,
            ..
        } = connection;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = inbox.take(&mut batch) => {}
            }
            self.handle_batch(&batch).await?;
            for message in batch.iter().filter(|one| one.is_owed()) {
                acks.ask();
                let asked = client.acknowledge(message).await;
                asked.map_err(|_| Broken::lost("the connection was lost"))?;
            }
            inbox.settled(&mut batch);
        }
    }
}

impl Connection {
    /// Waits for acknowledgements to leave, then asks to end the connection in order.
    async fn say_goodbye(&self) {
        self.acks.gone().await;
        // Moved until that has left, too.
        self.acks.ask();
        self.client.disconnect().await;
        std::future::pending().await
    }
}

/// Acknowledgements that were asked for and have not left. While there are any the
/// connection must be moved, also when nobody has room for what comes on it.
#[derive(Debug, Default)]
struct Acks {
    open: AtomicUsize,
    asked: Notify,
    left: Notify,
}

impl Acks {
    fn ask(&self) {
        self.open.fetch_add(1, SeqCst);
        self.asked.notify_one();
    }

    fn left(&self) {
        self.open.fetch_sub(1, SeqCst);
        self.left.notify_one();
    }

    fn all_left(&self) -> bool {
        self.open.load(SeqCst) == 0
    }

    async fn asked(&self) {
        self.asked.notified().await;
    }

    async fn gone(&self) {
        while !self.all_left() {
            self.left.notified().await;
        }
    }
}
