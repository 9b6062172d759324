//! `[auth]` and `[[acl]]`: who may connect, and who may do what.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use penstock_broker::{
    QoS,
    acl::{Filter, Pattern, Rule, Rules},
    auth::{
        ClientIds, Config, DeniedPublish,
        certificate::Name,
        hook, lockout,
        token::{self, Algorithm, Key, SECRET_BYTES_MIN},
    },
};

use super::reader::Table;
use crate::forward::Secret;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// More rules than anyone can oversee.
const RULES_MAX: usize = 10_000;

const NAMES: [(&str, Name); 5] = [
    ("common-name", Name::CommonName),
    ("subject", Name::Subject),
    ("dns", Name::Dns),
    ("uri", Name::Uri),
    ("email", Name::Email),
];
const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("HS256", Algorithm::Hs256),
    ("RS256", Algorithm::Rs256),
    ("ES256", Algorithm::Es256),
    ("EdDSA", Algorithm::EdDsa),
];
const DENIED: [(&str, DeniedPublish); 2] = [
    ("disconnect", DeniedPublish::Disconnect),
    ("acknowledge", DeniedPublish::Acknowledge),
];

/// The authentication service, as it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where questions are posted; it may have a password in it.
    pub url: Secret,
    /// From connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Headers of every question.
    pub headers: Vec<(String, Secret)>,
}

/// Reads both; `dir` is what files are relative to.
pub(super) fn read(root: &Table<'_, '_, '_>, dir: &Path) -> (Config, Option<Service>) {
    let table = root.table("auth");
    let default = Config::default();
    let certificate = table.table("certificate");
    let certificate = certificate.is_present().then(|| {
        let name = certificate.word("identity", &NAMES, Name::CommonName);
        certificate.finish();
        name
    });
    let token = read_token(&table.table("token"), dir);
    let (service, hook) = read_service(&table.table("http")).unzip();
    let rules = rules(root);
    let checks_at_once =
        (table.span("checks_at_once").is_some()).then(|| table.number("checks_at_once", 1..=64, 1));
    table.know("checks_at_once");
    let config = Config {
        passwords: table.text("passwords").map(|text| dir.join(text.value)),
        certificate,
        token,
        hook,
        client_ids: table
            .parsed("client_id", ClientIds::parse)
            .unwrap_or(default.client_ids),
        rules: Arc::new(rules),
        denied_publish: table.word("denied_publish", &DENIED, default.denied_publish),
        lockout: lockout::Config {
            failures_max: table.number("failures_max", 1..=1_000, default.lockout.failures_max),
            failures_in_total_max: table.number(
                "failures_in_total_max",
                1..=1_000_000,
                default.lockout.failures_in_total_max,
            ),
            lock: table.duration("lock", SECOND..=24 * HOUR, default.lockout.lock),
        },
        checks_at_once,
        remember: table.duration("remember", SECOND..=24 * HOUR, default.remember),
    };
    complain(root, &table, &config);
    table.finish();
    (config, service)
}

/// What makes no sense together.
fn complain(root: &Table<'_, '_, '_>, table: &Table<'_, '_, '_>, config: &Config) {
    let rules = &config.rules.0;
    if table.is_present() && !config.is_on() {
        let what = "names no way to know a client; for example passwords = \"passwords\", made with \"penstock user add\"";
        table.mistake(None, "", what);
    }
    let others_bring_rules = config.hook.is_some()
        || config
            .token
            .as_ref()
            .is_some_and(|token| token.acl_claim.is_some());
    if config.is_on() && rules.is_empty() && !others_bring_rules {
        let what = "nobody may do anything without an [[acl]] that allows it; for example\n  [[acl]]\n  publish = [\"devices/{user}/#\"]\n  subscribe = [\"commands/{user}/#\"]";
        table.mistake(None, "", what);
    }
    if !config.is_on() && !rules.is_empty() && !rules.iter().any(|rule| rule.anonymous) {
        let what = "clients are not asked who they are, so only rules with anonymous = true are for them; configure [auth], or write such a rule";
        root.mistake(root.span("acl").as_ref(), "acl", what);
    }
}

fn read_token(table: &Table<'_, '_, '_>, dir: &Path) -> Option<token::Config> {
    if !table.is_present() {
        return None;
    }
    let algorithm = table
        .required("algorithm", "\"RS256\"")
        .map(|_| table.word("algorithm", &ALGORITHMS, Algorithm::Rs256));
    let secret = table.text("secret");
    let file = table.text("key_file");
    let key = match (secret, file) {
        (Some(secret), None) => {
            if algorithm.is_some_and(|algorithm| algorithm != Algorithm::Hs256) {
                let what = "is for HS256; other algorithms have a public key, in key_file";
                table.mistake(Some(&secret.span), "secret", what);
            } else if secret.value.len() < SECRET_BYTES_MIN {
                let what = format!(
                    "has {} bytes; HS256 needs at least {SECRET_BYTES_MIN}, such as from \"openssl rand -hex 32\"",
                    secret.value.len()
                );
                table.mistake(Some(&secret.span), "secret", what);
            }
            Some(Key::Secret(secret.value))
        }
        (None, Some(file)) => Some(Key::File(dir.join(file.value))),
        (secret, _) => {
            let what = "one of secret and key_file says what tokens are checked with; for example key_file = \"issuer.pem\"";
            table.mistake(secret.map(|text| text.span).as_ref(), "key_file", what);
            None
        }
    };
    let text = |key| table.text(key).map(|text| text.value);
    let config = token::Config {
        issuer: text("issuer"),
        audience: text("audience"),
        leeway: table.duration("leeway", Duration::ZERO..=HOUR, 30 * SECOND),
        user_claim: text("user_claim").unwrap_or_else(|| "sub".to_owned()),
        device_claim: text("device_claim"),
        acl_claim: text("acl_claim"),
        algorithm: algorithm?,
        key: key?,
    };
    table.finish();
    Some(config)
}

fn read_service(table: &Table<'_, '_, '_>) -> Option<(Service, hook::Config)> {
    if !table.is_present() {
        return None;
    }
    let url = table.required("url", "\"http://127.0.0.1:9000/mqtt\"");
    if !cfg!(feature = "http") {
        let what = "is not in this program; build it with the feature http";
        table.mistake(None, "", what);
    }
    if let Some(url) = &url
        && !url.value.starts_with("http://")
        && !url.value.starts_with("https://")
    {
        let what = format!("{:?} should begin with http:// or https://", url.written);
        table.mistake(Some(&url.span), "url", what);
    }
    let default = hook::Config::default();
    let service = Service {
        timeout: table.duration("timeout", MILLI..=60 * SECOND, 2 * SECOND),
        headers: table
            .pairs("headers")
            .into_iter()
            .map(|(name, text)| (name, text.value.into()))
            .collect(),
        url: url.map_or_else(String::new, |url| url.value).into(),
    };
    let hook = hook::Config {
        in_flight_max: table.number("in_flight_max", 1..=1_000, default.in_flight_max),
        remembered_max: table.number("remembered_max", 0..=1_000_000, default.remembered_max),
    };
    table.finish();
    Some((service, hook))
}

fn rules(root: &Table<'_, '_, '_>) -> Rules {
    let tables = root.tables("acl").unwrap_or_default();
    if tables.len() > RULES_MAX {
        let what = format!("{} rules; there can be {RULES_MAX}", tables.len());
        root.mistake(root.span("acl").as_ref(), "acl", what);
    }
    Rules(tables.iter().map(rule).collect())
}

fn rule(table: &Table<'_, '_, '_>) -> Rule {
    let default = Rule::default();
    let rule = Rule {
        allow: table.boolean("allow", default.allow),
        anonymous: table.boolean("anonymous", default.anonymous),
        users: list(table, "users", Pattern::parse),
        clients: list(table, "clients", Pattern::parse),
        publish: list(table, "publish", Filter::parse),
        subscribe: list(table, "subscribe", Filter::parse),
        qos_max: match table.number("qos_max", 0..=2, 2_u8) {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        retain: table.boolean("retain", default.retain),
    };
    if rule.publish.is_empty()
        && rule.subscribe.is_empty()
        && table.span("publish").is_none()
        && table.span("subscribe").is_none()
    {
        let what = "is about nothing; for example publish = [\"devices/{user}/#\"]";
        table.mistake(None, "", what);
    }
    if rule.anonymous && !rule.users.is_empty() {
        let what = "an anonymous client has no user name; leave one of users and anonymous away";
        table.mistake(table.span("users").as_ref(), "users", what);
    }
    let nameless = |filters: &[Filter]| filters.iter().any(Filter::needs_a_user);
    for (key, filters) in [("publish", &rule.publish), ("subscribe", &rule.subscribe)] {
        if rule.anonymous && nameless(filters) {
            let what = "an anonymous client has neither {user} nor {device}, only {client}";
            table.mistake(table.span(key).as_ref(), key, what);
        }
    }
    if !rule.allow && (table.span("qos_max").is_some() || table.span("retain").is_some()) {
        let what = "qos_max and retain limit what a rule allows; with allow = false there is nothing to limit";
        table.mistake(None, "", what);
    }
    table.finish();
    rule
}

/// A list of texts that `parse` takes.
pub(super) fn list<T, E: std::fmt::Display>(
    table: &Table<'_, '_, '_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    table
        .texts(key)
        .unwrap_or_default()
        .iter()
        .filter_map(|text| table.parse(key, text, &parse))
        .collect()
}

impl Service {
    /// Whether passwords go to it in the clear, over more than this machine.
    pub(crate) fn is_overheard(&self) -> bool {
        is_overheard(self.url.expose(), "http://")
    }
}

/// Whether what goes to an address is in the clear (it begins with `scheme`), over more
/// than this machine.
pub(crate) fn is_overheard(address: &str, scheme: &str) -> bool {
    let Some(rest) = address.strip_prefix(scheme) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    let host = match place.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    let is_loopback = |address: std::net::IpAddr| address.is_loopback();
    !(host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback))
}

/// The files with secrets in them that others can read.
pub(crate) fn too_open(config: &Config) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let secret_key = config.token.as_ref().and_then(|token| match &token.key {
        Key::File(path) if token.algorithm == Algorithm::Hs256 => Some(path),
        _ => None,
    });
    let secret = config.passwords.iter().chain(secret_key);
    secret
        .filter(|path| {
            std::fs::metadata(path).is_ok_and(|known| known.permissions().mode() & 0o077 != 0)
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
