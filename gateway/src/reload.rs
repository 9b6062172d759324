//! Takes changed passwords, keys and rules over while the gateway runs.
//!
//! At SIGHUP, and when the configuration, a file that clients are known by or one that
//! a rule's pattern is in has changed, all are read again. Only `[auth]`, `[[acl]]` and
//! `[[rule]]` are taken over; the rest of the configuration needs a restart. With a
//! mistake anywhere everything stays as it was, and the log says what is wrong.
//!
//! Rules speak of destinations, and those that run are those of the start. So rules of
//! a configuration with other destinations wait for a restart.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use penstock_broker::{Handle, auth};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, ingest::Ingest, rules::RuleSet, store};

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);

/// What tells one version of a file from another.
type Stamp = Option<(SystemTime, u64, u64)>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Reload {
    broker: Handle,
    /// The configuration file, if there is one.
    file: Option<PathBuf>,
    auth: auth::Config,
    rules: Rules,
}

/// What rules are put in force with.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) store: store::Handle,
    /// The destinations that run, by name.
    pub(crate) destinations: BTreeSet<Arc<str>>,
    /// The files that patterns are in.
    pub(crate) files: Vec<PathBuf>,
}

/// What was read again.
struct Again {
    auth: auth::Config,
    /// The files of the rules, if those are in force.
    files: Option<Vec<PathBuf>>,
}

impl Reload {
    pub(crate) fn new(
        broker: Handle,
        file: Option<PathBuf>,
        auth: auth::Config,
        rules: Rules,
    ) -> Self {
        Self {
            broker,
            file,
            auth,
            rules,
        }
    }

    /// Watches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> crate::tasks::Result {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut seen = stamps(&self.files()).await;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangup.recv() => true,
                () = sleep(PAUSE) => false,
            };
            if asked {
                // The listeners watch their certificates themselves.
                self.broker.reload_certificates();
            }
            let now = stamps(&self.files()).await;
            if now == seen && !asked {
                continue;
            }
            seen = now;
            let known = self.files();
            self.read_again().await;
            if self.files() != known {
                seen = stamps(&self.files()).await;
            }
        }
    }

    async fn read_again(&mut self) {
        let (file, before, broker) = (self.file.clone(), self.auth.clone(), self.broker.clone());
        let (ingest, store) = (self.rules.ingest.clone(), self.rules.store.clone());
        let running = self.rules.destinations.clone();
        let read = spawn_blocking(move || {
            let Some(file) = &file else {
                broker.reload_auth(before.clone())?;
                let auth = before;
                return anyhow::Ok(Again {
                    auth,
                    files: Some(Vec::new()),
                });
            };
            let config = Config::load(Some(file))?;
            let configured = config.destinations.iter().map(|d| d.name.clone());
            let same = configured.collect::<BTreeSet<_>>() == running;
            let id = |name: &str| store.destination_id(name);
            let rules = same.then(|| RuleSet::new(&config.rules, id)).transpose();
            let rules = rules.map_err(|name| anyhow::anyhow!("{name} is no destination"))?;
            broker.reload_auth(config.broker.auth.clone())?;
            match rules {
                Some(rules) => ingest.set_rules(rules),
                None => tracing::warn!(
                    "the rules stay as they were until a restart, because the destinations have changed"
                ),
            }
            Ok(Again {
                auth: config.broker.auth,
                files: same.then_some(config.rule_files),
            })
        });
        match read.await {
            Ok(Ok(again)) => {
                self.auth = again.auth;
                if let Some(files) = again.files {
                    self.rules.files = files;
                    tracing::info!("passwords, keys and rules were read again and are in force");
                } else {
                    tracing::info!("passwords and keys were read again and are in force");
                }
            }
            Ok(Err(error)) => {
                tracing::error!("passwords, keys and rules stay as they were: {error:#}");
            }
            Err(error) => tracing::error!(%error, "passwords, keys and rules stay as they were"),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let of_auth = self.auth.files().into_iter().map(Path::to_path_buf);
        let files = self.file.clone().into_iter().chain(of_auth);
        files.chain(self.rules.files.iter().cloned()).collect()
    }
}

async fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let files = files.to_vec();
    let look = move || {
        let stamp = |file: &PathBuf| {
            let known = fs::metadata(file).ok()?;
            Some((known.modified().ok()?, known.len(), known.ino()))
        };
        files.iter().map(stamp).collect()
    };
    spawn_blocking(look).await.unwrap_or_default()
}
