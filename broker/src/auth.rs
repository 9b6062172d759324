//! Who may connect: by certificate, token, password, or the operator's own service.
//!
//! ```text
//! CONNECT ─▶ certificate ─▶ token ─▶ password file ─▶ service ─▶ anonymous ─▶ Rights
//! ```
//!
//! The first method that the client brings something for decides, and its no is
//! final: a wrong password never makes an anonymous client. A method that is not
//! configured is passed over. With none configured everybody is anonymous and may
//! do everything, which is why listening beyond this machine then takes a word.
//! What a client may do is in [`crate::acl`].
//!
//! Passwords, keys and rules can be replaced while the broker runs
//! ([`Auth::reload`]). Sessions whose user, password, key, kind of name, client
//! identifier or subscriptions would not be taken again are ended. Whom a service let
//! in stays, with the rules that it gave, until the session ends: nobody is asked again.
//! Nothing here writes a password, token or hash to the log.

mod audit;
pub mod certificate;
mod clock;
mod config;
pub mod hook;
mod identity;
pub mod lockout;
pub mod passwords;
mod places;
pub mod token;
mod verifier;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use config::{ClientIds, Config, DeniedPublish};
pub use identity::Method;

use crate::{metrics::Counters, packet::reason};
use audit::Audit;
use hook::{Asked, Hook, NotNow, Question};
pub(crate) use identity::{Identity, Rights};
use lockout::{Lockout, Standing};
use passwords::{PASSWORD_BYTES_MAX, Passwords};
use places::Places;
use verifier::{Login, Verifier};

/// Every mistake in the files that clients are known by.
#[derive(Debug)]
pub struct Error(pub Vec<String>);

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// What is in force: the configuration and what its files say.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    passwords: Option<Passwords>,
    token: Option<token::Checker>,
}

impl State {
    fn load(config: Config) -> Result<Self, Error> {
        let mut mistakes = config.out_of_bounds();
        let passwords = config.passwords.as_deref().and_then(|path| {
            Passwords::load(path)
                .map_err(|error| mistakes.push(error.to_string()))
                .ok()
        });
        let token = config.token.as_ref().and_then(|token| {
            token::Checker::load(token)
                .map_err(|error| mistakes.push(format!("the key for tokens: {error}")))
                .ok()
        });
        if mistakes.is_empty() {
            Ok(Self {
                config,
                passwords,
                token,
            })
        } else {
            Err(Error(mistakes))
        }
    }

    /// By which method a user may be let in today.
    fn method_of(&self, user: &str) -> Option<Method> {
        let passwords = self.passwords.as_ref();
        let config = &self.config;
        if passwords.is_some_and(|known| known.hash_of(user).is_some()) {
            Some(Method::Password)
        } else if config.certificate.is_some() {
            Some(Method::Certificate)
        } else if config.token.is_some() {
            Some(Method::Token)
        } else if config.hook.is_some() || !config.is_on() {
            // Where nobody is asked a user name is a claim like any other.
            Some(Method::Hook)
        } else {
            None
        }
    }

    /// Whether a client that was let in would be by its method today.
    fn still_knows(&self, identity: &Identity) -> bool {
        match identity.method {
            Method::Anonymous => true,
            Method::Certificate => {
                let name = self.config.certificate.map(certificate::Name::word);
                name.is_some() && name == identity.grounds.as_deref()
            }
            Method::Token => self.token.as_ref().is_some_and(|checker| {
                let grounds = identity.grounds.as_deref();
                grounds.is_some_and(|grounds| checker.still_takes(grounds))
            }),
            Method::Hook => self.config.hook.is_some(),
            Method::Password => {
                let known = self.passwords.as_ref().zip(identity.user.as_deref());
                let hash = known.and_then(|(known, user)| known.hash_of(user));
                hash.is_some() && hash == identity.grounds.as_ref()
            }
        }
    }
}

/// What a client brings to be known by.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) client_id: &'a Arc<str>,
    /// The broker made the client identifier up.
    pub(crate) is_assigned: bool,
    pub(crate) username: Option<&'a Arc<str>>,
    pub(crate) password: Option<&'a [u8]>,
    /// None for a program of this machine.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) listener: &'a str,
    /// Verified by TLS, in DER.
    pub(crate) certificate: Option<&'a [u8]>,
    /// The listener takes clients that bring nothing.
    pub(crate) allow_anonymous: bool,
}

impl Attempt<'_> {
    /// Whom failures are counted for.
    fn ip(&self) -> IpAddr {
        self.address
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
    }
}

/// Why a client may not connect: the reason code, and a line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: u8,
    pub(crate) what: &'static str,
}

/// The same words whether the user is known or not.
const WRONG: Refusal = Refusal {
    reason: reason::BAD_USER_NAME,
    what: "a wrong user name or password",
};
const LOCKED: Refusal = Refusal {
    reason: reason::CONNECTION_RATE_EXCEEDED,
    what: "too many failed logins",
};
const UNANSWERED: Refusal = Refusal {
    reason: reason::SERVER_UNAVAILABLE,
    what: "the authentication service does not answer",
};

const NAMELESS: Refusal = Refusal {
    reason: reason::NOT_AUTHORIZED,
    what: "the authentication service names no user, and neither does the client",
};
const TOO_LATE: Refusal = Refusal {
    reason: reason::SERVER_BUSY,
    what: "it could not be found out in time who the client is",
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Auth {
    state: RwLock<Arc<State>>,
    version: AtomicU64,
    revision: Mutex<CancellationToken>,
    verifier: Verifier,
    /// Where the signatures of tokens are checked.
    tokens: Arc<Places>,
    lockout: Arc<Lockout>,
    asked: OnceLock<Asked>,
    audit: Audit,
    counters: Arc<Counters>,
}

impl Auth {
    /// Reads the files.
    pub(crate) fn load(config: Config, counters: Arc<Counters>) -> Result<Self, Error> {
        let remember = config.remember;
        // Half of the machine is for those who are connected.
        let half = || available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        let at_once = config.checks_at_once.unwrap_or_else(half);
        // No more at a time than may fail, or right passwords could be too many.
        let of_one = usize::try_from(config.lockout.failures_max).unwrap_or(usize::MAX);
        Ok(Self {
            state: RwLock::new(Arc::new(State::load(config)?)),
            version: AtomicU64::new(1),
            revision: Mutex::default(),
            verifier: Verifier::new(at_once, of_one, remember, Arc::clone(&counters)),
            tokens: Places::new(at_once, at_once.div_ceil(2)),
            lockout: Arc::default(),
            asked: OnceLock::new(),
            audit: Audit::new(Arc::clone(&counters)),
            counters,
        })
    }

    /// Who is asked where the configuration says that somebody is.
    pub(crate) fn set_hook(&self, hook: Arc<dyn Hook>) {
        let state = self.state();
        let config = state.config.hook.clone().unwrap_or_default();
        self.asked
            .get_or_init(|| Asked::new(hook, &config, Arc::clone(&self.counters)));
    }

    /// Reads everything again and puts it in force, or changes nothing. What is
    /// remembered of passwords stays, as far as the stored hashes are the same; how
    /// many are checked at once, and who the service is, stays too.
    ///
    /// # Errors
    /// Every mistake in the files, or that clients would be asked who they are where
    /// they were not, or no longer: the listeners that are open rely on it.
    pub(crate) fn reload(&self, config: Config) -> Result<(), Error> {
        let before = self.state();
        let before = &before.config;
        if config.is_on() != before.is_on() || config.restricts() != before.restricts() {
            let what = "authentication is turned on or off by a restart only";
            return Err(Error(vec![what.to_owned()]));
        }
        if config.hook.is_some() != before.hook.is_some() {
            let what = "the authentication service is added or taken away by a restart only";
            return Err(Error(vec![what.to_owned()]));
        }
        let state = Arc::new(State::load(config)?);
        if state.passwords != self.state().passwords {
            self.lockout.forget();
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        if let Some(asked) = self.asked.get() {
            asked.forget();
        }
        self.version.fetch_add(1, Relaxed);
        let mut revision = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *revision).cancel();
        Ok(())
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    fn revision(&self) -> CancellationToken {
        self.revision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Finds out who a client is, and what it may do from now on.
    pub(crate) async fn admit(self: &Arc<Self>, attempt: &Attempt<'_>) -> Result<Rights, Refusal> {
        // Before the state: what changes from here on, the session hears of.
        let under = self.revision();
        let state = self.state();
        let found = match self.identify(&state, attempt).await {
            Ok(identity) => may_be_called(&state.config, attempt, &identity).map(|()| identity),
            Err(refusal) => Err(refusal),
        };
        let counters = &self.counters;
        match found {
            Ok(identity) => {
                if state.config.is_on() {
                    counters.auth_allowed.add(1);
                    self.audit
                        .connected(attempt.client_id, attempt.address, &identity);
                }
                Ok(Rights::new(
                    Arc::clone(self),
                    identity,
                    Arc::clone(attempt.client_id),
                    !attempt.is_assigned,
                    under,
                ))
            }
            Err(refusal) => {
                match refusal.reason {
                    reason::CONNECTION_RATE_EXCEEDED => counters.auth_locked.add(1),
                    reason::SERVER_UNAVAILABLE => counters.auth_unanswered.add(1),
                    _ => counters.auth_denied.add(1),
                }
                let user = attempt.username.map(|name| &**name);
                self.audit
                    .refused(attempt.client_id, user, attempt.address, &refusal);
                Err(refusal)
            }
        }
    }

    /// What a client may do that an earlier process let in: what the rules say now of the
    /// name that it had. `None` where no method lets a user of that name in any more.
    /// Rules that came with a token, or from the operator's service, are not known any
    /// more.
    pub(crate) fn remembered(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        user: Option<&Arc<str>>,
    ) -> Option<Rights> {
        let state = self.state();
        let method = match user {
            None => Method::Anonymous,
            Some(user) => state.method_of(user)?,
        };
        let identity = Identity {
            user: user.cloned(),
            ..Identity::new(method)
        };
        let id = Arc::clone(client_id);
        let rights = Rights::new(Arc::clone(self), identity, id, false, self.revision());
        Some(rights)
    }

    /// It took longer to find out who a client is than CONNECT may take.
    pub(crate) fn gave_up(&self, attempt: &Attempt<'_>) {
        self.counters.auth_unanswered.add(1);
        let user = attempt.username.map(|name| &**name);
        self.audit
            .refused(attempt.client_id, user, attempt.address, &TOO_LATE);
    }

    async fn identify(
        &self,
        state: &Arc<State>,
        attempt: &Attempt<'_>,
    ) -> Result<Identity, Refusal> {
        let config = &state.config;
        if !config.is_on() {
            return Ok(Identity::new(Method::Anonymous));
        }
        if let (Some(which), Some(der)) = (config.certificate, attempt.certificate) {
            let name = certificate::name(der, which).ok_or(Refusal {
                reason: reason::NOT_AUTHORIZED,
                what: "a certificate without the name that is the user's",
            })?;
            let name: Arc<str> = Arc::from(name);
            return Ok(Identity {
                user: Some(Arc::clone(&name)),
                device: Some(name),
                grounds: Some(Arc::from(which.word())),
                ..Identity::new(Method::Certificate)
            });
        }
        if let Some(password) = attempt.password
            && state.token.is_some()
            && token::is_token(password)
        {
            return self.by_token(state, password, attempt.ip()).await;
        }
        if attempt.username.is_some() || attempt.password.is_some() {
            return self.by_password(state, attempt).await;
        }
        if let Some(asked) = self.asked.get()
            && config.hook.is_some()
            && attempt.certificate.is_some()
        {
            return self.by_hook(asked, attempt, None).await;
        }
        if attempt.allow_anonymous {
            return Ok(Identity::new(Method::Anonymous));
        }
        Err(Refusal {
            reason: reason::NOT_AUTHORIZED,
            what: "no certificate, token or password",
        })
    }

    async fn by_password(&self, state: &State, attempt: &Attempt<'_>) -> Result<Identity, Refusal> {
        let name = attempt.username.map_or("", |name| &**name);
        let password = attempt.password.unwrap_or_default();
        if password.len() > PASSWORD_BYTES_MAX && state.config.hook.is_none() {
            return Err(WRONG);
        }
        let known = state
            .passwords
            .as_ref()
            .and_then(|passwords| passwords.hash_of(name));
        let user = self.verifier.number(name);
        match (self.asked.get(), known) {
            (Some(asked), None) if state.config.hook.is_some() => {
                let lockout = (&state.config.lockout, user);
                self.by_hook(asked, attempt, Some(lockout)).await
            }
            _ => self.by_file(state, name, password, attempt.ip()).await,
        }
    }

    async fn by_file(
        &self,
        state: &State,
        name: &str,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Identity, Refusal> {
        let Some(passwords) = &state.passwords else {
            return Err(WRONG);
        };
        let (lockout, user) = (&state.config.lockout, self.verifier.number(name));
        let hash = passwords.hash_of(name);
        let proven = if let Some(hash) = hash
            && let Some(proven) = self.verifier.known(name, hash, password)
        {
            self.lockout.came(address, user);
            proven
        } else if self.lockout.standing(lockout, address, user) == Standing::OnlyKnown {
            return Err(LOCKED);
        } else {
            let login = Login {
                user: name,
                hash: hash.or_else(|| passwords.any_hash(user)).ok_or(WRONG)?,
                password,
                is_real: hash.is_some(),
                address,
            };
            let begin = || self.lockout.charge(lockout, address, user);
            match self.verifier.check(login, begin).await {
                verifier::Outcome::Right(proven) => proven,
                verifier::Outcome::Wrong => return Err(WRONG),
                verifier::Outcome::NotNow => return Err(LOCKED),
            }
        };
        let name: Arc<str> = Arc::from(name);
        Ok(Identity {
            user: Some(Arc::clone(&name)),
            device: Some(name),
            grounds: hash.cloned(),
            _proven: Some(proven),
            ..Identity::new(Method::Password)
        })
    }

    /// Failures are counted where there is a user to count them for.
    async fn by_hook(
        &self,
        asked: &Asked,
        attempt: &Attempt<'_>,
        counted: Option<(&lockout::Config, u64)>,
    ) -> Result<Identity, Refusal> {
        let address = attempt.ip();
        let question = Question {
            client_id: Arc::clone(attempt.client_id),
            username: attempt.username.cloned(),
            password: attempt.password.map(Box::from),
            address,
            listener: Arc::from(attempt.listener),
            certificate: attempt.certificate.and_then(certificate::subject),
        };
        let is_locked = counted.is_some_and(|(config, user)| {
            self.lockout.standing(config, address, user) == Standing::OnlyKnown
        });
        let outcome = if is_locked {
            let known = asked.known(&question).flatten();
            known.map_or(hook::Outcome::NotNow, |known| {
                hook::Outcome::Said(Some(known))
            })
        } else {
            let begin = || match counted {
                Some((config, user)) => {
                    let charge = self.lockout.charge(config, address, user);
                    charge.map(Some).ok_or(NotNow)
                }
                None => Ok(None),
            };
            asked.ask(&question, begin).await
        };
        let allowed = match outcome {
            hook::Outcome::Said(said) => said.ok_or(WRONG)?,
            hook::Outcome::NotNow => return Err(LOCKED),
            hook::Outcome::Unanswered(error) => {
                // Once per question at most, and questions are bounded; still a flood
                // when the service is down.
                if let Some(held_back) = self.audit.pass_trouble() {
                    tracing::warn!(%error, held_back, "the authentication service does not answer");
                }
                return Err(UNANSWERED);
            }
        };
        // Not the client identifier: whoever has a certificate writes there what it likes.
        let user = allowed.user.or_else(|| attempt.username.cloned());
        let user = user.filter(|user| !user.is_empty()).ok_or(NAMELESS)?;
        Ok(Identity {
            device: Some(allowed.device.unwrap_or_else(|| Arc::clone(&user))),
            user: Some(user),
            own: allowed.rules,
            ..Identity::new(Method::Hook)
        })
    }

    /// A signature costs more to check than to make up, so few are checked at a time,
    /// and away from those who are connected. Nobody guesses a signature, so failures
    /// lock nobody out.
    async fn by_token(
        &self,
        state: &Arc<State>,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Identity, Refusal> {
        let place = self.tokens.take(address).await.ok_or(UNANSWERED)?;
        let (state, token) = (Arc::clone(state), Box::<[u8]>::from(password));
        let checked = spawn_blocking(move || {
            let _place = place;
            state.token.as_ref().map(|checker| checker.check(&token))
        });
        let claims = match checked.await {
            Ok(Some(claims)) => claims,
            Ok(None) | Err(_) => return Err(UNANSWERED),
        };
        let claims = claims.map_err(|what| Refusal {
            reason: reason::NOT_AUTHORIZED,
            what,
        })?;
        let user: Arc<str> = Arc::from(claims.user);
        Ok(Identity {
            device: Some(claims.device.map_or_else(|| Arc::clone(&user), Arc::from)),
            user: Some(user),
            own: claims.rules.map(Arc::new),
            ends: identity::after(claims.secs_left),
            grounds: Some(claims.grounds),
            ..Identity::new(Method::Token)
        })
    }
}

/// Whether a client may have the identifier that it asks for.
fn may_be_called(
    config: &Config,
    attempt: &Attempt<'_>,
    identity: &Identity,
) -> Result<(), Refusal> {
    match &identity.user {
        Some(user) if !attempt.is_assigned => {
            if config.client_ids.takes(user, attempt.client_id) {
                Ok(())
            } else {
                Err(Refusal {
                    reason: reason::CLIENT_ID_INVALID,
                    what: "a client identifier that is not this user's",
                })
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
