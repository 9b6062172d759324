//! `penstock check-config`: every mistake at once, before anything listens.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use penstock_broker::{acl::Filter, auth::ClientIds};

use super::{ConfigFile, output};
use crate::{
    class::Classes,
    config::{
        Config,
        auth::{Service, too_open},
    },
    encryption::{self, Problem},
    normalise::mapping::Device,
    rulebook,
    rules::unknown_fields,
};

pub(super) fn run(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    config.broker.auth.check()?;
    let credential = credential(&config)?;
    for listener in &config.broker.listeners {
        listener
            .check_files()
            .with_context(|| format!("broker.listener {}: tls", listener.name))?;
    }
    config.http.check_files().context("http.tls")?;
    for warning in warnings(&config).into_iter().chain(credential) {
        output::line(format_args!("warning: {warning}"));
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

/// Reads the keys. Credentials are there for the service alone: that one cannot be checked
/// here is no mistake.
fn credential(config: &Config) -> Result<Option<String>> {
    match config.encryption.seal() {
        Err(error @ encryption::Error::Source(_, Problem::NoCredentials)) => {
            Ok(Some(format!("not checked: {error}")))
        }
        _ => config.seal().map(|_| None),
    }
}

/// What works, and is probably not what the operator wants.
fn warnings(config: &Config) -> Vec<String> {
    let auth = &config.broker.auth;
    let mut warnings: Vec<String> = too_open(auth)
        .iter()
        .map(|path| {
            format!(
                "{} can be read by others; chmod 600 keeps it to its owner",
                path.display()
            )
        })
        .collect();
    if config
        .auth_service
        .as_ref()
        .is_some_and(Service::is_overheard)
    {
        let what = "auth.http.url: passwords go to another machine in the clear; use https://";
        warnings.push(what.to_owned());
    }
    for rule in &config.rules {
        for field in unknown_fields(&rule.pattern) {
            warnings.push(format!(
                "rule {} asks for {field:?}, which no event has; docs/rules.md shows what they have",
                rule.name
            ));
        }
    }
    warnings.extend(config.destination_warnings());
    // Without those that were put nobody knows what no rule says.
    if let Ok(put) = rulebook::put_in(&config.data_dir, config) {
        let said = config
            .rules
            .iter()
            .chain(&put)
            .filter_map(|rule| rule.class);
        warnings.extend(config.class_warnings(said.fold(Classes::NONE, Classes::with)));
    }
    #[cfg(feature = "mqtt")]
    warnings.extend(config.bridge_warnings());
    if !auth.is_on() || auth.client_ids != ClientIds::Any {
        return warnings;
    }
    let freely = "with client_id = \"any\" a client may call itself as it likes; use {user}, or client_id = \"user\"";
    for (n, mapping) in config.ingest.mappings.iter().enumerate() {
        if matches!(&mapping.device, Device::Text(text) if text.names_client() && !text.names_user())
        {
            let what = "takes the device's name from {client}, and";
            warnings.push(format!("mapping {} {what} {freely}", n + 1));
        }
    }
    for (n, rule) in auth.rules.0.iter().enumerate() {
        let filters = || rule.publish.iter().chain(&rule.subscribe);
        // Those who say nothing of themselves have no other name.
        if rule.allow && !rule.anonymous && filters().any(Filter::names_client) {
            warnings.push(format!(
                "acl {} allows topics by {{client}}, and {freely}",
                n + 1
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_pattern_that_asks_for_what_no_event_has_is_complained_of() {
        let said = |pattern: &str| {
            let text = format!(
                "[[rule]]\nname = \"hot\"\npattern = '{pattern}'\ndestinations = [\"events\"]\n"
            );
            let config = Config::from_text(&text, Path::new("/nowhere"), &|_| None).unwrap();
            warnings(&config)
        };
        let many = r#"{"device":["b7"],"data.m":{"n":["t"]},"values":{"t":[1]},"mqtttopic":["x"]}"#;
        assert_eq!(said(many), [""; 0]);
        let said = said(r#"{"$or":[{"devcie":["b7"]},{"type":["x"]}],"value":{"t":[1]}}"#);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("rule hot asks for \"devcie\", which no event has"),
            "{said:?}"
        );
    }

    #[test]
    fn a_rule_by_client_identifiers_that_anybody_may_take_is_complained_of() {
        let said = |client_id: &str, rule: &str| {
            let text = format!(
                "[auth]\npasswords = \"p\"\nclient_id = \"{client_id}\"\n[[acl]]\n{rule}\n"
            );
            let config = Config::from_text(&text, Path::new("/nowhere"), &|_| None).unwrap();
            let warnings = warnings(&config);
            warnings
                .iter()
                .any(|one| one.starts_with("acl 1 allows topics by {client}"))
        };
        assert!(said("any", "publish = [\"a/{client}/#\"]"));
        assert!(said("any", "subscribe = [\"a/{client}/#\"]"));
        assert!(!said("user", "publish = [\"a/{client}/#\"]"));
        assert!(!said("any", "publish = [\"a/{user}/#\"]"));
        assert!(!said(
            "any",
            "anonymous = true\npublish = [\"a/{client}/#\"]"
        ));
        assert!(!said("any", "allow = false\npublish = [\"a/{client}/#\"]"));
    }
}
