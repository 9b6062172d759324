//! The certificates of a listener, and how they are exchanged while it runs.
//!
//! Files are looked at every few seconds and when the operator asks. Changed ones
//! are read once they have kept still, so that a certificate is not taken without
//! its new key; a set that cannot be used changes nothing and is said once.
//! Connections that are there keep what they began with.
//!
//! Where clients have certificates, TLS sessions are not resumed: what a
//! certificate is worth is looked at each time.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{
            CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject,
        },
        server::{NoServerSessionStorage, WebPkiClientVerifier},
    },
    server::TlsStream,
};
use x509_parser::parse_x509_certificate;

use super::config::{ClientCertificate, Tls};
use crate::metrics::Counters;

/// How often files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long before its end a certificate is warned of, and how often.
const WARN_BEFORE_SECS: u64 = 30 * DAY_SECS;
const WARN_EVERY_SECS: u64 = DAY_SECS;
const DAY_SECS: u64 = 86_400;

/// A file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {}: {what}", path.display())]
pub struct Error {
    /// The setting that names it.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// TLS for a server of this process that is none of the broker's listeners. Its files
/// are watched with those of the listeners, see [`Broker::also_watch`](super::Broker::also_watch).
#[derive(Debug, Clone)]
pub struct Acceptor(pub(super) Arc<Certificates>);

impl Acceptor {
    /// Reads the files; `name` is what the log calls them.
    ///
    /// # Errors
    /// For the first that cannot be used.
    pub fn load(name: &str, files: &Tls) -> Result<Self, Error> {
        Ok(Self(Arc::new(Certificates::load(name, files)?)))
    }

    /// The handshake, with the certificate of the moment.
    ///
    /// # Errors
    /// When the client went away, or does not speak TLS as we do.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let server = Arc::clone(&self.0.current().server);
        TlsAcceptor::from(server).accept(stream).await
    }
}

/// What is in force now.
#[derive(Debug)]
pub(super) struct Certificates {
    name: String,
    files: Tls,
    current: RwLock<Arc<Current>>,
}

#[derive(Debug)]
pub(super) struct Current {
    pub(super) server: Arc<ServerConfig>,
    /// When the certificate ends, in seconds since 1970.
    ends: u64,
}

impl Certificates {
    pub(super) fn load(name: &str, files: &Tls) -> Result<Self, Error> {
        Ok(Self {
            name: name.to_owned(),
            files: files.clone(),
            current: RwLock::new(Arc::new(load(files)?)),
        })
    }

    pub(super) fn current(&self) -> Arc<Current> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self) {
        match load(&self.files) {
            Ok(new) => {
                tracing::info!(
                    listener = self.name,
                    days_left = days_until(new.ends),
                    "certificates were read again"
                );
                let current = self.current.write();
                *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
            }
            Err(error) => tracing::error!(
                listener = self.name,
                %error,
                "new certificates cannot be used; the old ones stay in force"
            ),
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = &self.files;
        [
            Some(&files.certificate),
            Some(&files.key),
            files.client_ca.as_ref(),
            files.client_crl.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.paths().map(stamp).collect()
    }
}

/// What tells one content of a file from the next.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

/// Watches the files of all listeners.
#[derive(Debug)]
pub(super) struct Watch {
    all: Vec<Watched>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Watched {
    certificates: Arc<Certificates>,
    /// As they were when they were read last, or tried.
    read: Vec<Option<Stamp>>,
    /// As they were at the last look.
    seen: Vec<Option<Stamp>>,
    warned: Option<u64>,
}

impl Watch {
    pub(super) fn new(all: Vec<Arc<Certificates>>, counters: Arc<Counters>) -> Self {
        let watch = Self {
            all: all.into_iter().map(Watched::new).collect(),
            counters,
        };
        watch.count();
        watch
    }

    /// Watches these too.
    pub(super) fn add(&mut self, certificates: Arc<Certificates>) {
        self.all.push(Watched::new(certificates));
        self.count();
    }

    /// Reads what has changed; at once, or when it has kept still since the last look.
    pub(super) fn look(&mut self, at_once: bool) {
        for watched in &mut self.all {
            let stamps = watched.certificates.stamps();
            let is_still = at_once || stamps == watched.seen;
            if is_still && (at_once || stamps != watched.read) {
                watched.certificates.reload();
                watched.read.clone_from(&stamps);
                watched.warned = None;
            }
            watched.seen = stamps;
            watched.warn();
        }
        self.count();
    }

    fn count(&self) {
        let ends = self.all.iter().map(|one| one.certificates.current().ends);
        self.counters
            .certificate_ends
            .set(usize::try_from(ends.min().unwrap_or(0)).unwrap_or(usize::MAX));
    }
}

impl Watched {
    fn new(certificates: Arc<Certificates>) -> Self {
        let stamps = certificates.stamps();
        Self {
            certificates,
            read: stamps.clone(),
            seen: stamps,
            warned: None,
        }
    }

    fn warn(&mut self) {
        let ends = self.certificates.current().ends;
        let now = UnixTime::now().as_secs();
        let is_near = ends < now + WARN_BEFORE_SECS;
        let is_due = self.warned.is_none_or(|at| at + WARN_EVERY_SECS <= now);
        if is_near && is_due {
            self.warned = Some(now);
            let (listener, days_left) = (&self.certificates.name, days_until(ends));
            if ends < now {
                tracing::error!(%listener, "the certificate has expired; clients will not connect");
            } else {
                tracing::warn!(%listener, days_left, "the certificate is about to expire");
            }
        }
    }
}

fn days_until(ends: u64) -> u64 {
    ends.saturating_sub(UnixTime::now().as_secs()) / DAY_SECS
}

/// Reads a listener's files as they would be used.
pub(super) fn load(files: &Tls) -> Result<Current, Error> {
    let provider = Arc::new(ring::default_provider());
    let certificate = |what| Error {
        key: "certificate",
        path: files.certificate.clone(),
        what,
    };
    let chain = read::<CertificateDer<'static>>("certificate", &files.certificate)?;
    let (_, first) = parse_x509_certificate(&chain[0])
        .map_err(|_| certificate("its first certificate is damaged".to_owned()))?;
    let ends = u64::try_from(first.validity().not_after.timestamp()).unwrap_or(0);
    let key = read_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate(error.to_string()))?;
    let builder = match verifier(files, provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error {
                key: "key",
                path: files.key.clone(),
                what: format!(
                    "does not belong to the certificate in {}",
                    files.certificate.display()
                ),
            },
            error => certificate(error.to_string()),
        })?;
    if files.client_certificate == ClientCertificate::None {
        // A device that comes back after an outage need not do all the work again.
        server.ticketer = ring::Ticketer::new().map_err(|error| certificate(error.to_string()))?;
        server.send_tls13_tickets = 1;
    } else {
        server.send_tls13_tickets = 0;
    }
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Current {
        server: Arc::new(server),
        ends,
    })
}

fn verifier(
    files: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, Error> {
    if files.client_certificate == ClientCertificate::None {
        return Ok(None);
    }
    let Some(path) = &files.client_ca else {
        return Err(Error {
            key: "client_ca",
            path: PathBuf::new(),
            what: "is missing; it names the authorities that clients' certificates come from"
                .to_owned(),
        });
    };
    let ca = |what| Error {
        key: "client_ca",
        path: path.clone(),
        what,
    };
    let mut roots = RootCertStore::empty();
    for certificate in read::<CertificateDer<'static>>("client_ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| ca(error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(path) = &files.client_crl {
        let lists = read::<CertificateRevocationListDer<'static>>("client_crl", path)?;
        builder = builder.with_crls(lists).only_check_end_entity_revocation();
    }
    if files.client_certificate == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| match &files.client_crl {
        Some(path) => Error {
            key: "client_crl",
            path: path.clone(),
            what: error.to_string(),
        },
        None => ca(error.to_string()),
    })?;
    Ok(Some(verifier))
}

/// Every item of a kind in a PEM file; at least one.
fn read<T: PemObject>(key: &'static str, path: &Path) -> Result<Vec<T>, Error> {
    let wrong = |what: String| Error {
        key,
        path: path.to_path_buf(),
        what,
    };
    let text = fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let items = T::pem_slice_iter(&text).collect::<Result<Vec<T>, _>>();
    let items = items.map_err(|error| wrong(format!("is not PEM: {error}")))?;
    if items.is_empty() {
        let kind = if key == "client_crl" {
            "revocation list, \"-----BEGIN X509 CRL-----\""
        } else {
            "certificate, \"-----BEGIN CERTIFICATE-----\""
        };
        return Err(wrong(format!("has no {kind}")));
    }
    Ok(items)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let wrong = |what: String| Error {
        key: "key",
        path: path.to_path_buf(),
        what,
    };
    let text = fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        wrong(
            "has no private key that is not encrypted, \"-----BEGIN PRIVATE KEY-----\"".to_owned(),
        )
    })
}
