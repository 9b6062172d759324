//! What encrypts connections that this gateway opens, from files that may change at any
//! time: destinations and remote brokers share it.

#![cfg_attr(
    not(any(
        feature = "http",
        feature = "mqtt",
        feature = "nats",
        feature = "postgres"
    )),
    allow(
        dead_code,
        unused_imports,
        reason = "the client of Kafka reads the files itself"
    )
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Whom to trust, and who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// Certificates (PEM) that the server's must come from; none takes those of the
    /// system.
    pub ca: Option<PathBuf>,
    /// Our own certificate with its chain, and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// Whether nothing is configured, so that the system's certificates are all there is.
    #[cfg(any(feature = "http", feature = "nats", feature = "s3"))]
    pub(crate) const fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    /// All of them.
    #[cfg(feature = "http")]
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let (certificate, key) = self.identity.as_ref().map(|(a, b)| (a, b)).unzip();
        let all = [self.ca.as_ref(), certificate, key];
        all.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files and puts them together, or says which of them cannot be used.
    /// Blocking, for a moment.
    ///
    /// # Errors
    /// With the file and what is wrong with it.
    pub(crate) fn client(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .with_root_certificates(roots(self.ca.as_deref())?);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let key_der = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("key {}: {error}", key.display()))?;
        builder
            .with_client_auth_cert(chain, key_der)
            .map_err(|error| format!("certificate {}: {error}", certificate.display()))
    }
}

/// Says once and for all who encrypts, for clients that ask nobody else.
#[cfg(any(feature = "http", feature = "s3"))]
pub(crate) fn install_provider() {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| {
        // An error means that there is one already, which is as good.
        drop(ring::default_provider().install_default());
    });
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| format!("ca {}: {error}", path.display()))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no certificates to trust; name a file with `ca`".to_owned());
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("certificate {}: {what}", path.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&error))?;
    match found.is_empty() {
        true => Err(wrong(&"there is none in it")),
        false => Ok(found),
    }
}
