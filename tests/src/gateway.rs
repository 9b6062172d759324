//! The gateway under test, as a process.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Setup, by_device, http, log, process::Process, programs, status::Status, wait};

/// How long a gateway may take to start, on a busy machine.
const START: Duration = Duration::from_secs(30);
/// How long an orderly end may take: the grace period and some.
const STOP: Duration = Duration::from_secs(40);

/// A gateway that runs, is killed, and runs again in the same place.
#[derive(Debug)]
pub struct Gateway {
    setup: Setup,
    config: PathBuf,
    process: Process,
    expected: Vec<String>,
    log_checked: bool,
}

impl Gateway {
    /// Starts one and waits until it serves.
    ///
    /// # Panics
    /// When it does not serve in time.
    #[track_caller]
    pub fn start(setup: &Setup) -> Self {
        let config = setup.write();
        let process = spawn(setup, &config);
        let mut gateway = Self {
            setup: setup.clone(),
            config,
            process,
            expected: Vec::new(),
            log_checked: false,
        };
        gateway.wait_until_serving();
        gateway
    }

    /// Log lines at `WARN` or `ERROR` with this in them are part of the test.
    #[must_use]
    pub fn expecting(mut self, words: &[&str]) -> Self {
        self.expected
            .extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it had ended before.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!(
                "the gateway ended by itself: {status}; {}",
                self.process.tail()
            );
        }
        self.process.kill();
    }

    /// Starts it again after its end.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_with(&self.setup.clone());
    }

    /// Starts it again after its end, with another configuration.
    #[track_caller]
    pub fn start_with(&mut self, setup: &Setup) {
        self.setup = setup.clone();
        self.config = setup.write();
        self.process = spawn(setup, &self.config);
        self.wait_until_serving();
    }

    /// Asks it to end (SIGTERM) and waits until it did, in order.
    ///
    /// # Panics
    /// When it does not end in time, or not with success.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(STOP);
        assert!(
            status.success(),
            "an orderly end is {status}; {}",
            self.process.tail()
        );
        let left = self.setup.data().join("gateway.json");
        assert!(
            !left.is_file(),
            "gateway.json is still there after an orderly end"
        );
    }

    /// Ends it in order and looks through its log.
    ///
    /// # Panics
    /// When there is a warning that the test did not expect.
    #[track_caller]
    pub fn finish(mut self) {
        self.stop();
        self.check_log();
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its status, if it answers.
    ///
    /// # Panics
    /// When the answer is not a status.
    #[track_caller]
    pub fn try_status(&self) -> Option<Status> {
        let reply = http::get(self.setup.http, "/api/v1/status")?;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let status = serde_json::from_str(&reply.body)
            .unwrap_or_else(|error| panic!("{error} in {}", reply.body));
        Some(status)
    }

    /// Its status.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status()
            .unwrap_or_else(|| panic!("no status; {}", self.process.tail()))
    }

    /// Waits until the status is as wanted, and gives it.
    ///
    /// # Panics
    /// When it took longer than `within`; the last status is in the message.
    #[track_caller]
    pub fn wait_for(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Status {
        let deadline = std::time::Instant::now() + within;
        loop {
            let status = self.try_status();
            if let Some(status) = &status
                && wanted(status)
            {
                return status.clone();
            }
            assert!(
                std::time::Instant::now() < deadline,
                "waited {within:?} in vain for {what}; {status:#?}; {}",
                self.process.tail()
            );
            wait::pass(Duration::from_millis(50));
        }
    }

    /// Waits until nothing waits for any destination; the ledger balances then, also by
    /// device where there is a read side.
    #[track_caller]
    pub fn wait_until_drained(&self, within: Duration) -> Status {
        let status = self.wait_for(within, "an empty backlog", Status::drained);
        status.assert_balanced();
        by_device::assert_balanced(self, &status);
        status
    }

    /// Runs a subcommand with this gateway's configuration.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(programs::penstock())
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()
            .expect("the gateway's program runs")
    }

    /// Runs a subcommand and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(
            output.status.success(),
            "penstock {arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn wait_until_serving(&mut self) {
        let file = self.setup.data().join("gateway.json");
        let process = &mut self.process;
        let http_port = self.setup.http;
        wait::until(START, "the gateway to serve", || {
            if let Some(status) = process.ended() {
                panic!(
                    "the gateway ended instead of serving: {status}; {}",
                    process.tail()
                );
            }
            // A killed gateway leaves its file behind: this one's has its process id.
            let text = fs::read_to_string(&file).ok()?;
            let pid = serde_json::from_str::<Value>(&text)
                .ok()?
                .get("pid")?
                .as_u64()?;
            let serving = pid == u64::from(process.id())
                && http::get(http_port, "/healthz").is_some_and(|reply| reply.status == 200);
            serving.then_some(())
        });
    }

    #[track_caller]
    fn check_log(&mut self) {
        self.log_checked = true;
        let lines = log::unexpected(self.setup.log(), &self.expected);
        assert!(
            lines.is_empty(),
            "unexpected in the log:\n{}",
            lines.join("\n")
        );
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill();
        if !thread::panicking() && !self.log_checked {
            self.check_log();
        }
    }
}

fn spawn(setup: &Setup, config: &std::path::Path) -> Process {
    let mut command = Command::new(programs::penstock());
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .env("RUST_BACKTRACE", "1");
    Process::spawn(command, "gateway", setup.log())
}
