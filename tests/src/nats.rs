//! A NATS server with JetStream, as a process.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::{Sandbox, http, ports, process::Process, programs, skip, wait};

/// A server that is killed and comes back with the same streams on the same port.
#[derive(Debug)]
pub struct NatsServer {
    /// Where clients connect.
    pub port: u16,
    monitor: u16,
    program: PathBuf,
    dir: PathBuf,
    process: Process,
}

impl NatsServer {
    /// Starts one; `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(program) = programs::nats_server() else {
            skip::missing_program("nats-server");
            return None;
        };
        let (port, monitor) = (ports::free(), ports::free());
        let dir = sandbox.path("nats");
        let process = spawn(&program, &dir, port, monitor);
        Some(Self {
            port,
            monitor,
            program,
            dir,
            process,
        })
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.program, &self.dir, self.port, self.monitor);
    }

    /// Messages that a stream holds; `None` when there is no such stream.
    pub fn messages(&self, stream: &str) -> Option<u64> {
        let reply = http::get(self.monitor, "/jsz?streams=true")?;
        let streams: Value = serde_json::from_str(&reply.body).ok()?;
        streams
            .get("account_details")?
            .as_array()?
            .iter()
            .filter_map(|account| account.get("stream_detail")?.as_array())
            .flatten()
            .find(|detail| detail.get("name").and_then(Value::as_str) == Some(stream))?
            .pointer("/state/messages")?
            .as_u64()
    }
}

fn spawn(program: &std::path::Path, dir: &std::path::Path, port: u16, monitor: u16) -> Process {
    let mut command = Command::new(program);
    command
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--http_port",
            &monitor.to_string(),
            "--jetstream",
            "--store_dir",
        ])
        .arg(dir);
    let mut process = Process::spawn(command, "nats-server", &dir.with_extension("log"));
    wait::until(
        Duration::from_secs(20),
        "the NATS server to be ready",
        || {
            if let Some(status) = process.ended() {
                panic!("the NATS server ended: {status}; {}", process.tail());
            }
            http::get(monitor, "/healthz").filter(|reply| reply.status == 200)
        },
    );
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_server_comes_back_on_its_port() {
        let sandbox = Sandbox::new();
        let Some(mut nats) = NatsServer::start(&sandbox) else {
            return;
        };
        assert_eq!(nats.messages("NONE"), None);
        nats.kill();
        assert!(http::get(nats.monitor, "/healthz").is_none());
        nats.start_again();
        assert!(http::get(nats.monitor, "/healthz").is_some());
    }
}
