//! Who a client is, once that is known, and what its session may do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{Auth, DeniedPublish, State, audit::Action, verifier::Proven};
use crate::{
    QoS,
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
    /// What it was known by, where that can change: the stored hash that its password
    /// was right for, the key and what else its token was good for, or the kind of
    /// name that its certificate was read for.
    pub(super) grounds: Option<Arc<str>>,
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
            grounds: None,
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
    /// The client chose its identifier.
    is_named: bool,
    /// There are rules at all; that does not change while the broker runs.
    is_restricted: bool,
    /// Is cancelled when what it was admitted under has changed.
    admitted_under: CancellationToken,
}

impl Rights {
    pub(super) fn new(
        auth: Arc<Auth>,
        identity: Identity,
        client_id: Arc<str>,
        is_named: bool,
        admitted_under: CancellationToken,
    ) -> Self {
        Self {
            is_restricted: auth.state().config.restricts(),
            auth,
            identity,
            client_id,
            is_named,
            admitted_under,
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
    pub(crate) const fn is_restricted(&self) -> bool {
        self.is_restricted
    }

    /// Changes whenever an answer may change; never 0.
    pub(crate) fn version(&self) -> u64 {
        self.auth.version()
    }

    /// Is cancelled when the rules have changed since the client was admitted, which
    /// may be long before its session begins.
    pub(crate) fn admitted_under(&self) -> CancellationToken {
        self.admitted_under.clone()
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
        if !self.is_restricted {
            return Some(Permit::ALL);
        }
        let state = self.auth.state();
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

    /// Whether the client may have the messages of a topic.
    pub(crate) fn may_read(&self, topic: &str) -> bool {
        self.may_subscribe(topic).is_some()
    }

    fn may_subscribe(&self, filter: &str) -> Option<Permit> {
        if !self.is_restricted {
            return Some(Permit::ALL);
        }
        let state = self.auth.state();
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

    /// How many rules an answer may take to look through.
    pub(crate) fn rules(&self) -> usize {
        if !self.is_restricted {
            return 0;
        }
        let own = self.identity.own.as_ref().map_or(0, |own| own.0.len());
        own + self.auth.state().config.rules.0.len()
    }

    /// Whether the client would still be let in as who it is.
    pub(crate) fn is_valid(&self) -> bool {
        let is_over = self
            .identity
            .ends
            .is_some_and(|ends| ends <= Instant::now());
        let state = self.auth.state();
        !is_over && state.still_knows(&self.identity) && self.may_be_called(&state)
    }

    fn may_be_called(&self, state: &State) -> bool {
        let user = self.identity.user.as_ref().filter(|_| self.is_named);
        user.is_none_or(|user| state.config.client_ids.takes(user, &self.client_id))
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
        if self.is_restricted {
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
    /// subscription that it would not get today at its QoS.
    pub(crate) fn objection<'f>(
        &self,
        subscriptions: impl IntoIterator<Item = (&'f str, QoS)>,
    ) -> Option<&'static str> {
        let state = self.auth.state();
        let why = if !state.still_knows(&self.identity) {
            "the user is gone or has another password, or the key or name it was known by is another"
        } else if !self.may_be_called(&state) {
            "a client identifier that is not this user's any more"
        } else if !subscriptions.into_iter().all(|(filter, qos)| {
            let permit = self.may_subscribe(filter);
            permit.is_some_and(|permit| qos <= permit.qos_max)
        }) {
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
