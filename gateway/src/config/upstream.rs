//! `[[upstream]]`: where commands come from.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{destination::read_tls, reader::Table, to_nats::read_login};
use crate::upstream::{Config, subject_objection};

/// What there can be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Nats,
}

/// Reads all of them. They go by the topic of `[commands] orders`, so there has to be one.
pub(super) fn read(root: &Table<'_, '_, '_>, dir: &Path, has_orders: bool) -> Vec<Config> {
    let Some(tables) = root.tables("upstream") else {
        return Vec::new();
    };
    if !has_orders && !tables.is_empty() {
        let what = "commands from elsewhere take the topic that [commands] orders names; \
                    for example orders = \"orders/{device}\"";
        root.mistake(root.span("upstream").as_ref(), "upstream", what);
    }
    let mut names = BTreeSet::new();
    let mut configs = Vec::new();
    for table in &tables {
        let config = one(table, dir);
        table.finish();
        let Some(config) = config else { continue };
        if !names.insert(config.name.clone()) {
            table.mistake(
                table.span("name").as_ref(),
                "name",
                "another one has this name",
            );
        }
        configs.push(config);
    }
    configs
}

fn one(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Config> {
    let name = table.required("name", "\"cloud\"");
    let Kind::Nats = table.word("type", &[("nats", Kind::Nats)], Kind::Nats);
    let servers = table.texts("servers");
    if servers.as_ref().is_none_or(Vec::is_empty) {
        let what = "is missing or empty; for example servers = [\"nats://127.0.0.1:4222\"]";
        table.mistake(table.span("servers").as_ref(), "servers", what);
    }
    let is_encrypted = servers
        .iter()
        .flatten()
        .any(|server| server.value.starts_with("tls://"));
    let stream = table.required("stream", "\"ORDERS\"");
    let subject = |text: &str| match subject_objection(text) {
        Some(objection) => Err(objection),
        None => Ok(text.to_owned()),
    };
    let subject = table.parsed("subject", subject);
    let consumer = |text: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match !text.is_empty() && text.len() <= 64 && text.chars().all(word) {
            true => Ok(text.to_owned()),
            false => Err("the name of a consumer has 1 to 64 letters, digits, - and _"),
        }
    };
    let consumer = table.parsed("consumer", consumer);
    let login = read_login(table, dir);
    let is_open = is_encrypted || servers.as_ref().is_none_or(Vec::is_empty);
    let tls = read_tls(table, dir, is_open, "tls://");
    Some(Config {
        name: Arc::from(name?.value),
        servers: servers?.into_iter().map(|server| server.value).collect(),
        stream: stream?.value,
        subject: subject.unwrap_or_else(|| "orders.{device}".to_owned()),
        consumer,
        login,
        tls,
    })
}
