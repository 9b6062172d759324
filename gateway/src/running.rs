//! Talks to the gateway that runs on a data directory, if one does.
//!
//! The running gateway owns every write, so a command that changes something
//! goes to it over HTTP; only without one does the command open the store itself.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use penstock_broker::Listening;
use serde::{Deserialize, Serialize};

use crate::forward::Secret;

/// A gateway answers at once or is in trouble.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than the longest list that the API gives.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
const FILE: &str = "gateway.json";

/// What a running gateway writes into its data directory, for commands and scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where it takes plain MQTT over TCP, if anywhere.
    pub mqtt: Option<SocketAddr>,
    /// Everywhere that it takes MQTT.
    pub listeners: Vec<Listening>,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// What it wants to hear before it answers; from the configuration, never in the file.
    #[serde(skip)]
    pub token: Option<Secret>,
    /// Random, new at each start, and part of the status: after a crash another
    /// gateway may listen on the same port.
    pub instance: Arc<str>,
}

impl Running {
    /// Says that the gateway runs and listens.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        // Written whole and then renamed, so that nobody reads half of it.
        let (file, partial) = (data_dir.join(FILE), data_dir.join("gateway.json.new"));
        fs::write(&partial, serde_json::to_vec(self)?)?;
        fs::rename(partial, file)
    }

    /// Says that it no longer does.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match fs::remove_file(data_dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The gateway that runs on `data_dir`; `None` when there is none, or only
    /// the note of one that was killed.
    pub fn find(data_dir: &Path, token: Option<&Secret>) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let mut running: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        running.token = token.cloned();
        // Whoever answers there must be the one that wrote the note.
        let status = running.request("GET", "/api/v1/status");
        let same = status.is_ok_and(|status| status["instance"] == *running.instance);
        Ok(same.then_some(running))
    }

    /// Sends a request and gives back the JSON of the answer.
    pub fn request(&self, method: &str, path: &str) -> Result<serde_json::Value> {
        let mut stream = TcpStream::connect_timeout(&self.http, TIMEOUT)
            .with_context(|| format!("the gateway does not answer on {}", self.http))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        let authorization = self.token.as_ref().map_or_else(String::new, |token| {
            format!("Authorization: Bearer {}\r\n", token.expose())
        });
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {authorization}Content-Length: 0\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        parse(&answer).with_context(|| format!("{method} {path}"))
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
