//! Certificates of one authority, as files, made by OpenSSL.

use std::{fs, path::PathBuf, process::Command};

use crate::{Sandbox, programs, skip};

/// An authority and what it has issued.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// An authority; `None`, said aloud, where OpenSSL is missing.
    pub fn new(sandbox: &Sandbox) -> Option<Self> {
        if programs::on_path("openssl").is_none() {
            skip::missing_program("openssl");
            return None;
        }
        let dir = sandbox.path("certificates");
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        let authority = Self { dir };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=plant authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        Some(authority)
    }

    /// A certificate of `name`, which is 127.0.0.1 and localhost as well: `NAME.pem` and
    /// `NAME.key`.
    pub fn issue(&self, name: &str) {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let subject = format!("/CN={name}");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
        fs::write(self.dir.join("names"), names).expect("the sandbox takes a file");
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "3650",
            "-extfile",
            "names",
            "-out",
            &format!("{name}.pem"),
        ]);
        let text = |file: &str| fs::read_to_string(self.path(file)).expect("it was made");
        let both = text(&key) + &text(&format!("{name}.pem"));
        fs::write(self.both(name), both).expect("the sandbox takes a file");
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A file of the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Key and certificate of `name` in one file.
    pub fn both(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}-both.pem"))
    }

    #[track_caller]
    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .current_dir(&self.dir)
            .args(arguments)
            .output()
            .expect("openssl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }
}
