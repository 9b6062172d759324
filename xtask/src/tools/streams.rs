//! Servers of stream services: moto for Amazon's, and Apache Kafka itself.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;

use super::{
    debian,
    jars::{Jars, begin},
    run, runs,
};

/// Packages of PyPI with the hashes of each platform's file; the Python modules below
/// `.tools/` are a `PYTHONPATH`.
const MOTO: &str = include_str!("../../pins/moto.txt");
const MOTO_DIR: &str = "moto-5.2.5";

const KAFKA: Jars = Jars {
    name: "kafka-4.1.2",
    pom: "tests/clients/kafka/pom.xml",
    pins: include_str!("../../pins/kafka.txt"),
};

/// moto, a stand-in for Amazon's services, as Python modules.
pub(super) fn moto(tools: &Path) -> anyhow::Result<()> {
    modules(tools, MOTO_DIR, MOTO)
}

/// Packages of PyPI in a directory below `.tools/`, which is a `PYTHONPATH` then.
pub(super) fn modules(tools: &Path, dir: &str, pins: &str) -> anyhow::Result<()> {
    let target = tools.join(dir);
    if target.is_dir() {
        return Ok(());
    }
    if !runs("python3", &["-m", "pip", "--version"]) {
        debian(&["python3-pip"]).context("python3 with pip is needed")?;
    }
    // Whole or not at all.
    let part = tools.join(format!("{dir}.part"));
    begin(&part)?;
    let file = part.join("pins.txt");
    fs::write(&file, pins)?;
    run(Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "install"])
        .args([
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ])
        .arg("--target")
        .arg(&part)
        .arg("--requirement")
        .arg(&file))?;
    fs::rename(&part, &target)?;
    Ok(())
}

/// Apache Kafka as jars, and Java.
pub(super) fn kafka(repository: &Path) -> anyhow::Result<()> {
    KAFKA.get(repository)
}
