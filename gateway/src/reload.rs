//! Takes changed passwords, keys and rules over while the gateway runs.
//!
//! At SIGHUP, and when the configuration, a file that clients are known by or one that
//! a rule's pattern is in has changed, all are read again. Only `[auth]`, `[[acl]]` and
//! `[[rule]]` are taken over; the rest of the configuration needs a restart. With a
//! mistake anywhere everything stays as it was, and the log says what is wrong.
//!
//! Rules speak of destinations, and of events as the mappings make them, and those that
//! run are those of the start. So rules of a configuration in which these are others wait
//! for a restart.

mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
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
    rulebook::Rulebook,
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
    rules: Rules,
    watch: Watch,
    hangup: Signal,
}

/// What rules are put in force with.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) rulebook: Arc<Rulebook>,
    /// What rules must be written for: what runs.
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

/// What came of reading again.
struct Again {
    /// What is in force now, or why everything stays as it was.
    result: anyhow::Result<auth::Config>,
    /// What was read for it.
    seen: Seen,
}

impl Reload {
    pub(crate) fn new(
        broker: Handle,
        file: Option<PathBuf>,
        auth: auth::Config,
        rules: Rules,
        beginning: Beginning,
    ) -> Self {
        Self {
            broker,
            file,
            auth,
            rules,
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
        let (file, before) = (self.file.clone(), self.auth.clone());
        let (broker, rules) = (self.broker.clone(), self.rules.clone());
        let read = spawn_blocking(move || match &file {
            Some(file) => again(file, &broker, &rules),
            None => {
                let mut seen = Seen::new();
                note(&mut seen, &before);
                let result = broker.reload_auth(before.clone());
                let result = result.map(|()| before).map_err(Into::into);
                Again { result, seen }
            }
        });
        match read.await {
            Ok(Again {
                result: Ok(auth),
                seen,
            }) => {
                self.auth = auth;
                self.watch.read(seen);
            }
            Ok(Again {
                result: Err(error),
                seen,
            }) => {
                tracing::error!("passwords, keys and rules stay as they were: {error:#}");
                // To put it right may be to change what was read in vain, or what is in force.
                self.watch.read(now.into_iter().chain(seen).collect());
            }
            Err(error) => tracing::error!(%error, "passwords, keys and rules stay as they were"),
        }
    }
}

/// Reads the configuration and puts in force what can be.
fn again(file: &Path, broker: &Handle, rules: &Rules) -> Again {
    let config = match Config::load(Some(file)) {
        Ok(config) => config,
        Err(mistakes) => {
            return Again {
                seen: mistakes.read_from.clone(),
                result: Err(mistakes.into()),
            };
        }
    };
    let mut seen = config.read_from.clone();
    note(&mut seen, &config.broker.auth);
    Again {
        result: put_in_force(config, broker, rules),
        seen,
    }
}

fn put_in_force(config: Config, broker: &Handle, rules: &Rules) -> anyhow::Result<auth::Config> {
    let differences = rules.fixed.differences(&config.fixed);
    if !differences.is_empty() {
        broker.reload_auth(config.broker.auth.clone())?;
        tracing::warn!(
            "the rules stay as they were until a restart, because what they are written for \
             has changed: {}",
            differences.join(", ")
        );
        tracing::info!("passwords and keys were read again and are in force");
        return Ok(config.broker.auth);
    }
    broker.reload_auth(config.broker.auth.clone())?;
    rules.rulebook.set_of_file(config.rules)?;
    tracing::info!("passwords, keys and rules were read again and are in force");
    Ok(config.broker.auth)
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
