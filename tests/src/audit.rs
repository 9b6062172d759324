//! The verdict: what was acknowledged against what arrived.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{NatsServer, Sandbox, programs, sim::Fleet};

/// What the auditor found at one place.
#[derive(Debug)]
pub struct Audit {
    place: String,
    clean: bool,
    report: Value,
    said: String,
}

impl Audit {
    /// Audits a directory of NDJSON files.
    pub fn files(sandbox: &Sandbox, fleet: &Fleet, dir: &Path, more: &[&str]) -> Self {
        let dir = dir.display().to_string();
        Self::run(sandbox, fleet, &dir, &["--files", &dir], more)
    }

    /// Audits a JetStream stream.
    pub fn nats(
        sandbox: &Sandbox,
        fleet: &Fleet,
        server: &NatsServer,
        stream: &str,
        more: &[&str],
    ) -> Self {
        let url = server.url();
        Self::run(
            sandbox,
            fleet,
            stream,
            &["--nats", &url, "--stream", stream],
            more,
        )
    }

    fn run(sandbox: &Sandbox, fleet: &Fleet, place: &str, what: &[&str], more: &[&str]) -> Self {
        let report = sandbox.path("audit.json");
        let output = Command::new(programs::device_sim())
            .arg("audit")
            .arg("--ack-log")
            .arg(fleet.ack_log())
            .args(what)
            .args(more)
            .arg("--report")
            .arg(&report)
            .output()
            .expect("the auditor runs");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("audit of {place}: {}", said.trim());
        let text = std::fs::read_to_string(&report)
            .unwrap_or_else(|error| panic!("no report of the audit: {error}; {said}"));
        Self {
            place: place.to_owned(),
            clean: output.status.success(),
            report: serde_json::from_str(&text).expect("a report is JSON"),
            said,
        }
    }

    /// A count of the report.
    ///
    /// # Panics
    /// When the report has no such count.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let found = self.report.get(name);
        found
            .and_then(|found| found.get("count").unwrap_or(found).as_u64())
            .unwrap_or_else(|| panic!("no count {name} in {:#}", self.report))
    }

    /// Nothing lost, nothing twice, nothing that was never sent, order kept; and the
    /// audit was not an empty one.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(
            self.clean,
            "audit of {}:\n{}\n{:#}",
            self.place, self.said, self.report
        );
        assert!(
            self.count("acked") > 0,
            "nothing was acknowledged: {:#}",
            self.report
        );
    }
}
