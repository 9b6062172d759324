//! `penstock run`: the gateway until a signal.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use super::ConfigFile;
use crate::{app::App, running::Running, signal, telemetry};

pub(super) fn run(file: &ConfigFile) -> Result<ExitCode> {
    runtime()?.block_on(async {
        // Before the configuration is read: from then on a signal may ask for it again.
        signal::catch_hangup().context("cannot listen for signals")?;
        let config = file.load()?;
        telemetry::init(&config.log);
        let shutdown = CancellationToken::new();
        let data_dir = config.data_dir.clone();
        let app = App::build(config).await?;
        let running = app.running();
        for listener in &running.note.listeners {
            tracing::info!(listener = listener.name, url = listener.url, "listening");
        }
        tracing::info!(http = %running.note.http, "listening");
        running
            .write(&data_dir)
            .context("cannot write gateway.key and gateway.json")?;
        let watch = tokio::spawn(signal::watch(shutdown.clone()));
        let ended = app.run(shutdown).await;
        watch.abort();
        let removed =
            Running::remove(&data_dir).context("cannot remove gateway.json and gateway.key");
        ended.and(removed)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The runtime of the whole gateway.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
