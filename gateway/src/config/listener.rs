//! Where the broker listens: `[broker] listen`, or any number of `[[broker.listener]]`.

use std::{net::SocketAddr, path::Path};

use penstock_broker::listener::{
    Config,
    config::{
        Address, ClientCertificate, Network, ProxyProtocol, Tls, Transport, UnixAddress, WebSocket,
    },
};

use super::reader::{Span, Table, Text};

/// Permissions of a Unix socket: its owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// A listener, and where it was read.
pub(super) struct Listener<'r, 'e, 't> {
    pub(super) config: Config,
    /// Its own table; none for the short form.
    table: Option<Table<'r, 'e, 't>>,
}

impl Listener<'_, '_, '_> {
    fn mistake(&self, broker: &Table<'_, '_, '_>, key: &str, what: String) {
        match &self.table {
            Some(table) => table.mistake(self.span(broker, key).as_ref(), key, what),
            None => broker.mistake(self.span(broker, key).as_ref(), key, what),
        }
    }

    fn span(&self, broker: &Table<'_, '_, '_>, key: &str) -> Option<Span> {
        match &self.table {
            Some(table) => table.span(key),
            None => broker.span(key),
        }
    }
}

/// Reads them; what is wrong with a single one is said at once.
pub(super) fn read<'r, 'e, 't>(
    broker: &Table<'r, 'e, 't>,
    dir: &Path,
) -> Vec<Listener<'r, 'e, 't>> {
    let default = Config::default();
    let Address::Ip(usual) = default.address else {
        unreachable!("a listener is TCP by default");
    };
    let address = broker.address("listen", usual);
    let allow_anonymous = broker.boolean("allow_anonymous", false);
    let short = Listener {
        config: Config {
            allow_anonymous,
            ..Config::tcp(address)
        },
        table: None,
    };
    let Some(tables) = broker.tables("listener") else {
        return vec![short];
    };
    if tables.is_empty() {
        let what = "with no listener nobody could connect; leave the key away for 127.0.0.1:1883";
        broker.mistake(broker.span("listener").as_ref(), "listener", what);
    }
    let mut listeners = Vec::with_capacity(tables.len() + 1);
    if broker.span("listen").is_some() {
        listeners.push(short);
    } else if let Some(span) = broker.span("allow_anonymous") {
        let what = "belongs to listen; say it in each [[broker.listener]] that anyone may use";
        broker.mistake(Some(&span), "allow_anonymous", what);
    }
    listeners.extend(tables.into_iter().filter_map(|table| one(table, dir)));
    listeners
}

fn one<'r, 'e, 't>(table: Table<'r, 'e, 't>, dir: &Path) -> Option<Listener<'r, 'e, 't>> {
    let listen = table.required(
        "listen",
        "\"127.0.0.1:1883\" or \"unix:/run/penstock.sock\"",
    );
    let address = listen
        .as_ref()
        .and_then(|text| table.parse("listen", text, |text| address(text, dir)));
    let name = table.parsed("name", |name| match name {
        "" => Err("a listener has a name; leave the key away for its address"),
        name => Ok(name.to_owned()),
    });
    let mode = table.parsed("mode", |text| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or("permissions are written as three octal digits, such as \"660\"")
    });
    let allow_anonymous = table.boolean("allow_anonymous", false);
    let connections_max = table
        .span("connections_max")
        .is_some()
        .then(|| table.number("connections_max", 1..=1_000_000, 1));
    table.know("connections_max");
    let transport = transport(&table);
    let tls = tls(&table, dir);
    let proxy_protocol = proxy_protocol(&table);
    table.finish();
    let mut address = address?;
    match (&mut address, mode) {
        (Address::Unix(unix), Some(mode)) => unix.mode = mode,
        (Address::Ip(_), Some(_)) => {
            let what = "is for Unix sockets; listen on \"unix:/path\" or leave it away";
            table.mistake(table.span("mode").as_ref(), "mode", what);
        }
        _ => {}
    }
    let config = Config {
        name: name.unwrap_or_else(|| address.to_string()),
        address,
        transport,
        tls: tls?,
        proxy_protocol,
        allow_anonymous,
        connections_max,
    };
    Some(Listener {
        config,
        table: Some(table),
    })
}

fn transport(table: &Table<'_, '_, '_>) -> Transport {
    let is_web = table.word("transport", &[("tcp", false), ("websocket", true)], false);
    let path = table.parsed("path", |path| match path.strip_prefix('/') {
        Some(rest) if !rest.contains(['?', '#', ' ']) => Ok(path.to_owned()),
        _ => Err("the path of a URL begins with a slash and has no \"?\"; for example \"/mqtt\""),
    });
    let origins = table.texts("origins").map(|texts| {
        let parsed = |text| table.parse("origins", text, origin);
        texts.iter().filter_map(parsed).collect()
    });
    if is_web {
        return Transport::WebSocket(WebSocket {
            path: path.unwrap_or_else(|| "/mqtt".to_owned()),
            origins,
        });
    }
    for key in ["path", "origins"] {
        if let Some(span) = table.span(key) {
            let what = "is for WebSockets; say transport = \"websocket\" or leave it away";
            table.mistake(Some(&span), key, what);
        }
    }
    Transport::Tcp
}

fn origin(text: &str) -> Result<String, &'static str> {
    let host = text.split_once("://").map(|(_, host)| host);
    match host {
        Some(host) if !host.is_empty() && !host.contains('/') => Ok(text.to_owned()),
        _ => Err("an origin is a scheme and a host, for example \"https://plant.example\""),
    }
}

/// `None` where something is wrong, so that there is no saying what was meant.
pub(super) fn tls(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Option<Tls>> {
    let tls = table.table("tls");
    if !tls.is_present() {
        return table.span("tls").is_none().then_some(None);
    }
    let file = |text: &Text| dir.join(&text.value);
    let certificate = tls
        .required("certificate", "\"server.pem\"")
        .as_ref()
        .map(file);
    let key = tls.required("key", "\"server.key\"").as_ref().map(file);
    let client_ca = tls.text("client_ca").as_ref().map(file);
    let client_crl = tls.text("client_crl").as_ref().map(file);
    let words = [
        ("none", ClientCertificate::None),
        ("optional", ClientCertificate::Optional),
        ("required", ClientCertificate::Required),
    ];
    // Whoever names an authority wants to be asked for certificates of its.
    let usual = if client_ca.is_some() {
        ClientCertificate::Required
    } else {
        ClientCertificate::None
    };
    let client_certificate = tls.word("client_certificate", &words, usual);
    tls.finish();
    let asks = client_certificate != ClientCertificate::None;
    if asks && client_ca.is_none() {
        let what =
            "client certificates need client_ca, the file of the authorities that they come from";
        tls.mistake(tls.span("client_certificate").as_ref(), "client_ca", what);
    }
    for (key, given) in [("client_ca", &client_ca), ("client_crl", &client_crl)] {
        if !asks && given.is_some() {
            let what =
                "is for client certificates; say client_certificate = \"required\" or \"optional\"";
            tls.mistake(tls.span(key).as_ref(), key, what);
        }
    }
    Some(Some(Tls {
        certificate: certificate?,
        key: key?,
        client_ca,
        client_crl,
        client_certificate,
    }))
}

fn proxy_protocol(table: &Table<'_, '_, '_>) -> Option<ProxyProtocol> {
    let is_on = table.boolean("proxy_protocol", false);
    let trusted = table.texts("proxy_trusted").map(|texts| {
        let network = |text: &str| text.parse::<Network>();
        let parsed = |text| table.parse("proxy_trusted", text, network);
        texts.iter().filter_map(parsed).collect()
    });
    if trusted.is_some() && !is_on {
        let what = "is for a load balancer in front; say proxy_protocol = true or leave it away";
        table.mistake(table.span("proxy_trusted").as_ref(), "proxy_trusted", what);
    }
    is_on.then_some(ProxyProtocol { trusted })
}

fn address(text: &str, dir: &Path) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("a Unix socket has a path, such as \"unix:/run/penstock.sock\"".to_owned()),
        Some(path) => Ok(Address::Unix(UnixAddress {
            path: dir.join(path),
            mode: SOCKET_MODE,
        })),
        None => text.parse().map(Address::Ip).map_err(|_| {
            let port = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let example = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(1883)));
            format!(
                "an address is an IP address and a port, for example \"{example}\", or \"unix:\" and a path"
            )
        }),
    }
}

/// Says what is wrong between listeners, and with the whole: two in one place, or
/// one that lets anyone in from beyond this machine without a word.
pub(super) fn check(
    broker: &Table<'_, '_, '_>,
    listeners: &[Listener<'_, '_, '_>],
    config: &penstock_broker::Config,
) {
    let asks = |listener: &Listener<'_, '_, '_>| {
        let tls = listener.config.tls.as_ref();
        tls.is_some_and(|tls| tls.client_certificate != ClientCertificate::None)
    };
    if config.auth.certificate.is_some() && !listeners.iter().any(asks) {
        let what = "no listener asks for client certificates, as [auth.certificate] needs; give one tls with a client_ca";
        broker.mistake(None, "listener", what);
    }
    for (n, listener) in listeners.iter().enumerate() {
        let before = &listeners[..n];
        let same_place = |other: &Listener<'_, '_, '_>| {
            let fixed = !matches!(&other.config.address, Address::Ip(ip) if ip.port() == 0);
            fixed && other.config.address == listener.config.address
        };
        let same_name = |other: &Listener<'_, '_, '_>| other.config.name == listener.config.name;
        if before.iter().any(same_place) {
            let what = format!("{} has a listener already", listener.config.address);
            listener.mistake(broker, "listen", what);
        } else if before.iter().any(same_name) {
            let what = format!(
                "another listener is named {:?} as well",
                listener.config.name
            );
            listener.mistake(broker, "name", what);
        }
        if !config.may_listen(&listener.config) {
            let address = &listener.config.address;
            let port = match address {
                Address::Ip(address) => address.port(),
                Address::Unix(_) => 0,
            };
            let local = SocketAddr::from(([127, 0, 0, 1], port));
            let what = format!(
                "{address} is beyond this machine, and clients are not asked who they are; \
                 configure [auth], listen on \"{local}\", or set allow_anonymous = true to let anyone in"
            );
            listener.mistake(broker, "listen", what);
        }
    }
}
