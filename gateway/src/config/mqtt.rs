//! What reaches another MQTT broker: the keys of `[[destination]]` with
//! `type = "mqtt"`, and `[[remote]]`.

use std::{path::Path, sync::Arc, time::Duration};

use super::reader::Table;
use crate::{
    forward::{Kind, mqtt as destination},
    mqtt::{Server, Tls, Version, topic},
    remote,
};

const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const PACKET_BYTES_MAX: u64 = crate::mqtt::link::PACKET_BYTES_MAX as u64;

/// Reads a destination. Files are relative to `dir`.
pub(super) fn read_destination(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    let server = read_server(table, dir);
    let default = destination::Config::new(Server::new("", 0));
    let topic = table.text("topic");
    if let Some(text) = &topic {
        table.parse("topic", text, topic::Template::parse);
    }
    let config = destination::Config {
        topic: topic.map_or(default.topic, |text| text.value),
        payload: table.word("payload", &destination::Payload::WORDS, default.payload),
        dictionary: super::destination::dictionary(table, dir),
        in_flight: table.number("in_flight", 1..=65_535, default.in_flight),
        packet_bytes_max: packet_bytes(table, default.packet_bytes_max),
        gateway: None,
        server: server?,
    };
    if config.dictionary.is_some() && config.payload == destination::Payload::Original {
        let what = "is for events; with payload = \"original\" messages go as they came";
        table.mistake(table.span("dictionary").as_ref(), "dictionary", what);
    }
    Some(Kind::Mqtt(config))
}

/// Reads `[[remote]]`, and compares it with the destinations: what goes out must
/// not come back.
pub(super) fn read_remotes(
    root: &Table<'_, '_, '_>,
    dir: &Path,
    destinations: &[crate::forward::Config],
) -> Vec<remote::Config> {
    let mut remotes: Vec<remote::Config> = Vec::new();
    for table in root.tables("remote").unwrap_or_default() {
        let Some(remote) = read_remote(&table, dir) else {
            continue;
        };
        if remotes.iter().any(|other| other.name == remote.name) {
            let what = format!("there is another remote named {:?}", &*remote.name);
            table.mistake(table.span("name").as_ref(), "name", what);
        }
        if let Some(named) = &remote.destination {
            let is_named = |one: &&crate::forward::Config| one.name == *named;
            let found = destinations.iter().find(is_named);
            if !found.is_some_and(|one| matches!(one.kind, Kind::Mqtt(_))) {
                let what = format!(
                    "{:?}: there is no destination of type mqtt with this name",
                    &**named
                );
                table.mistake(table.span("destination").as_ref(), "destination", what);
            }
        }
        past(&table, &remote, destinations);
        circles(&table, &remote, destinations);
        remotes.push(remote);
    }
    thieves(root, destinations, &remotes);
    remotes
}

/// What came from here is not known of events that are stored, and must not go back.
fn past(
    table: &Table<'_, '_, '_>,
    remote: &remote::Config,
    destinations: &[crate::forward::Config],
) {
    for destination in destinations {
        if let Kind::Mqtt(config) = &destination.kind
            && destination.start != crate::forward::Start::Now
            && remote.is_same(&destination.name, &config.server)
        {
            let what = format!(
                "the destination {:?} is the same broker and begins with what is kept, which \
                 may have come from here; it should have start = \"now\"",
                &*destination.name
            );
            table.mistake(table.span("server").as_ref(), "server", what);
        }
    }
}

/// Two connections with one client identifier throw each other out, for ever.
fn thieves(
    root: &Table<'_, '_, '_>,
    destinations: &[crate::forward::Config],
    remotes: &[remote::Config],
) {
    let of_destinations = destinations.iter().filter_map(|one| match &one.kind {
        Kind::Mqtt(config) => Some(("destination", &one.name, &config.server)),
        _ => None,
    });
    let of_remotes = remotes.iter().map(|one| ("remote", &one.name, &one.server));
    let all: Vec<_> = of_destinations.chain(of_remotes).collect();
    for (n, (kind, name, server)) in all.iter().enumerate() {
        let Some(id) = &server.client_id else {
            continue;
        };
        let same = |(_, _, other): &&(_, _, &Server)| {
            other.is_same(server) && other.client_id.as_ref() == Some(id)
        };
        if let Some((other_kind, other_name, _)) = all[..n].iter().find(same) {
            let what = format!(
                "{kind} {name:?} and {other_kind} {other_name:?} would throw each other out: both are {id:?} at the same broker; give one of them another client_id"
            );
            root.mistake(root.span(kind).as_ref(), kind, what);
        }
    }
}

fn read_remote(table: &Table<'_, '_, '_>, dir: &Path) -> Option<remote::Config> {
    let name = table.required("name", "\"cloud\"");
    if let Some(name) = &name {
        table.parse("name", name, super::destination::check_name);
    }
    let server = read_server(table, dir);
    let default = remote::Config::new("", Server::new("", 0));
    let tables = table.tables("subscribe").unwrap_or_default();
    if tables.is_empty() {
        let what = "is missing; for example [[remote.subscribe]] with filter = \"commands/#\"";
        table.mistake(table.span("subscribe").as_ref(), "subscribe", what);
    }
    let subscriptions: Vec<_> = tables.iter().filter_map(read_subscription).collect();
    let session_expiry = table.duration(
        "session_expiry",
        Duration::from_secs(1)..=365 * DAY,
        default.session_expiry,
    );
    let in_flight = table.number("in_flight", 1..=65_535, default.in_flight);
    let packet_bytes_max = packet_bytes(table, default.packet_bytes_max);
    let destination = table.text("destination").map(|text| Arc::from(text.value));
    table.finish();
    Some(remote::Config {
        destination,
        name: Arc::from(name?.value),
        session_expiry,
        in_flight,
        packet_bytes_max,
        subscriptions,
        gateway: None,
        server: server?,
    })
}

fn read_subscription(table: &Table<'_, '_, '_>) -> Option<remote::Subscription> {
    let filter = table.required("filter", "\"commands/#\"");
    let qos = table.number("qos", 0..=1, 1_u8);
    let remote_prefix = table.text("remote_prefix");
    let local_prefix = table.text("local_prefix").map_or_else(String::new, |text| {
        table.parse("local_prefix", &text, check_prefix);
        text.value
    });
    let journal = table.boolean("journal", false);
    table.finish();
    let filter = filter?;
    table.parse("filter", &filter, topic::check_filter);
    if let Some(prefix) = &remote_prefix
        && !topic::unshared(&filter.value).starts_with(&prefix.value)
    {
        let what = format!("{:?}: the filter does not begin with it", prefix.written);
        table.mistake(Some(&prefix.span), "remote_prefix", what);
    }
    let remote_prefix = remote_prefix.map_or_else(String::new, |text| text.value);
    let rest = topic::unshared(&filter.value).strip_prefix(&remote_prefix);
    if local_prefix.is_empty() && rest.is_some_and(|rest| rest.starts_with('$')) {
        let what = format!(
            "{:?}: topics that begin with \"$\" are the gateway's own here; give a local_prefix, for example \"cloud/\", or a remote_prefix that takes the \"$\" away",
            filter.written
        );
        table.mistake(Some(&filter.span), "filter", what);
    }
    Some(remote::Subscription {
        filter: filter.value,
        qos,
        remote_prefix,
        local_prefix,
        journal,
    })
}

fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    match prefix {
        _ if prefix.contains(['+', '#', '\0']) => Err("a prefix of topics has no wildcards"),
        _ if prefix.starts_with('$') => Err("topics that begin with \"$\" are the gateway's own"),
        _ => Ok(()),
    }
}

/// In MQTT 3.1.1 nothing marks a message as ours, so topics must tell.
fn circles(
    table: &Table<'_, '_, '_>,
    remote: &remote::Config,
    destinations: &[crate::forward::Config],
) {
    for destination in destinations {
        let Kind::Mqtt(config) = &destination.kind else {
            continue;
        };
        let unmarked = [&config.server, &remote.server]
            .iter()
            .any(|server| server.version == Version::V4);
        if !unmarked || !remote.is_same(&destination.name, &config.server) {
            continue;
        }
        let pattern = config.pattern().unwrap_or_default();
        let mut filters = remote.subscriptions.iter().map(|one| &one.filter);
        if let Some(filter) = filters.find(|filter| topic::overlaps(&pattern, filter)) {
            let what = format!(
                "{filter:?} also takes what destination {:?} publishes there ({pattern:?}), and MQTT 3.1.1 cannot tell them apart; use other topics, or version = \"5\" for both",
                &*destination.name
            );
            table.mistake(table.span("subscribe").as_ref(), "subscribe", what);
        }
    }
}

/// What works, and is probably not what is wanted.
pub(super) fn warnings(
    remotes: &[remote::Config],
    destinations: &[crate::forward::Config],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for remote in remotes {
        for (n, one) in remote.subscriptions.iter().enumerate() {
            let mut before = remote.subscriptions[..n].iter();
            let overlaps =
                |other: &&remote::Subscription| topic::overlaps(&one.filter, &other.filter);
            if let Some(other) = before.find(overlaps) {
                warnings.push(format!(
                    "remote {:?}: filters {:?} and {:?} take the same topics, and a broker may send such a message once for each of them",
                    &*remote.name, other.filter, one.filter
                ));
            }
        }
        for destination in destinations {
            let Kind::Mqtt(config) = &destination.kind else {
                continue;
            };
            let same_host = config.server.is_same_host(&remote.server);
            if same_host && !remote.is_same(&destination.name, &config.server) {
                warnings.push(format!(
                    "remote {:?} and destination {:?} are on one host: if that is one broker, say destination = {:?} in [[remote]], or messages go back to it",
                    &*remote.name, &*destination.name, &*destination.name
                ));
            }
        }
    }
    warnings
}

/// The keys that say how to reach a broker.
fn read_server(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Server> {
    let address = table
        .required("server", "\"mqtts://broker.example:8883\"")
        .and_then(|text| table.parse("server", &text, parse_address));
    let default = Server::new("", 0);
    let path = |key| table.text(key).map(|text| dir.join(text.value));
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    let alpn = table.texts("alpn");
    for (missing, other) in [("certificate", "key"), ("key", "certificate")] {
        if table.span(missing).is_none() && table.span(other).is_some() {
            let what = format!("certificate and key go together; {missing} is missing");
            table.mistake(table.span(other).as_ref(), other, what);
        }
    }
    let is_encrypted = address.as_ref().is_none_or(|address| address.encrypted);
    for name in ["ca", "certificate", "key", "alpn"] {
        if !is_encrypted && table.span(name).is_some() {
            let what = "is for TLS; the server's address should begin with mqtts://";
            table.mistake(table.span(name).as_ref(), name, what);
        }
    }
    let versions = [("5", Version::V5), ("3.1.1", Version::V4)];
    let version = table.word("version", &versions, default.version);
    let client_id = table.parsed("client_id", |id| match id.len() {
        1..=65_535 => Ok(id.to_owned()),
        _ => Err("a client identifier is not empty; leave the key away for the gateway's own"),
    });
    let user = table.text("user").map(|text| text.value);
    let password = table.text("password").map(|text| text.value.into());
    if password.is_some() && user.is_none() {
        let what = "a password goes with a user, which is missing";
        table.mistake(table.span("password").as_ref(), "password", what);
    }
    // The library takes no shorter keep-alive than 5 seconds, the protocol no longer one.
    let keep_alive = table.duration(
        "keep_alive",
        Duration::from_secs(5)..=Duration::from_secs(65_535),
        default.keep_alive,
    );
    let timeout = table.duration(
        "timeout",
        Duration::from_millis(100)..=Duration::from_secs(3_600),
        default.timeout,
    );
    let address = address?;
    Some(Server {
        host: address.host,
        port: address.port,
        tls: address.encrypted.then(|| Tls {
            ca,
            identity: certificate.zip(key),
            alpn: alpn.into_iter().flatten().map(|text| text.value).collect(),
        }),
        version,
        client_id,
        user,
        password,
        keep_alive,
        timeout,
    })
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether TLS is spoken there.
    pub(crate) encrypted: bool,
    /// A name or an IP address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

/// Reads `mqtt://HOST:PORT` or `mqtts://HOST:PORT`.
pub(crate) fn parse_address(text: &str) -> Result<Address, &'static str> {
    const SHAPE: &str = "an address begins with mqtt:// or mqtts://, then comes a host and perhaps a port; for example \"mqtts://broker.example:8883\"";
    let (encrypted, rest) = match text.split_once("://") {
        Some(("mqtt", rest)) => (false, rest),
        Some(("mqtts", rest)) => (true, rest),
        _ => return Err(SHAPE),
    };
    let otherwise = if encrypted { 8883 } else { 1883 };
    let (host, port) = match rest.strip_prefix('[') {
        // IPv6 in brackets, as in a URL.
        Some(rest) => rest.split_once(']').ok_or(SHAPE)?,
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| SHAPE)?,
        None if port.is_empty() => otherwise,
        None => return Err(SHAPE),
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) || port == 0 {
        return Err(SHAPE);
    }
    Ok(Address {
        encrypted,
        host: host.to_owned(),
        port,
    })
}

fn packet_bytes(table: &Table<'_, '_, '_>, default: u32) -> u32 {
    let size = table.size("packet_bytes_max", KIB..=PACKET_BYTES_MAX, default.into());
    u32::try_from(size).unwrap_or(default)
}

#[cfg(test)]
mod tests;
