//! Talks to the gateway that runs on a data directory, if one does.
//!
//! The running gateway owns every write, so a command that changes something
//! goes to it over HTTP; only without one does the command open the store itself.
//! Before it says anything it has the gateway prove that it is the one that wrote the
//! note ([`InstanceKey`]).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use penstock_broker::Listening;
use serde::{Deserialize, Serialize};

use crate::instance_key::InstanceKey;

/// A gateway answers at once or is in trouble.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than the longest list that the API gives.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
const FILE: &str = "gateway.json";

/// What a running gateway writes into its data directory, for commands and scripts.
#[derive(Debug, Clone)]
pub struct Running {
    /// What it says of itself, to everybody.
    pub note: Note,
    /// What only those know who may read its files.
    pub key: InstanceKey,
}

/// The file `gateway.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Note {
    /// Its process.
    pub pid: u32,
    /// Where it takes plain MQTT over TCP, if anywhere.
    pub mqtt: Option<SocketAddr>,
    /// Everywhere that it takes MQTT.
    pub listeners: Vec<Listening>,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Random, new at each start, and part of the status: after a crash another
    /// gateway may listen on the same port.
    pub instance: Arc<str>,
}

impl Running {
    /// Says that the gateway runs and listens.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        self.key.write(data_dir)?;
        // Written whole and then renamed, so that nobody reads half of it.
        let (file, partial) = (data_dir.join(FILE), data_dir.join("gateway.json.new"));
        fs::write(&partial, serde_json::to_vec(&self.note)?)?;
        fs::rename(partial, file)
    }

    /// Says that it no longer does.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match fs::remove_file(data_dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => InstanceKey::remove(data_dir),
        }
    }

    /// The gateway that runs on `data_dir`; `None` when there is none, or only
    /// the note of one that was killed.
    pub fn find(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let note: Note = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let key = match InstanceKey::read(data_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            key => key.with_context(|| {
                format!(
                    "cannot read gateway.key in {}, by which the gateway is known; \
                     commands run as the user that the gateway runs as",
                    data_dir.display()
                )
            })?,
        };
        let running = Self { note, key };
        Ok(running.is_itself().then_some(running))
    }

    /// Whether who answers there is the one that wrote the note. After a crash it may
    /// be anybody, so nothing is said that anybody could use.
    fn is_itself(&self) -> bool {
        let challenge = blake3::Hash::from_bytes(rand::random()).to_hex();
        let proof = self.key.proof(&challenge, &self.note.instance);
        let path = format!("/api/v1/instance?challenge={challenge}");
        let said = self.ask("GET", &path, "", "");
        let said = said.ok().and_then(|said| {
            let proof = said["proof"].as_str()?;
            blake3::Hash::from_hex(proof).ok()
        });
        // Hashes are compared in constant time.
        said.is_some() && said == proof
    }

    /// Sends a request and gives back the JSON of the answer.
    pub fn request(&self, method: &str, path: &str) -> Result<serde_json::Value> {
        self.ask(method, path, &self.authorization(), "")
    }

    /// Asks for an answer without an end, and gives back what comes after its head. More
    /// than [`TIMEOUT`] passes in it without a word only when the gateway is gone.
    pub fn stream(&self, path: &str) -> Result<impl BufRead + use<>> {
        let mut stream = BufReader::new(self.open("GET", path, &self.authorization(), "")?);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let more = stream.read_until(b'\n', &mut head)?;
            ensure!(more > 0, "the answer was cut off");
        }
        if !head.starts_with(b"HTTP/1.0 200") {
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut head)?;
            parse(&head).context(format!("GET {path}"))?;
            bail!("GET {path}: the answer is no stream");
        }
        Ok(stream)
    }

    /// Sends a request with JSON in it; with `key` the same one again changes nothing more.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value> {
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n"));
        let head = self.authorization() + &key.unwrap_or_default();
        self.ask(method, path, &head, &body.to_string())
    }

    fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.key.word())
    }

    /// Asks, with further lines of the head.
    fn ask(&self, method: &str, path: &str, head: &str, body: &str) -> Result<serde_json::Value> {
        let stream = self.open(method, path, head, body)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        parse(&answer).with_context(|| format!("{method} {path}"))
    }

    fn open(&self, method: &str, path: &str, head: &str, body: &str) -> Result<TcpStream> {
        let http = self.note.http;
        let mut stream = TcpStream::connect_timeout(&http, TIMEOUT)
            .with_context(|| format!("the gateway does not answer on {http}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(stream)
    }
}

fn parse(answer: &[u8]) -> Result<serde_json::Value> {
    let text = std::str::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer was cut off")?;
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).context("the answer is not JSON")?;
    if !code.starts_with('2') {
        bail!("{}", body["detail"].as_str().unwrap_or(code));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Whoever took the port: answers everything as well as it can, and says what it heard.
    fn impostor(listener: TcpListener, instance: String) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let mut some = [0; 1024];
                let count = stream.read(&mut some).unwrap();
                assert!(count > 0, "a request has an end");
                heard.extend_from_slice(&some[..count]);
            }
            let body = serde_json::json!({ "instance": instance, "proof": "0".repeat(64) });
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
            String::from_utf8(heard).unwrap()
        })
    }

    #[test]
    fn whoever_holds_the_port_hears_nothing_and_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let running = Running {
            note: Note {
                pid: 1,
                mqtt: None,
                listeners: Vec::new(),
                http: listener.local_addr().unwrap(),
                instance: "an-instance".into(),
            },
            key: InstanceKey::random(),
        };
        running.write(dir.path()).unwrap();
        let impostor = impostor(listener, running.note.instance.to_string());
        assert!(Running::find(dir.path()).unwrap().is_none());
        let heard = impostor.join().unwrap();
        assert!(!heard.contains(&running.key.word()), "{heard}");
        assert!(!heard.contains("Authorization"), "{heard}");
    }

    #[test]
    fn the_key_is_the_users_alone_and_not_in_the_note() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let running = Running {
            note: Note {
                pid: 1,
                mqtt: None,
                listeners: Vec::new(),
                http: "127.0.0.1:1".parse().unwrap(),
                instance: "an-instance".into(),
            },
            key: InstanceKey::random(),
        };
        running.write(dir.path()).unwrap();
        let of = |name| dir.path().join(name);
        let mode = fs::metadata(of("gateway.key")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let note = fs::read_to_string(of("gateway.json")).unwrap();
        assert!(!note.contains(&running.key.word()));
        assert_eq!(
            InstanceKey::read(dir.path()).unwrap().word(),
            running.key.word()
        );
        Running::remove(dir.path()).unwrap();
        assert!(!of("gateway.key").try_exists().unwrap());
        assert!(!of("gateway.json").try_exists().unwrap());
    }
}
