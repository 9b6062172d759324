//! `penstock check-config`: every mistake at once, before anything listens.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use penstock_broker::auth::ClientIds;

use super::{ConfigFile, output};
use crate::{config::auth::too_open, normalise::mapping::Device};

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
    let nameless = config.ingest.mappings.iter().position(|mapping| {
        matches!(&mapping.device, Device::Text(text) if text.names_client() && !text.names_user())
    });
    let auth = &config.broker.auth;
    if let Some(n) = nameless
        && auth.is_on()
        && auth.client_ids == ClientIds::Any
    {
        output::line(format_args!(
            "warning: mapping {} takes the device's name from {{client}}, and with client_id = \"any\" \
             a client may call itself as it likes; use {{user}}, or client_id = \"user\"",
            n + 1
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
