//! The programs under measurement, each in a process and a directory of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// A running program; killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    dir: TempDir,
    /// Where it takes MQTT.
    pub(super) mqtt: SocketAddr,
    /// Where it answers HTTP, if it does.
    pub(super) http: Option<SocketAddr>,
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Server {
    fn start(
        mut command: Command,
        dir: TempDir,
        mqtt: SocketAddr,
        http: Option<SocketAddr>,
    ) -> Result<Self> {
        let log = fs::File::create(dir.path().join("log"))?;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Self {
            child,
            dir,
            mqtt,
            http,
        };
        let deadline = Instant::now() + Duration::from_secs(15);
        let is_away = |address: SocketAddr| TcpStream::connect(address).is_err();
        while is_away(mqtt) || http.is_some_and(is_away) {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{command:?} did not come up: {}", server.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Mosquitto without persistence: it acknowledges from memory.
    pub(super) fn mosquitto() -> Result<Self> {
        Self::mosquitto_with("")
    }

    /// The same, forwarding to another Mosquitto at QoS 1, as plants do.
    pub(super) fn mosquitto_bridge(to: &Self) -> Result<Self> {
        Self::mosquitto_with(&format!(
            "connection bench\naddress {}\ntopic # out 1\nnotifications false\n",
            to.mqtt
        ))
    }

    pub(super) fn mosquitto_with(more: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let mqtt = free_port()?;
        let config = dir.path().join("mosquitto.conf");
        fs::write(
            &config,
            format!(
                "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                 max_inflight_messages 0\nmax_queued_messages 0\nset_tcp_nodelay true\n{more}",
                mqtt.port()
            ),
        )?;
        let mut command = Command::new(mosquitto_path());
        command.arg("-c").arg(config);
        Self::start(command, dir, mqtt, None)
    }

    /// Penstock with everything on: durable, deduplicated, normalised, forwarded
    /// to the destinations that `destinations` (TOML) names.
    pub(super) fn penstock(binary: &Path, destinations: &str) -> Result<Self> {
        Self::penstock_with(binary, "", destinations)
    }

    /// The same; `broker` has more keys of its table.
    pub(super) fn penstock_with(binary: &Path, broker: &str, more: &str) -> Result<Self> {
        Self::penstock_of(binary, broker, "size_max = \"20GiB\"\n", more)
    }

    /// The same; `store` has the keys of that table.
    pub(super) fn penstock_keeping(binary: &Path, store: &str, more: &str) -> Result<Self> {
        Self::penstock_of(binary, "", store, more)
    }

    fn penstock_of(binary: &Path, broker: &str, store: &str, more: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let (mqtt, http) = (free_port()?, free_port()?);
        let config = dir.path().join("penstock.toml");
        fs::write(
            &config,
            format!(
                "data_dir = \"{}\"\n[broker]\nlisten = \"{mqtt}\"\n{broker}[http]\nlisten = \"{http}\"\n\
                 [store]\n{store}[log]\nlevel = \"warn\"\n{more}",
                dir.path().join("data").display()
            ),
        )?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(config);
        Self::start(command, dir, mqtt, Some(http))
    }

    /// The gateway's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills the gateway without warning and starts it again on what it left; says how long
    /// after the start it kept an event.
    pub(super) async fn killed_and_started(&mut self, binary: &Path) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let log = fs::File::create(self.dir.path().join("log"))?;
        let began = Instant::now();
        self.child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(self.dir.path().join("penstock.toml"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()?;
        let deadline = began + Duration::from_secs(60);
        while super::load::one(self.mqtt).await.is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("it did not come up again: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(began.elapsed())
    }

    /// A NATS server with JetStream; `mqtt` is its client port.
    pub(super) fn nats(binary: &Path, port: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let mut command = Command::new(binary);
        command
            .args(["-a", "127.0.0.1", "-js", "-p"])
            .arg(port.port().to_string());
        command.arg("-sd").arg(dir.path());
        Self::start(command, dir, port, None)
    }

    /// Resident memory in bytes.
    pub(super) fn rss_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("VmRSS")?;
        let kib = line.split_whitespace().nth(1).context("VmRSS value")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Processor time it took so far, in seconds. The kernel counts in hundredths there
    /// (`proc(5)`).
    pub(super) fn cpu_secs(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        let mut ticks = fields.split_whitespace().skip(11);
        let mut next = || ticks.next()?.parse::<f64>().ok();
        let (user, system) = next().zip(next()).context("processor time")?;
        Ok((user + system) / 100.0)
    }

    /// Its account, from `/api/v1/status`.
    pub(super) fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(
            &self.ask("GET /api/v1/status HTTP/1.1")?,
        )?)
    }

    /// Has it do something that takes no arguments.
    pub(super) fn post(&self, path: &str) -> Result<()> {
        self.ask(&format!("POST {path} HTTP/1.1")).map(drop)
    }

    fn ask(&self, request: &str) -> Result<String> {
        let http = self.http.context("this server has no HTTP")?;
        let mut stream = TcpStream::connect(http)?;
        write!(
            stream,
            "{request}\r\nHost: {http}\r\nContent-Type: application/json\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{request}: {head}\n{body}");
        }
        Ok(body.to_owned())
    }

    /// What it logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Debian installs the broker outside an ordinary user's PATH.
fn mosquitto_path() -> PathBuf {
    let sbin = Path::new("/usr/sbin/mosquitto");
    if sbin.is_file() {
        sbin.to_owned()
    } else {
        PathBuf::from("mosquitto")
    }
}
