//! `penstock check-config`: every mistake at once, before anything listens.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{ConfigFile, output};
use crate::config::auth::too_open;

pub(super) fn run(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    config.broker.auth.check()?;
    for listener in &config.broker.listeners {
        listener
            .check_files()
            .with_context(|| format!("broker.listener {}: tls", listener.name))?;
    }
    for path in too_open(&config.broker.auth) {
        output::line(format_args!(
            "warning: {} can be read by others; chmod 600 keeps it to its owner",
            path.display()
        ));
    }
    let name = file.config.as_ref().map_or_else(
        || "the default configuration".to_owned(),
        |path| path.display().to_string(),
    );
    output::line(format_args!(
        "{name} is fine: MQTT on {}, HTTP on {}, data in {}, {} mappings, destinations: {}",
        config
            .broker
            .listeners
            .iter()
            .map(|listener| listener.name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        config.http.listen,
        config.data_dir.display(),
        config.ingest.mappings.len(),
        config
            .destinations
            .iter()
            .map(|d| &*d.name)
            .collect::<Vec<_>>()
            .join(", ")
    ));
    Ok(ExitCode::SUCCESS)
}
