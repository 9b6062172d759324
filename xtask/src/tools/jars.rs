//! Servers in Java: jars from Maven, each held to its hash.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::{debian, on_path, run};

/// What of Maven copies jars.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A server.
pub(super) struct Jars {
    /// Its directory below `.tools/`.
    pub(super) name: &'static str,
    /// What Maven is to bring, in the repository.
    pub(super) pom: &'static str,
    /// The hash and the name of each jar that comes of it.
    pub(super) pins: &'static str,
}

impl Jars {
    /// The jars in their directory, and Java from the path or from Debian.
    pub(super) fn get(&self, repository: &Path) -> anyhow::Result<()> {
        let tools = repository.join(".tools");
        if on_path("java").is_none() {
            debian(&["default-jre-headless"]).context("java is needed")?;
        }
        let target = tools.join(self.name);
        if target.is_dir() {
            return Ok(());
        }
        if on_path("mvn").is_none() {
            debian(&["maven"]).context("maven is needed")?;
        }
        // Whole or not at all.
        let part = tools.join(format!("{}.part", self.name));
        begin(&part)?;
        run(Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(repository.join(self.pom))
            .arg(COPY)
            .arg("-DincludeScope=runtime")
            .arg(format!("-DoutputDirectory={}", part.display())))?;
        let pins = tools.join(format!("{}.txt", self.name));
        fs::write(&pins, self.pins)?;
        run(Command::new("sha256sum")
            .current_dir(&part)
            .args(["--check", "--strict", "--quiet"])
            .arg(&pins))
        .with_context(|| format!("the jars of {} are not what they were", self.name))?;
        fs::remove_file(pins)?;
        let jars = fs::read_dir(&part)?.count();
        ensure!(
            jars == self.pins.lines().count(),
            "Maven brought {jars} jars, and not all of them are known"
        );
        fs::rename(&part, &target)?;
        Ok(())
    }
}

/// An empty directory.
pub(super) fn begin(part: &Path) -> anyhow::Result<()> {
    if part.is_dir() {
        fs::remove_dir_all(part)?;
    }
    fs::create_dir_all(part).with_context(|| format!("create {}", part.display()))
}
