//! Who this gateway is among others: random, made once, and kept beside the journal.
//!
//! What it sends to other brokers carries it, so that what comes back is known; see
//! [`VIA_PROPERTY`](crate::event::message::VIA_PROPERTY).

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayId(Arc<str>);

impl GatewayId {
    /// The name of its file.
    const FILE: &str = "gateway.id";

    /// Reads it, or makes one. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn of_dir(dir: &Path) -> io::Result<Self> {
        let path = dir.join(Self::FILE);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        match fs::read_to_string(&path) {
            Ok(text) if (8..=64).contains(&text.trim().len()) && text.trim().chars().all(word) => {
                return Ok(Self(text.trim().into()));
            }
            // Another one is better than none; a session at a remote broker is left behind.
            Ok(_) => tracing::warn!(path = %path.display(), "replaced: it held no identity"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let id = Self::random();
        fs::create_dir_all(dir)?;
        id.write(dir, &path)?;
        Ok(id)
    }

    /// On disk whole or not at all: a remote broker keeps a session by this name, with
    /// what it has for us, and an empty file after a power cut would lose it.
    fn write(&self, dir: &Path, path: &Path) -> io::Result<()> {
        let beside = dir.join(format!("{}.new", Self::FILE));
        let mut file = fs::File::create(&beside)?;
        file.write_all(format!("{}\n", self.0).as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(dir)?.sync_all()
    }

    /// One that nobody else has, for this run.
    pub fn random() -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        // The end of it is random; the beginning is the time.
        Self(id[id.len() - 16..].into())
    }

    /// As text.
    pub const fn as_str(&self) -> &Arc<str> {
        &self.0
    }

    /// The client identifier of a connection named `name`, where none is
    /// configured: letters, digits and dashes. Longer than the 23 bytes that a server
    /// of MQTT 3.1.1 must take (section 3.1.3.1), which all of them exceed: two
    /// gateways of a fleet with the same one would throw each other out for ever.
    pub fn client_id(&self, role: &str, name: &str) -> String {
        format!("penstock-{}-{role}-{name}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_differ_anywhere_have_different_client_identifiers() {
        let of = |id: &str| GatewayId(id.into()).client_id("to", "events");
        assert_eq!(
            of("8123456789abcdef"),
            "penstock-8123456789abcdef-to-events"
        );
        assert_ne!(of("8123456789abcdef"), of("8123456789abcdee"));
    }

    #[test]
    fn a_gateway_stays_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let id = GatewayId::of_dir(dir.path()).unwrap();
        assert_eq!(GatewayId::of_dir(dir.path()).unwrap(), id);
        assert_eq!(id.as_str().len(), 16);
        let files = fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, [GatewayId::FILE], "nothing stays beside it");
        fs::write(dir.path().join(GatewayId::FILE), "\0").unwrap();
        let other = GatewayId::of_dir(dir.path()).unwrap();
        assert_ne!(other, id);
        assert_eq!(GatewayId::of_dir(dir.path()).unwrap(), other);
    }
}
