//! Servers of stream services: moto for Amazon's, and Apache Kafka itself.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::{debian, on_path, run, runs};

/// Packages of PyPI with the hashes of each platform's file; the Python modules below
/// `.tools/` are a `PYTHONPATH`.
const MOTO: &str = include_str!("../../pins/moto.txt");
const MOTO_DIR: &str = "moto-5.2.5";

/// A hash and a path below Maven's central repository a line.
const KAFKA: &str = include_str!("../../pins/kafka.txt");
const KAFKA_DIR: &str = "kafka-4.1.2";

/// Gets files, each checked, and makes two more attempts at each.
const DOWNLOADER: &str = r"
import hashlib, os, sys, time, urllib.request
base, target = 'https://repo1.maven.org/maven2/', sys.argv[1]
for line in sys.stdin:
    digest, path = line.split()
    for attempt in range(3):
        try:
            data = urllib.request.urlopen(base + path, timeout=60).read()
            break
        except OSError:
            if attempt == 2:
                raise
            time.sleep(2)
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit(path + ' is not what it was')
    with open(os.path.join(target, os.path.basename(path)), 'wb') as jar:
        jar.write(data)
";

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
pub(super) fn kafka(tools: &Path) -> anyhow::Result<()> {
    if on_path("java").is_none() {
        debian(&["default-jre-headless"]).context("java is needed")?;
    }
    let target = tools.join(KAFKA_DIR);
    if target.is_dir() {
        return Ok(());
    }
    // Whole or not at all.
    let part = tools.join(format!("{KAFKA_DIR}.part"));
    begin(&part)?;
    let pins = tools.join(format!("{KAFKA_DIR}.txt"));
    fs::write(&pins, KAFKA)?;
    let status = Command::new("python3")
        .args(["-c", DOWNLOADER])
        .arg(&part)
        .stdin(fs::File::open(&pins)?)
        .status()
        .context("python3 is needed")?;
    ensure!(status.success(), "Kafka's jars from Maven: {status}");
    fs::rename(&part, &target)?;
    fs::remove_file(pins)?;
    Ok(())
}

fn begin(part: &Path) -> anyhow::Result<()> {
    if part.is_dir() {
        fs::remove_dir_all(part)?;
    }
    fs::create_dir_all(part).with_context(|| format!("create {}", part.display()))
}
