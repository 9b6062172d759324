//! Takes changed passwords, keys and rules over while the gateway runs.
//!
//! At SIGHUP, and when the configuration or a file that clients are known by has
//! changed, both are read again. Only `[auth]` and `[[acl]]` are taken over; the rest
//! of the configuration needs a restart. With a mistake anywhere everything stays as
//! it was, and the log says what is wrong.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use penstock_broker::{Handle, auth};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

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
}

impl Reload {
    pub(crate) fn new(broker: Handle, file: Option<PathBuf>, auth: auth::Config) -> Self {
        Self { broker, file, auth }
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
        let read = spawn_blocking(move || {
            let auth = match &file {
                Some(file) => Config::load(Some(file))?.broker.auth,
                None => before,
            };
            broker.reload_auth(auth.clone())?;
            anyhow::Ok(auth)
        });
        match read.await {
            Ok(Ok(auth)) => {
                self.auth = auth;
                tracing::info!("passwords, keys and rules were read again and are in force");
            }
            Ok(Err(error)) => {
                tracing::error!("passwords, keys and rules stay as they were: {error:#}");
            }
            Err(error) => tracing::error!(%error, "passwords, keys and rules stay as they were"),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let of_auth = self.auth.files().into_iter().map(Path::to_path_buf);
        self.file.clone().into_iter().chain(of_auth).collect()
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
