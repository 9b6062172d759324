//! `penstock demo`: a gateway, simulated devices, and a file to watch events
//! arrive in. With `--for` it ends by itself and audits what arrived.
//!
//! The devices run in a process of their own, as `device-sim` does, and know
//! nothing of the gateway but its address.

use std::{
    fs::{self, File},
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use penstock_broker::listener;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    cli::{self, output},
    config::{self, Config},
    observer::Observer,
    running::Running,
    signal,
    status::Status,
    telemetry,
};

/// Hidden commands that turn this program into its own device simulator.
const DEVICES_COMMAND: &str = "demo-devices";
const AUDIT_COMMAND: &str = "demo-audit";

/// How long the last events may take to arrive.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Whether this process was started to be the devices; then it is nothing else.
pub fn devices() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next()?;
    if command == DEVICES_COMMAND {
        // The other end is held by the demo: devices without a gateway would
        // try to reach it for ever.
        std::thread::spawn(|| {
            drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
            std::process::exit(1);
        });
    } else if command != AUDIT_COMMAND {
        return None;
    }
    Some(device_sim::main(
        std::iter::once("device-sim".into()).chain(arguments),
    ))
}

/// Arguments of `penstock demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End by itself after this long, for example 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = config::parse_duration)]
    duration: Option<Duration>,
    /// Where the journal and the events go
    #[arg(long, value_name = "DIR", default_value = "penstock-demo")]
    dir: PathBuf,
    /// Simulated devices
    #[arg(long, default_value_t = 25)]
    devices: u16,
    /// Messages per second of all devices together
    #[arg(long, default_value_t = 100)]
    rate: u32,
}

/// Runs the demo.
///
/// # Errors
/// When the gateway or the devices cannot be started, or a promise was not kept.
pub fn run(args: &Args) -> Result<ExitCode> {
    telemetry::init(&telemetry::Config {
        level: "warn".to_owned(),
        ..telemetry::Config::default()
    });
    cli::run::runtime()?.block_on(demo(args))
}

async fn demo(args: &Args) -> Result<ExitCode> {
    let dir = fresh(&args.dir)?;
    let app = App::build(configuration(&dir)?).await?;
    let running = app.running();
    let mqtt = running.note.mqtt.context("the demo listens on TCP")?;
    let observer = app.observer();
    running.write(&dir)?;
    introduce(args, &dir, mqtt, running.note.http);

    // The devices end first and the gateway after them, so the gateway gets a
    // signal of its own.
    let (interrupted, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let watch = tokio::spawn(signal::watch(interrupted.clone()));
    let gateway = tokio::spawn(app.run(shutdown.clone()));
    let mut devices = Devices::start(args, &dir, mqtt)?;

    let live = Live::new(observer.clone());
    let early = tokio::select! {
        () = live.show(args.duration) => None,
        () = interrupted.cancelled() => None,
        ended = devices.ended() => Some(ended?),
    };
    output::line("\nstopping the devices; waiting until everything has arrived ...");
    let settled = match early {
        Some(status) => status,
        None => devices.stop().await?,
    };
    let drained = tokio::time::timeout(SETTLE_MAX, drained(&observer))
        .await
        .is_ok();
    let status = observer.status();
    shutdown.cancel();
    let ended = gateway.await.context("the gateway panicked")?;
    watch.abort();
    ended.and(Ok(Running::remove(&dir)?))?;

    output::line("");
    cli::status::print(&json!(status));
    let balanced = balanced(&status);
    output::line(format_args!(
        "ledger: {}",
        if balanced { "balanced" } else { "NOT BALANCED" }
    ));
    let audited = audit(&dir)?;
    let good = settled.success() && drained && balanced && audited;
    if !good {
        output::line(format_args!(
            "devices settled: {}, backlog drained: {drained}, ledger balanced: {balanced}, audit clean: {audited}; logs in {}",
            settled.success(),
            dir.display()
        ));
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A directory of this run alone, so that the audit counts nothing of an earlier one.
fn fresh(base: &Path) -> Result<PathBuf> {
    for n in 1..10_000 {
        let dir = base.join(format!("run-{n:04}"));
        match fs::create_dir_all(base).and_then(|()| fs::create_dir(&dir)) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", dir.display()));
            }
        }
    }
    bail!("{} is full of earlier runs; remove some", base.display())
}

/// The defaults, in the demo's directory, on other ports if the usual ones are taken.
fn configuration(dir: &Path) -> Result<Config> {
    let mut config = Config::defaults(dir);
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
    config.broker.listeners = vec![listener::Config::tcp(free(usual)?)];
    config.http.listen = free(config.http.listen)?;
    Ok(config)
}

fn free(wanted: SocketAddr) -> Result<SocketAddr> {
    if TcpListener::bind(wanted).is_ok() {
        return Ok(wanted);
    }
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    other.context("no free port")
}

fn introduce(args: &Args, dir: &Path, mqtt: SocketAddr, http: SocketAddr) {
    output::line(format_args!(
        "{} simulated devices publish to mqtt://{} at {} messages a second,\n\
         some of them twice, some of them broken.\n\n  \
         watch it live     http://{}/\n  \
         events arrive in  {}\n  \
         be a device       mosquitto_pub -p {} -q 1 -t devices/me/telemetry -m '{{\"temperature\": 21.5}}'\n",
        args.devices,
        mqtt,
        args.rate,
        http,
        dir.join("events").display(),
        mqtt.port()
    ));
    if args.duration.is_none() {
        output::line("Ctrl-C ends it and shows the ledger.\n");
    }
}

/// The simulated devices: this program once more, as a process of its own.
struct Devices {
    child: Child,
}

impl Devices {
    fn start(args: &Args, dir: &Path, broker: SocketAddr) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let log = File::create(dir.join("devices.log"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(DEVICES_COMMAND)
            .args([
                "run",
                "--qos",
                "1",
                "--protocol",
                "mixed",
                "--format",
                "mixed",
            ])
            .args([
                "--profile",
                "mixed",
                "--identity",
                "mixed",
                "--settle",
                "20s",
            ])
            .args([
                "--chaos",
                "duplicates=0.02,reorder=0.01,malformed=0.005,disconnect=0.0005",
            ])
            .args(["--broker", &broker.to_string()])
            .args([
                "--devices",
                &args.devices.to_string(),
                "--rate",
                &args.rate.to_string(),
            ])
            .arg("--ack-log")
            .arg(dir.join("acks.ndjson"))
            .arg("--report")
            .arg(dir.join("devices.json"))
            // Ctrl-C reaches the whole foreground group; the devices are told in their turn.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the devices")?;
        Ok(Self { child })
    }

    /// Waits for them to end by themselves, which they should not.
    async fn ended(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks them to stop publishing and waits until what they sent is acknowledged.
    async fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).context("cannot stop the devices")?;
        self.ended().await
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // Already gone in the ordinary case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The summary in the terminal: one line, renewed each second, or each ten
/// seconds a new one where nobody can see it change.
struct Live {
    observer: Arc<Observer>,
    terminal: bool,
}

impl Live {
    fn new(observer: Arc<Observer>) -> Self {
        Self {
            observer,
            terminal: std::io::stdout().is_terminal(),
        }
    }

    async fn show(&self, duration: Option<Duration>) {
        let until = duration.map(|duration| tokio::time::Instant::now() + duration);
        let every = Duration::from_secs(if self.terminal { 1 } else { 10 });
        loop {
            let next = tokio::time::Instant::now() + every;
            tokio::time::sleep_until(until.map_or(next, |until| until.min(next))).await;
            self.line(&self.observer.status());
            if until.is_some_and(|until| tokio::time::Instant::now() >= until) {
                return;
            }
        }
    }

    fn line(&self, status: &Status) {
        let delivered: u64 = status.destinations.iter().map(|d| d.delivered).sum();
        let backlog: u64 = status.destinations.iter().map(|d| d.backlog).sum();
        let text = format!(
            "{:>4} s  {:>4} devices  {:>8} accepted ({:.0}/s)  {:>6} duplicates  {:>5} quarantined  {:>8} delivered  {backlog:>5} waiting",
            status.uptime_secs,
            status.broker.sessions_open,
            status.ledger.accepted,
            status.ledger.accepted_per_sec,
            status.ledger.duplicate,
            status.ledger.quarantined,
            delivered,
        );
        if self.terminal {
            output::renew(&text);
        } else {
            output::line(text);
        }
    }
}

/// Waits until no destination has a backlog.
async fn drained(observer: &Observer) {
    while observer.status().destinations.iter().any(|d| d.backlog > 0) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether every accepted event is accounted for.
fn balanced(status: &Status) -> bool {
    let l = &status.ledger;
    l.accepted == l.stored + l.duplicate + l.quarantined
        && status.destinations.iter().all(|d| {
            d.routed == d.delivered + d.backlog + d.expired + d.evicted + d.damaged + d.dead
        })
}

/// Compares what the devices were promised with what is in the files.
fn audit(dir: &Path) -> Result<bool> {
    let status = Command::new(std::env::current_exe()?)
        .args([AUDIT_COMMAND, "audit", "--ack-log"])
        .arg(dir.join("acks.ndjson"))
        .arg("--files")
        .arg(dir.join("events"))
        .status()
        .context("cannot start the audit")?;
    Ok(status.success())
}
