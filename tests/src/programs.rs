//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The gateway.
pub fn penstock() -> PathBuf {
    env::var_os("PENSTOCK_BIN").map_or_else(|| built().join("penstock"), PathBuf::from)
}

/// The simulator.
pub fn device_sim() -> PathBuf {
    env::var_os("DEVICE_SIM_BIN").map_or_else(|| built().join("device-sim"), PathBuf::from)
}

/// The NATS server, where there is one.
pub fn nats_server() -> Option<PathBuf> {
    env::var_os("PENSTOCK_NATS_SERVER")
        .map(PathBuf::from)
        .or_else(|| {
            let tools = repository().join(".tools");
            tools.read_dir().ok()?.find_map(|entry| {
                let program = entry.ok()?.path().join("nats-server");
                program.is_file().then_some(program)
            })
        })
        .or_else(|| on_path("nats-server"))
}

/// The directory with a version of Paho's Python client, where it is: a `PYTHONPATH`.
pub fn paho(version: &str) -> Option<PathBuf> {
    let dir = repository().join(format!(".tools/paho-mqtt-{version}"));
    dir.is_dir().then_some(dir)
}

/// The directory with the libraries that devices are built with, where it is: a
/// `PYTHONPATH`, beside that of [`paho`].
pub fn producers() -> Option<PathBuf> {
    let dir = repository().join(".tools/producers-1");
    dir.is_dir().then_some(dir)
}

/// The directory with the libraries for Node.js that devices are built with, where it
/// is: a `NODE_PATH`.
pub fn node_producers() -> Option<PathBuf> {
    let dir = repository().join(".tools/node-producers-1/node_modules");
    dir.is_dir().then_some(dir)
}

/// The directory with moto and what it needs, where it is: a `PYTHONPATH`.
pub fn moto() -> Option<PathBuf> {
    let dir = repository().join(".tools/moto-5.2.5");
    dir.is_dir().then_some(dir)
}

/// The directory with Schemathesis and what it needs, where it is: a `PYTHONPATH`.
pub fn schemathesis() -> Option<PathBuf> {
    let dir = repository().join(".tools/schemathesis-4.32.5");
    dir.is_dir().then_some(dir)
}

/// The directory with the jars of Apache Kafka, where it is and Java too.
pub fn kafka() -> Option<PathBuf> {
    let dir = repository().join(".tools/kafka-4.1.2");
    (dir.is_dir() && on_path("java").is_some()).then_some(dir)
}

/// The directory with PostgreSQL's programs, where there is one: the newest.
pub fn postgres() -> Option<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?;
    let version = |dir: &PathBuf| dir.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.join("bin/postgres").is_file())
        .max_by_key(version);
    newest.map(|dir| dir.join("bin"))
}

/// The directory with the jars of OpenSearch, where it is and Java too.
pub fn opensearch() -> Option<PathBuf> {
    let dir = repository().join(".tools/opensearch-2.19.6");
    (dir.is_dir() && on_path("java").is_some()).then_some(dir)
}

/// MQTT.js for browsers, where it is.
pub fn mqtt_js() -> Option<PathBuf> {
    let file = repository().join(".tools/mqtt.js-5.14.1/mqtt.min.js");
    file.is_file().then_some(file)
}

/// A program of that name, where there is one.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The top of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is inside the workspace")
}

/// Without `cargo xtask test`, which builds and says where: builds, so that no test runs
/// against yesterday's programs.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(repository())
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--locked",
                "--bins",
                "--tests",
            ])
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the programs under test do not build");
        env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| repository().join("target"), |dir| repository().join(dir))
            .join("debug")
    })
}
