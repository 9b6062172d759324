//! Encryption, and who we are.

use std::path::PathBuf;

use krafka::auth::{AuthConfig, TlsConfig};

use crate::forward::Secret;

/// Encryption with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of who may sign the brokers'; the machine's own where it is not given.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// User and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// How they are shown.
    pub mechanism: Mechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// How user and password are shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// As they are.
    Plain,
    /// Without showing the password, with SHA-256.
    ScramSha256,
    /// Without showing the password, with SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("plain", Self::Plain),
        ("scram-sha-256", Self::ScramSha256),
        ("scram-sha-512", Self::ScramSha512),
    ];
}

/// The same in the client's words; nothing where there is neither.
pub(crate) fn of(tls: Option<&Tls>, login: Option<&Login>) -> Option<AuthConfig> {
    let tls = tls.map(of_tls);
    let Some(login) = login else {
        return tls.map(AuthConfig::ssl);
    };
    let (user, password) = (login.user.as_str(), login.password.expose());
    let login = match login.mechanism {
        Mechanism::Plain => AuthConfig::sasl_plain(user, password),
        Mechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
        Mechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
    };
    Some(match tls {
        Some(tls) => login.with_tls(tls),
        None => login,
    })
}

fn of_tls(tls: &Tls) -> TlsConfig {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let of = match &tls.ca {
        Some(ca) => TlsConfig::new().with_ca_cert(text(ca)),
        None => TlsConfig::new().with_native_roots(),
    };
    match &tls.identity {
        Some((certificate, key)) => of.with_client_cert(text(certificate), text(key)),
        None => of,
    }
}
