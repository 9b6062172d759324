//! Servers of stream services: moto for Amazon's, and Apache Kafka itself.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::{debian, on_path, run, runs};

/// Packages of PyPI with the hashes of each platform's file; the Python modules below
/// `.tools/` are a `PYTHONPATH`.
const MOTO: &str = include_str!("../../pins/moto.txt");
const MOTO_DIR: &str = "moto-5.2.5";

/// The hash and the name of each jar that `tests/clients/kafka/pom.xml` brings.
const KAFKA: &str = include_str!("../../pins/kafka.txt");
const KAFKA_DIR: &str = "kafka-4.1.2";
/// What of Maven copies jars.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// moto, a stand-in for Amazon's services, as Python modules.
pub(super) fn moto(tools: &Path) -> anyhow::Result<()> {
    let target = tools.join(MOTO_DIR);
    if target.is_dir() {
        return Ok(());
    }
    if !runs("python3", &["-m", "pip", "--version"]) {
        debian(&["python3-pip"]).context("python3 with pip is needed")?;
    }
    // Whole or not at all.
    let part = tools.join(format!("{MOTO_DIR}.part"));
    begin(&part)?;
    let pins = part.join("pins.txt");
    fs::write(&pins, MOTO)?;
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
        .arg(&pins))?;
    fs::rename(&part, &target)?;
    Ok(())
}

/// Apache Kafka as jars, and Java from the path or from Debian.
pub(super) fn kafka(repository: &Path) -> anyhow::Result<()> {
    let tools = repository.join(".tools");
    if on_path("java").is_none() {
        debian(&["default-jre-headless"]).context("java is needed")?;
    }
    let target = tools.join(KAFKA_DIR);
    if target.is_dir() {
        return Ok(());
    }
    if on_path("mvn").is_none() {
        debian(&["maven"]).context("maven is needed")?;
    }
    // Whole or not at all.
    let part = tools.join(format!("{KAFKA_DIR}.part"));
    begin(&part)?;
    run(Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(repository.join("tests/clients/kafka/pom.xml"))
        .arg(COPY)
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", part.display())))?;
    let pins = tools.join(format!("{KAFKA_DIR}.txt"));
    fs::write(&pins, KAFKA)?;
    run(Command::new("sha256sum")
        .current_dir(&part)
        .args(["--check", "--strict", "--quiet"])
        .arg(&pins))
    .context("Kafka's jars are not what they were")?;
    fs::remove_file(pins)?;
    let jars = fs::read_dir(&part)?.count();
    ensure!(
        jars == KAFKA.lines().count(),
        "Maven brought {jars} jars, and not all of them are known"
    );
    fs::rename(&part, &target)?;
    Ok(())
}

fn begin(part: &Path) -> anyhow::Result<()> {
    if part.is_dir() {
        fs::remove_dir_all(part)?;
    }
    fs::create_dir_all(part).with_context(|| format!("create {}", part.display()))
}
