//! How a running gateway and the commands of its own machine know each other.
//!
//! A key that is made at each start, in a file that only the gateway's user can read.
//! The gateway proves that it has it before a command says anything; then the command
//! says the key, never the operator's token: whoever holds the port after a crash learns
//! at most a word that nothing listens to any more
//! (`docs/decisions/0029-a-key-for-each-start.md`).

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Bytes of a challenge, at most; ours have 32.
const CHALLENGE_BYTES_MAX: usize = 64;

/// See the module.
#[derive(Clone)]
pub struct InstanceKey([u8; 32]);

impl InstanceKey {
    const FILE: &str = "gateway.key";

    /// One that nobody else has.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Writes it where only the user that runs the gateway can read it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let (file, partial) = (data_dir.join(Self::FILE), data_dir.join("gateway.key.new"));
        remove(&partial)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?
            .write_all(self.word().as_bytes())?;
        fs::rename(partial, file)
    }

    /// The key of the gateway that runs, or ran, on the directory.
    ///
    /// # Errors
    /// When there is none, or this user may not read it.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(data_dir.join(Self::FILE))?;
        let hash = blake3::Hash::from_hex(text.trim())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self(*hash.as_bytes()))
    }

    /// Removes the file.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        remove(&data_dir.join(Self::FILE))
    }

    /// What a command says with each request.
    pub fn word(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// What only who has the key can answer to a challenge; `None` to one that is too
    /// long. Nothing about the key can be learned of it.
    pub fn proof(&self, challenge: &str, instance: &str) -> Option<blake3::Hash> {
        if challenge.is_empty() || challenge.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(b"penstock instance\n");
        hash.update(challenge.as_bytes());
        hash.update(b"\n");
        hash.update(instance.as_bytes());
        Some(hash.finalize())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
