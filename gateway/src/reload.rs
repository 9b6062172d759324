//! Takes changed passwords, keys, destinations and rules over while the gateway runs.
//!
//! At SIGHUP, and when the configuration, a file that clients are known by or one that
//! a rule's pattern is in has changed, all are read again. Only `[auth]`, `[[acl]]`, the
//! tokens of `[http]`, `[[destination]]` and `[[rule]]` are taken over; the rest of the configuration needs a
//! restart. With a mistake anywhere everything stays as it was, and the log says what is
//! wrong.
//!
//! Rules speak of events as the mappings make them, and the mappings are those of the
//! start. So rules of a configuration in which these are others wait for a restart, and
//! with them the destinations that they name.

mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use penstock_broker::{Handle, auth};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::watch::Watch;
use crate::{
    config::{Config, Fixed, Seen, Stamp},
    destinations::{self, Wish},
    http::{Token, Tokens},
};

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Reload {
    broker: Handle,
    /// The configuration file, if there is one.
    file: Option<PathBuf>,
    auth: auth::Config,
    tokens: Tokens,
    /// The last reading has put passwords and keys in force.
    authenticated: bool,
    in_force: InForce,
    watch: Watch,
    hangup: Signal,
}

/// What runs, and who changes it.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) destinations: destinations::Handle,
    /// Where destinations keep what is relative.
    pub(crate) data_dir: PathBuf,
    /// What rules must be written for, and the destinations that run.
    pub(crate) fixed: Fixed,
}

/// What begins before anything is built: no change and no signal is missed meanwhile.
#[derive(Debug)]
pub(crate) struct Beginning {
    seen: Seen,
    hangup: Signal,
}

impl Beginning {
    /// Notes the files that clients are known by, which are read later than the
    /// configuration was.
    ///
    /// # Errors
    /// When the operating system does not let us listen for signals.
    pub(crate) fn note(config: &Config) -> std::io::Result<Self> {
        let mut seen = config.read_from.clone();
        note(&mut seen, &config.broker.auth);
        Ok(Self {
            seen,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Reload {
    pub(crate) fn new(
        broker: Handle,
        file: Option<PathBuf>,
        auth: auth::Config,
        tokens: Tokens,
        in_force: InForce,
        beginning: Beginning,
    ) -> Self {
        Self {
            broker,
            file,
            auth,
            tokens,
            authenticated: false,
            in_force,
            watch: Watch::new(beginning.seen),
            hangup: beginning.hangup,
        }
    }

    /// Watches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> crate::tasks::Result {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = self.hangup.recv() => true,
                () = sleep(PAUSE) => false,
            };
            if asked {
                // The listeners watch their certificates themselves.
                self.broker.reload_certificates();
            }
            let now = look(self.watch.files()).await;
            if self.watch.has_changed(&now) || asked {
                self.read_again(now).await;
            }
        }
    }

    async fn read_again(&mut self, now: Seen) {
        self.authenticated = false;
        let (file, before) = (self.file.clone(), self.auth.clone());
        let read = spawn_blocking(move || match &file {
            Some(file) => again(file),
            None => {
                let mut seen = Seen::new();
                note(&mut seen, &before);
                (seen, Ok(None))
            }
        });
        let (seen, result) = match read.await {
            Ok(read) => read,
            Err(error) => (Seen::new(), Err(error.into())),
        };
        let result = match result {
            Ok(config) => self.put_in_force(config).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.watch.read(seen),
            Err(error) => {
                let what = match self.authenticated {
                    true => "passwords and keys are in force, destinations and rules",
                    false => "passwords, keys, tokens, destinations and rules",
                };
                tracing::error!("{what} stay as they were: {error:#}");
                // To put it right may be to change what was read in vain, or what is in force.
                self.watch.read(now.into_iter().chain(seen).collect());
            }
        }
    }

    /// Puts in force what can be of a configuration; without one, what the files say that
    /// it names.
    async fn put_in_force(&mut self, config: Option<Box<Config>>) -> anyhow::Result<()> {
        let Some(config) = config else {
            return self.authenticate(self.auth.clone()).await;
        };
        let (auth, tokens) = (config.broker.auth.clone(), config.http.tokens);
        let mut differences = self.in_force.fixed.differences(&config.fixed);
        if config.data_dir != self.in_force.data_dir {
            differences.push("data_dir".to_owned());
        }
        if !differences.is_empty() {
            self.authenticate(auth).await?;
            self.take(&tokens);
            tracing::warn!(
                "destinations and rules stay as they were until a restart, because what they \
                 are written for has changed: {}",
                differences.join(", ")
            );
            tracing::info!("passwords and keys were read again and are in force");
            return Ok(());
        }
        let mut changed = self.in_force.fixed.changed_destinations(&config.fixed);
        let of_changed = config.destinations.iter().filter_map(|one| {
            let of = one.lane_of.as_ref()?;
            changed.contains(of).then(|| one.name.clone())
        });
        changed.extend(of_changed.collect::<Vec<_>>());
        let wish = Wish {
            destinations: config.destinations,
            names: config.store.destinations,
            from_kept: config.store.from_kept,
            changed,
            rules: config.rules,
        };
        self.in_force.destinations.check(&wish)?;
        self.authenticate(auth).await?;
        self.take(&tokens);
        self.in_force.destinations.apply(wish).await?;
        self.in_force.fixed = config.fixed;
        tracing::info!("passwords, keys, destinations and rules were read again and are in force");
        Ok(())
    }

    /// Lets in over HTTP who has one of these.
    fn take(&self, tokens: &[Token]) {
        match self.tokens.exchange(tokens) {
            Ok(true) => tracing::info!("tokens were read again and are in force"),
            Ok(false) => {}
            Err(error) => tracing::warn!("tokens stay as they were: {error}"),
        }
    }

    /// Reads the files that clients are known by, and lets in who is known now.
    async fn authenticate(&mut self, auth: auth::Config) -> anyhow::Result<()> {
        let (broker, read) = (self.broker.clone(), auth.clone());
        spawn_blocking(move || broker.reload_auth(read)).await??;
        self.auth = auth;
        self.authenticated = true;
        Ok(())
    }
}

/// Reads the configuration, and says what was read for it.
fn again(file: &Path) -> (Seen, anyhow::Result<Option<Box<Config>>>) {
    match Config::load(Some(file)) {
        Ok(config) => {
            let mut seen = config.read_from.clone();
            note(&mut seen, &config.broker.auth);
            (seen, Ok(Some(Box::new(config))))
        }
        Err(mistakes) => (mistakes.read_from.clone(), Err(mistakes.into())),
    }
}

/// Notes the files that clients are known by, before they are read.
fn note(seen: &mut Seen, auth: &auth::Config) {
    let stamped = |file: &Path| (file.to_path_buf(), Stamp::of(file));
    seen.extend(auth.files().into_iter().map(stamped));
}

async fn look(files: Vec<PathBuf>) -> Seen {
    let look = move || {
        let stamped = |file: PathBuf| (file.clone(), Stamp::of(&file));
        files.into_iter().map(stamped).collect()
    };
    spawn_blocking(look).await.unwrap_or_default()
}
