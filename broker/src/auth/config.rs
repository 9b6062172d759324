//! What an operator says of who may connect and who may do what.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Error, State, certificate, hook, lockout, token};
use crate::acl::Rules;

/// A token that ended longer ago is as good as one that never ends.
const LEEWAY_MAX: Duration = Duration::from_secs(3_600);

/// How clients are known and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The password file.
    pub passwords: Option<PathBuf>,
    /// The name of a certificate that is the user's.
    pub certificate: Option<certificate::Name>,
    /// Tokens as passwords.
    pub token: Option<token::Config>,
    /// A service of the operator's own.
    pub hook: Option<hook::Config>,
    /// Which client identifiers a user may take.
    pub client_ids: ClientIds,
    /// What may be done; nothing else may.
    pub rules: Arc<Rules>,
    /// What becomes of a 3.1.1 client's publish that is refused.
    pub denied_publish: DeniedPublish,
    /// When guessing is slowed down.
    pub lockout: lockout::Config,
    /// Passwords that are checked at the same time; as many as half of the cores,
    /// where it is not said.
    pub checks_at_once: Option<usize>,
    /// How long a right password is remembered after the last session with it.
    pub remember: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            passwords: None,
            certificate: None,
            token: None,
            hook: None,
            client_ids: ClientIds::Any,
            rules: Arc::default(),
            denied_publish: DeniedPublish::Disconnect,
            lockout: lockout::Config::default(),
            checks_at_once: None,
            remember: Duration::from_secs(15 * 60),
        }
    }
}

impl Config {
    /// Whether clients are asked who they are.
    pub fn is_on(&self) -> bool {
        self.passwords.is_some()
            || self.certificate.is_some()
            || self.token.is_some()
            || self.hook.is_some()
    }

    /// Whether only what the rules allow is allowed.
    pub(crate) fn restricts(&self) -> bool {
        self.is_on() || !self.rules.0.is_empty()
    }

    /// The files that it is read from, besides itself.
    pub fn files(&self) -> Vec<&Path> {
        let key = self.token.as_ref().and_then(|token| match &token.key {
            token::Key::File(path) => Some(path.as_path()),
            token::Key::Secret(_) => None,
        });
        self.passwords.as_deref().into_iter().chain(key).collect()
    }

    /// Checks the bounds, reads those files and forgets what was in them.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(&self) -> Result<(), Error> {
        State::load(self.clone()).map(drop)
    }

    /// What is beyond its bounds: where nothing may fail or nothing is ever checked,
    /// nobody gets in.
    pub(super) fn out_of_bounds(&self) -> Vec<String> {
        let lockout = &self.lockout;
        let lock_secs = usize::try_from(lockout.lock.as_secs()).unwrap_or(usize::MAX);
        let leeway = self.token.as_ref().map(|token| token.leeway);
        let at_once = self.hook.as_ref().map(|hook| hook.in_flight_max);
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let bounds = [
            ("failures_max", Some(count(lockout.failures_max)), 1),
            (
                "failures_in_total_max",
                Some(count(lockout.failures_in_total_max)),
                1,
            ),
            ("lock, in seconds,", Some(lock_secs), 1),
            ("checks_at_once", self.checks_at_once, 1),
            ("in_flight_max of the service", at_once, 1),
        ];
        let below = bounds.into_iter().filter_map(|(name, value, least)| {
            let value = value.filter(|value| *value < least)?;
            Some(format!("{name} is {value}, the least is {least}"))
        });
        let leeway = leeway.filter(|leeway| *leeway > LEEWAY_MAX).map(|leeway| {
            let (secs, most) = (leeway.as_secs(), LEEWAY_MAX.as_secs());
            format!("leeway of tokens is {secs} s, the most is {most} s")
        });
        below.chain(leeway).collect()
    }
}

/// What becomes of a publish that a 3.1.1 client has no right to, and that has QoS 1
/// or 2: 3.1.1 has no way to refuse one (MQTT-3.3.5-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedPublish {
    /// The connection is closed: an acknowledgement would say that it is on disk.
    Disconnect,
    /// It is acknowledged, dropped and counted, as other brokers do.
    Acknowledge,
}

/// Which client identifiers a user may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientIds {
    /// Any that is not taken by another user.
    Any,
    /// Those that are like this, with the user's name between both parts.
    Like {
        /// Before the name.
        before: Box<str>,
        /// After it.
        after: Box<str>,
        /// More may follow.
        is_prefix: bool,
    },
}

impl ClientIds {
    /// Reads `any`, `user`, or a pattern such as `{user}:*`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (text, is_prefix) = match text {
            "any" => return Ok(Self::Any),
            "user" => ("{user}", false),
            _ => text
                .strip_suffix('*')
                .map_or((text, false), |text| (text, true)),
        };
        let parts = text.split_once("{user}");
        let fit = |part: &str| !part.contains(['{', '}', '*']);
        match parts {
            // Without something in between, one user's identifiers are another's.
            Some((_, "")) if is_prefix => Err(
                "should have a character between {user} and *, one that no user's name has, such as \"{user}:*\"",
            ),
            Some((before, after)) if fit(before) && fit(after) => Ok(Self::Like {
                before: before.into(),
                after: after.into(),
                is_prefix,
            }),
            _ => Err(
                "should be \"any\", \"user\" for the user's name, or a pattern with {user} in it, such as \"{user}:*\"",
            ),
        }
    }

    /// Where more may follow, a user whose own name has the character that ends it
    /// takes none: `a-b-1` would be both of `a` and of `a-b`.
    pub(super) fn takes(&self, user: &str, client_id: &str) -> bool {
        let Self::Like {
            before,
            after,
            is_prefix,
        } = self
        else {
            return true;
        };
        if *is_prefix && after.chars().next().is_some_and(|end| user.contains(end)) {
            return false;
        }
        let rest = client_id
            .strip_prefix(&**before)
            .and_then(|rest| rest.strip_prefix(user))
            .and_then(|rest| rest.strip_prefix(&**after));
        rest.is_some_and(|rest| *is_prefix || rest.is_empty())
    }
}
