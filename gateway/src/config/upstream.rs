//! `[[upstream]]`: where commands come from.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::reader::Table;
use crate::upstream::{Config, Source};

/// What there can be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Nats,
    Kafka,
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
    let kinds = [("nats", Kind::Nats), ("kafka", Kind::Kafka)];
    let source = match table.word("type", &kinds, Kind::Nats) {
        Kind::Nats => nats(table, dir),
        Kind::Kafka => kafka(table, dir),
    };
    Some(Config {
        name: Arc::from(name?.value),
        source: source?,
    })
}

/// The name under which a stream knows what was taken.
fn ours(text: &str) -> Result<String, &'static str> {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match !text.is_empty() && text.len() <= 64 && text.chars().all(word) {
        true => Ok(text.to_owned()),
        false => Err("the name of a consumer has 1 to 64 letters, digits, - and _"),
    }
}

#[cfg(feature = "nats")]
fn nats(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Source> {
    use super::{destination::read_tls, to_nats::read_login};
    use crate::upstream::nats::{Config, subject_objection};

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
    let consumer = table.parsed("consumer", ours);
    let login = read_login(table, dir);
    let is_open = is_encrypted || servers.as_ref().is_none_or(Vec::is_empty);
    let tls = read_tls(table, dir, is_open, "tls://");
    Some(Source::Nats(Box::new(Config {
        servers: servers?.into_iter().map(|server| server.value).collect(),
        stream: stream?.value,
        subject: subject.unwrap_or_else(|| "orders.{device}".to_owned()),
        consumer,
        login,
        tls,
    })))
}

#[cfg(not(feature = "nats"))]
fn nats(table: &Table<'_, '_, '_>, _: &Path) -> Option<Source> {
    not_built_in(table, "nats")
}

#[cfg(feature = "kafka")]
fn kafka(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Source> {
    use super::kafka::{read_brokers, read_login, read_tls, topic_name};
    use crate::upstream::kafka::Config;

    let brokers = read_brokers(table);
    let topic = table.required("topic", "\"orders\"");
    let topic = topic.and_then(|text| table.parse("topic", &text, topic_name));
    let group = table.parsed("group", ours);
    let (tls, login) = (read_tls(table, dir), read_login(table));
    Some(Source::Kafka(Box::new(Config {
        brokers,
        topic: topic?,
        group,
        tls,
        login,
    })))
}

#[cfg(not(feature = "kafka"))]
fn kafka(table: &Table<'_, '_, '_>, _: &Path) -> Option<Source> {
    not_built_in(table, "kafka")
}

#[cfg(not(all(feature = "kafka", feature = "nats")))]
fn not_built_in(table: &Table<'_, '_, '_>, feature: &str) -> Option<Source> {
    table.know_all();
    let what = format!("{feature:?} is not in this program; build it with the feature {feature}");
    table.mistake(table.span("type").as_ref(), "type", what);
    None
}

#[cfg(all(test, feature = "kafka", feature = "nats"))]
mod tests {
    use std::path::Path;

    use crate::{config::Config, upstream::Source};

    fn read(upstream: &str) -> Result<Config, String> {
        let text = format!("[commands]\norders = \"orders/{{device}}\"\n[[upstream]]\n{upstream}");
        Config::from_text(&text, Path::new(""), &|_| None).map_err(|all| all.to_string())
    }

    #[test]
    fn commands_come_from_a_stream_or_a_topic_and_mistakes_have_line_and_key() {
        let fine = "name = \"a\"\ntype = \"kafka\"\nbrokers = [\"k:9092\"]\ntopic = \"orders\"";
        let config = read(fine).unwrap();
        let Source::Kafka(kafka) = &config.upstreams[0].source else {
            panic!("{:?}", config.upstreams);
        };
        assert_eq!((&*kafka.topic, &kafka.group), ("orders", &None));
        let fine = "name = \"a\"\nservers = [\"nats://n:4222\"]\nstream = \"ORDERS\"";
        assert!(matches!(
            read(fine).unwrap().upstreams[0].source,
            Source::Nats(_)
        ));
        for (wrong, said) in [
            (
                "name = \"a\"\ntype = \"kafka\"",
                "upstream[1].brokers: is missing or empty",
            ),
            (
                "name = \"a\"\ntype = \"kafka\"\nbrokers = [\"k\"]\ntopic = \"o\"",
                ":6: upstream[1].brokers: \"k\": a broker is a host and a port",
            ),
            (
                "name = \"a\"\ntype = \"kafka\"\nbrokers = [\"k:1\"]\ntopic = \"o\"\nstream = \"s\"",
                ":8: upstream[1].stream: is not a key",
            ),
            (
                "name = \"a\"\ntype = \"kafka\"\nbrokers = [\"k:1\"]\ntopic = \"o\"\ngroup = \"a b\"",
                "upstream[1].group: \"a b\": the name of a consumer",
            ),
            (
                "name = \"a\"\ntype = \"redis\"",
                "upstream[1].type: \"redis\": should be one of",
            ),
        ] {
            let mistakes = read(wrong).unwrap_err();
            assert!(mistakes.contains(said), "{wrong}: {mistakes}");
        }
    }
}
