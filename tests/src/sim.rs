//! The device simulator, as a process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Sandbox, process::Process, programs};

/// A fleet that will be started.
#[derive(Debug)]
pub struct Sim {
    command: Command,
    name: String,
    dir: PathBuf,
}

/// A fleet at work.
#[derive(Debug)]
pub struct Fleet {
    process: Process,
    ack_log: PathBuf,
    report: PathBuf,
}

impl Sim {
    /// A fleet that talks to the broker on `port`; `name` tells its files from another's.
    pub fn new(sandbox: &Sandbox, name: &str, port: u16, seed: u64) -> Self {
        let mut command = Command::new(programs::device_sim());
        command.args(["run", "--broker", &format!("127.0.0.1:{port}")]);
        command.args(["--seed", &seed.to_string()]);
        Self {
            command,
            name: name.to_owned(),
            dir: sandbox.dir().to_path_buf(),
        }
    }

    /// How many devices, and messages a second of all of them together (0: as fast as
    /// the window allows).
    #[must_use]
    pub fn load(self, devices: u32, rate: u32) -> Self {
        self.with(&[
            "--devices",
            &devices.to_string(),
            "--rate",
            &rate.to_string(),
        ])
    }

    /// Ends by itself after this time.
    #[must_use]
    pub fn lasting(self, time: Duration) -> Self {
        self.with(&["--for", &format!("{}s", time.as_secs())])
    }

    /// Any further arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Fleet {
        let file = |what: &str| self.dir.join(format!("{}-{what}", self.name));
        let (ack_log, report) = (file("acks.ndjson"), file("report.json"));
        self.command
            .arg("--ack-log")
            .arg(&ack_log)
            .arg("--report")
            .arg(&report);
        let process = Process::spawn(self.command, &self.name, &file("sim.log"));
        Fleet {
            process,
            ack_log,
            report,
        }
    }
}

impl Fleet {
    /// Waits until every message is acknowledged and the fleet is done. Gives its report.
    ///
    /// # Panics
    /// When it takes longer than `within`, or the fleet fails.
    #[track_caller]
    pub fn finish(&mut self, within: Duration) -> Value {
        let status = self.process.wait(within);
        assert!(
            status.success(),
            "the fleet ended with {status}; {}",
            self.process.tail()
        );
        let text = std::fs::read_to_string(&self.report).expect("a fleet leaves a report");
        serde_json::from_str(&text).expect("a report is JSON")
    }

    /// Tells it to publish no more (SIGINT), and finishes.
    ///
    /// # Panics
    /// When it had ended before, or as [`Self::finish`].
    #[track_caller]
    pub fn stop(&mut self, within: Duration) -> Value {
        assert!(
            self.process.ended().is_none(),
            "the load had ended; {}",
            self.process.tail()
        );
        self.process.signal(Signal::INT);
        self.finish(within)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The log of what was sent and acknowledged.
    pub fn ack_log(&self) -> &Path {
        &self.ack_log
    }
}
