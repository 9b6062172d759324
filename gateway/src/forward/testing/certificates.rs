//! Certificates of one authority, as files.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::tls::Files;

/// An authority and what it has issued, in a directory of its own.
pub(in crate::forward) struct Certificates {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// An authority: `ca.pem`.
    pub(in crate::forward) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "plant authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { dir, issuer }
    }

    /// A certificate of `name`: `NAME.pem` and `NAME.key`.
    pub(in crate::forward) fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Where a file is.
    pub(in crate::forward) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Trusts the authority, and is `name`.
    pub(in crate::forward) fn files(&self, name: Option<&str>) -> Files {
        let file = |name: &str, kind: &str| self.path(&format!("{name}.{kind}"));
        Files {
            ca: Some(self.path("ca.pem")),
            identity: name.map(|name| (file(name, "pem"), file(name, "key"))),
        }
    }
}
