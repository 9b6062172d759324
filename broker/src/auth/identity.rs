//! Who a client is, once that is known, and what its session may do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{Auth, DeniedPublish, audit::Action, verifier::Proven};
use crate::{
    acl::{Names, Permit, Rules},
    packet::Will,
};

/// How a client said who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It did not.
    Anonymous,
    /// A certificate that TLS verified.
    Certificate,
    /// A signed token.
    Token,
    /// A password of the password file.
    Password,
    /// The operator's own service knows it.
    Hook,
}

impl Method {
    /// One word for logs and lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::Password => "password",
            Self::Hook => "http",
        }
    }
}

/// Who a client is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(super) user: Option<Arc<str>>,
    pub(super) device: Option<Arc<str>>,
    pub(super) method: Method,
    /// Rules that came with it.
    pub(super) own: Option<Arc<Rules>>,
    /// When it is over.
    pub(super) ends: Option<Instant>,
    /// The stored hash that its password was right for.
    pub(super) hash: Option<Arc<str>>,
    /// Keeps its password remembered.
    pub(super) _proven: Option<Proven>,
}

impl Identity {
    pub(super) const fn new(method: Method) -> Self {
        Self {
            user: None,
            device: None,
            method,
            own: None,
            ends: None,
            hash: None,
            _proven: None,
        }
    }

    /// The authenticated name; `None` for an anonymous client.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        self.user.as_ref()
    }

    pub(crate) const fn method(&self) -> Method {
        self.method
    }
}

/// What one session may do: its identity, and the rules as they are now.
#[derive(Debug)]
pub(crate) struct Rights {
    auth: Arc<Auth>,
    identity: Identity,
    client_id: Arc<str>,
}

impl Rights {
    pub(super) fn new(auth: Arc<Auth>, identity: Identity, client_id: Arc<str>) -> Self {
        Self {
            auth,
            identity,
            client_id,
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whose the client identifier is while this session holds it.
    pub(crate) fn owner(&self) -> Option<Arc<str>> {
        self.identity.user.clone()
    }

    /// Whether there is anything that it may not do.
    pub(crate) fn is_restricted(&self) -> bool {
        self.auth.state().config.restricts()
    }

    /// Changes whenever an answer may change; never 0.
    pub(crate) fn version(&self) -> u64 {
        self.auth.version()
    }

    /// Is cancelled when the rules have changed since it was asked for.
    pub(crate) fn revision(&self) -> CancellationToken {
        self.auth.revision()
    }

    fn names(&self) -> Names<'_> {
        Names {
            client: &self.client_id,
            user: self.identity.user.as_deref(),
            device: self.identity.device.as_deref(),
        }
    }

    /// What it may publish to a topic; `None` for nothing.
    pub(crate) fn publish(&self, topic: &str) -> Option<Permit> {
        let permit = self.may_publish(topic);
        self.tell(Action::Publish, permit.is_some(), topic);
        permit
    }

    fn may_publish(&self, topic: &str) -> Option<Permit> {
        let state = self.auth.state();
        if !state.config.restricts() {
            return Some(Permit::ALL);
        }
        let names = self.names();
        let own = self.identity.own.as_ref();
        own.and_then(|own| own.publish(&names, topic))
            .or_else(|| state.config.rules.publish(&names, topic))?
            .ok()
    }

    /// What it may subscribe to with a filter, the one behind `$share/{group}/`
    /// where there is one; `None` for nothing.
    pub(crate) fn subscribe(&self, filter: &str) -> Option<Permit> {
        let permit = self.may_subscribe(filter);
        self.tell(Action::Subscribe, permit.is_some(), filter);
        permit
    }

    fn may_subscribe(&self, filter: &str) -> Option<Permit> {
        let state = self.auth.state();
        if !state.config.restricts() {
            return Some(Permit::ALL);
        }
        let filter = match filter.strip_prefix("$share/") {
            Some(shared) => shared.split_once('/')?.1,
            None => filter,
        };
        let names = self.names();
        let own = self.identity.own.as_ref();
        own.and_then(|own| own.subscribe(&names, filter))
            .or_else(|| state.config.rules.subscribe(&names, filter))?
            .ok()
    }

    /// Whether it may leave this will behind.
    pub(crate) fn will(&self, will: &Will) -> bool {
        let publish = &will.publish;
        let permit = self.may_publish(&publish.topic);
        let allowed = permit.is_some_and(|permit| {
            publish.qos <= permit.qos_max && (permit.retain || !publish.retain)
        });
        self.tell(Action::Will, allowed, &publish.topic);
        allowed
    }

    fn tell(&self, action: Action, allowed: bool, topic: &str) {
        // Where nobody is asked who they are there is nothing to account for.
        if self.auth.state().config.restricts() {
            let (audit, id) = (&self.auth.audit, &self.client_id);
            audit.decided(action, allowed, id, &self.identity, topic);
        }
    }

    /// What becomes of a 3.1.1 client's publish that is refused.
    pub(crate) fn denied_publish(&self) -> DeniedPublish {
        self.auth.state().config.denied_publish
    }

    /// When the identity is over.
    pub(crate) fn ends(&self) -> Option<tokio::time::Instant> {
        self.identity.ends.map(tokio::time::Instant::from_std)
    }

    /// Why the session may not go on after the rules changed: its user is gone or has
    /// another password, its listener takes nobody like it any more, or it holds a
    /// subscription that it would not get today.
    pub(crate) fn objection<'f>(
        &self,
        subscriptions: impl IntoIterator<Item = &'f str>,
    ) -> Option<&'static str> {
        let state = self.auth.state();
        let why = if !state.still_knows(&self.identity) {
            "the user is gone or has another password"
        } else if !subscriptions
            .into_iter()
            .all(|filter| self.may_subscribe(filter).is_some())
        {
            "a subscription that is no longer allowed"
        } else {
            return None;
        };
        self.auth.audit.ended(&self.client_id, &self.identity, why);
        Some(why)
    }

    /// The identity is over; the words for it.
    pub(crate) fn expired(&self) -> &'static str {
        let why = "the token has expired";
        self.auth.audit.ended(&self.client_id, &self.identity, why);
        why
    }
}

/// When something ends that has some seconds left; never, if that is beyond counting.
pub(super) fn after(secs: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_secs(secs))
}
