//! One line per decision, for whoever has to say later who did what.
//!
//! Tracing events of the target `penstock::audit`, at `INFO` where a client is let
//! in or turned away and where a subscription is decided or a publish refused, at
//! `DEBUG` where publishing to a topic is allowed for the first time on a
//! connection. No password, token or hash is ever in one. Clients cause these
//! lines, so there are at most [`LINES`] a second of what is allowed, and as many of
//! what is not: a flood of one hides nothing of the other. Those that were held back
//! are counted, in the next line of their kind and in `audit_held_back`.

use std::{net::SocketAddr, sync::Arc};

use super::{Identity, Refusal};
use crate::{metrics::Counters, quiet::Quiet};

/// Lines a second, of what is allowed and of what is not.
const LINES: u32 = 200;
/// Characters of a name that a line shows.
const SHOWN_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Audit {
    allowed: Quiet,
    refused: Quiet,
    trouble: Quiet,
    counters: Arc<Counters>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Publish,
    Subscribe,
    Will,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
        }
    }
}

impl Audit {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            allowed: Quiet::of(LINES),
            refused: Quiet::of(LINES),
            trouble: Quiet::of(1),
            counters,
        }
    }

    /// Whether to write, now, that something of ours is broken.
    pub(super) fn pass_trouble(&self) -> Option<u64> {
        self.trouble.pass()
    }

    fn pass(&self, allowed: bool) -> Option<u64> {
        let quiet = match allowed {
            true => &self.allowed,
            false => &self.refused,
        };
        let passed = quiet.pass();
        if passed.is_none() {
            self.counters.audit_held_back.add(1);
        }
        passed
    }

    pub(super) fn connected(
        &self,
        client_id: &str,
        address: Option<SocketAddr>,
        identity: &Identity,
    ) {
        if let Some(held_back) = self.pass(true) {
            tracing::info!(
                target: "penstock::audit",
                action = "connect",
                allowed = true,
                client.id = shown(client_id),
                user = identity.user().map(|user| shown(user)),
                method = identity.method().word(),
                address = address.map(tracing::field::display),
                held_back,
                "a client may connect"
            );
        }
    }

    pub(super) fn refused(
        &self,
        client_id: &str,
        user: Option<&str>,
        address: Option<SocketAddr>,
        refusal: &Refusal,
    ) {
        if let Some(held_back) = self.pass(false) {
            tracing::info!(
                target: "penstock::audit",
                action = "connect",
                allowed = false,
                client.id = shown(client_id),
                user = user.map(shown),
                reason = refusal.what,
                address = address.map(tracing::field::display),
                held_back,
                "a client may not connect"
            );
        }
    }

    pub(super) fn decided(
        &self,
        action: Action,
        allowed: bool,
        client_id: &str,
        identity: &Identity,
        topic: &str,
    ) {
        let (user, method) = (
            identity.user().map(|user| shown(user)),
            identity.method().word(),
        );
        let (client_id, topic) = (shown(client_id), shown(topic));
        let action_word = action.word();
        if allowed && matches!(action, Action::Publish) {
            if tracing::enabled!(target: "penstock::audit", tracing::Level::DEBUG)
                && let Some(held_back) = self.pass(true)
            {
                tracing::debug!(
                    target: "penstock::audit",
                    action = action_word, allowed, client.id = client_id, user, method, topic, held_back,
                    "a client may use a topic"
                );
            }
            return;
        }
        if let Some(held_back) = self.pass(allowed) {
            tracing::info!(
                target: "penstock::audit",
                action = action_word, allowed, client.id = client_id, user, method, topic, held_back,
                "{}", if allowed { "a client may use a topic" } else { "a client may not use a topic" }
            );
        }
    }

    pub(super) fn ended(&self, client_id: &str, identity: &Identity, why: &'static str) {
        if let Some(held_back) = self.pass(false) {
            tracing::info!(
                target: "penstock::audit",
                action = "stay",
                allowed = false,
                client.id = shown(client_id),
                user = identity.user().map(|user| shown(user)),
                method = identity.method().word(),
                reason = why,
                held_back,
                "a client may not stay connected"
            );
        }
    }
}

/// The beginning of a text that a client chose.
fn shown(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(SHOWN_MAX)
        .map_or(text.len(), |(end, _)| end);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::{auth::Method, packet::reason};

    /// What was written.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[test]
    fn every_decision_is_one_line_that_says_who_what_and_whether() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let audit = Audit::new(Arc::default());
        let identity = Identity {
            user: Some(Arc::from("line-3")),
            ..Identity::new(Method::Password)
        };
        let address = Some("192.0.2.7:1883".parse().unwrap());
        let refusal = Refusal {
            reason: reason::NOT_AUTHORIZED,
            what: "a wrong password",
        };
        tracing::subscriber::with_default(subscriber, || {
            audit.connected("d", address, &identity);
            audit.refused("d", Some("line-3"), address, &refusal);
            for action in [Action::Publish, Action::Subscribe, Action::Will] {
                for allowed in [true, false] {
                    audit.decided(action, allowed, "d", &identity, "a/b");
                }
            }
            audit.ended("d", &identity, "the token has expired");
        });
        let log = String::from_utf8(log.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let said = lines.iter().map(|line| {
            assert_eq!(line["target"], "penstock::audit");
            let fields = &line["fields"];
            assert_eq!(
                (&fields["client.id"], &fields["user"]),
                (&"d".into(), &"line-3".into())
            );
            let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
            let why = [text("topic"), text("reason"), text("address")].concat();
            (text("action"), fields["allowed"].as_bool().unwrap(), why)
        });
        let said: Vec<_> = said.collect();
        let said: Vec<_> = said
            .iter()
            .map(|(action, allowed, why)| (&**action, *allowed, &**why))
            .collect();
        assert_eq!(
            said,
            [
                ("connect", true, "192.0.2.7:1883"),
                ("connect", false, "a wrong password192.0.2.7:1883"),
                ("publish", true, "a/b"),
                ("publish", false, "a/b"),
                ("subscribe", true, "a/b"),
                ("subscribe", false, "a/b"),
                ("will", true, "a/b"),
                ("will", false, "a/b"),
                ("stay", false, "the token has expired"),
            ]
        );
    }

    #[test]
    fn a_flood_of_one_kind_of_line_hides_nothing_of_the_other() {
        for flood in [true, false] {
            let audit = Audit::new(Arc::default());
            let count = u64::from(LINES) * 3;
            let passed = (0..count).filter(|_| audit.pass(flood).is_some()).count();
            assert!(audit.pass(!flood).is_some());
            let held_back = audit.counters.audit_held_back.get();
            assert_eq!(held_back, count - passed as u64);
        }
    }
}
