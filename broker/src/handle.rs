//! The view into a broker from within the process.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    ClientInfo, Errands, Local, RetainedInfo, SessionInfo, SubscriptionInfo,
    auth::{self, Auth},
    budget::Budgets,
    fanout::Fanout,
    metrics::{Counters, Metrics},
    registry::Registry,
    session::wills::Wills,
};

/// Looks into a broker while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) counters: Arc<Counters>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) budgets: Budgets,
    pub(crate) registry: Arc<Registry>,
    pub(crate) reload: Arc<Notify>,
    pub(crate) wills: Arc<Wills>,
}

/// A subscription of a client that is connected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LiveSubscription {
    /// Whose it is.
    pub client_id: Arc<str>,
    /// The filter, with `$share/{group}/` before it if it is shared.
    pub filter: Arc<str>,
    /// The highest QoS that it gets.
    pub qos: u8,
}

impl Handle {
    /// Reads the certificates of all listeners again. Those that cannot be used are
    /// said in the log, and what was in force stays.
    pub fn reload_certificates(&self) {
        self.reload.notify_one();
    }

    /// Reads passwords, keys and rules again and puts them in force; sessions that
    /// would not be let in again end. With a mistake anywhere nothing changes.
    ///
    /// # Errors
    /// Every mistake.
    pub fn reload_auth(&self, config: auth::Config) -> Result<(), auth::Error> {
        self.auth.reload(config)
    }

    /// The way to the broker's subscribers from within the process.
    pub fn local(&self) -> Local {
        Local::new(Arc::clone(&self.fanout))
    }

    /// The way to single clients from within the process, each message once.
    pub fn errands(&self) -> Errands {
        Errands {
            fanout: Arc::clone(&self.fanout),
            registry: Arc::clone(&self.registry),
            taken: Arc::default(),
        }
    }

    /// The clients that are connected, by client identifier: at most `limit` of those
    /// after `after`.
    pub fn clients(&self, after: &str, limit: usize) -> Vec<ClientInfo> {
        let mut clients = self.registry.clients();
        clients.retain(|client| *client.facts.client_id > *after);
        clients.sort_unstable_by(|one, other| one.facts.client_id.cmp(&other.facts.client_id));
        clients.truncate(limit);
        clients.iter().map(|client| client.info()).collect()
    }

    /// The client of that identifier, if it is connected.
    pub fn client(&self, client_id: &str) -> Option<ClientInfo> {
        Some(self.registry.client(client_id)?.info())
    }

    /// Ends the connection of a client, with its will; whether there was one. An
    /// MQTT 5 client is told that it was an operator (0x98).
    pub fn kick(&self, client_id: &str) -> bool {
        self.registry.kick(client_id)
    }

    /// The subscriptions of connected clients, by client and filter: at most `limit`
    /// of those after `after` for which `wanted` says so. Looks at one client after the
    /// other, so that nothing waits for it.
    pub fn live_subscriptions(
        &self,
        after: (&str, &str),
        limit: usize,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Vec<LiveSubscription> {
        let mut clients = self.registry.clients();
        clients.retain(|client| *client.facts.client_id >= *after.0);
        clients.sort_unstable_by(|one, other| one.facts.client_id.cmp(&other.facts.client_id));
        let mut found = Vec::new();
        for client in clients {
            let client_id = &client.facts.client_id;
            for filter in &*client.filters() {
                if found.len() >= limit {
                    return found;
                }
                if (&**client_id, &**filter) <= after || !wanted(client_id, filter) {
                    continue;
                }
                // One that has just ended is not shown.
                if let Some(qos) = self.fanout.qos_of(client.facts.session, filter) {
                    found.push(LiveSubscription {
                        client_id: Arc::clone(client_id),
                        filter: Arc::clone(filter),
                        qos: qos as u8,
                    });
                }
            }
        }
        found
    }

    /// The persistent sessions, connected or not, by client identifier.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        self.fanout.keeper().sessions().await
    }

    /// The subscriptions of persistent sessions, connected or not.
    pub async fn persistent_subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.fanout.keeper().subscriptions().await
    }

    /// The retained messages, by topic.
    pub fn retained(&self) -> Vec<RetainedInfo> {
        self.fanout.keeper().retained()
    }

    /// Ends the connection of a client and its session, with its queue and its
    /// subscriptions; its will is published, if it waits. Whether there was one; `None`
    /// when that could not be written.
    pub async fn remove_session(&self, client_id: Arc<str>) -> Option<bool> {
        let keeper = self.fanout.keeper();
        let removed = keeper.remove(Arc::clone(&client_id)).await.ok()?;
        if removed {
            self.wills.session_is_over(&client_id, &self.counters);
        }
        Some(removed || self.kick(&client_id))
    }

    /// Forgets the retained message of a topic. Whether there was one; `None` when
    /// that could not be written.
    pub async fn clear_retained(&self, topic: Arc<str>) -> Option<bool> {
        self.fanout.keeper().clear_retained(topic).await.ok()
    }

    /// The counters as they are now.
    pub fn metrics(&self) -> Metrics {
        let Budgets {
            input,
            output,
            kept,
        } = &self.budgets;
        self.counters.memory_input_bytes.set(input.used());
        self.counters.memory_output_bytes.set(output.used());
        self.counters.memory_sessions_bytes.set(kept.used());
        self.counters
            .memory_subscriptions_bytes
            .set(self.fanout.weight());
        self.counters.snapshot()
    }
}
