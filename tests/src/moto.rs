//! moto, a stand-in for Amazon's services, as a process. It keeps everything in memory, and
//! what was asked of it in a file, from which it begins again after a kill.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Sandbox, http, ports, process::Process, programs, skip, wait};

/// Starts the server, whatever the path says.
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/moto_server.py");

/// Speaks to the server.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/amazon.py");

/// See the module.
#[derive(Debug)]
pub struct MotoServer {
    /// Where clients connect.
    pub port: u16,
    modules: PathBuf,
    log: PathBuf,
    process: Process,
}

impl MotoServer {
    /// Starts one; `None`, said aloud, where it is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(modules) = programs::moto() else {
            skip::missing_program("moto");
            return None;
        };
        let (port, log) = (ports::free(), sandbox.path("moto-requests"));
        let process = spawn(&modules, port, &log);
        let mut server = Self {
            port,
            modules,
            log,
            process,
        };
        server.wait_until_ready();
        Some(server)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port, with all that it was asked to do.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.modules, self.port, &self.log);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait::until(Duration::from_secs(60), "moto to be ready", || {
            if let Some(status) = self.process.ended() {
                panic!("moto ended: {status}; {}", self.process.tail());
            }
            http::get(self.port, "/moto-api/").filter(|reply| reply.status == 200)
        });
    }

    /// Makes a stream with four shards.
    pub fn create_stream(&self, stream: &str) {
        self.run(&["stream", stream]);
    }

    /// Writes what the stream has into a new directory, a file for each shard.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn dump(&self, sandbox: &Sandbox, stream: &str) -> PathBuf {
        let dir = directory(sandbox, stream);
        self.run(&["stream-events", stream, &dir.display().to_string()]);
        dir
    }

    /// Makes a queue, a FIFO one if its name ends so; gives its URL.
    pub fn create_queue(&self, queue: &str) -> String {
        self.run(&["queue", queue])
    }

    /// Makes a topic, a FIFO one if its name ends so; gives its ARN.
    pub fn create_topic(&self, topic: &str) -> String {
        self.run(&["topic", topic])
    }

    /// A queue gets what the filter policy lets through; all of it without one.
    pub fn subscribe(&self, topic: &str, queue: &str, policy: Option<&str>) {
        self.run(&["subscribe", topic, queue, policy.unwrap_or_default()]);
    }

    /// Makes an event bus, and a group of logs that gets all that comes from a gateway.
    pub fn create_bus(&self, bus: &str) {
        self.run(&["bus", bus]);
    }

    /// Writes what came by an event bus into a new directory.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn bus_events(&self, sandbox: &Sandbox, bus: &str) -> PathBuf {
        let dir = directory(sandbox, bus);
        let file = dir.join("events.ndjson");
        self.run(&["bus-events", bus, &file.display().to_string()]);
        dir
    }

    /// Takes everything out of a queue and writes it into a new directory, in its order.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn messages(&self, sandbox: &Sandbox, name: &str, queue: &str) -> PathBuf {
        let dir = directory(sandbox, name);
        let file = dir.join("messages.ndjson");
        self.run(&["messages", queue, &file.display().to_string()]);
        dir
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) {
        self.run(&["bucket", bucket]);
    }

    /// Writes what is in a bucket into a new directory, a file for each object.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn objects(&self, sandbox: &Sandbox, bucket: &str) -> PathBuf {
        let dir = directory(sandbox, bucket);
        self.run(&["objects", bucket, &dir.display().to_string()]);
        dir
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("python3")
            .env("PYTHONPATH", &self.modules)
            .args([CLIENT, &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "moto: {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn spawn(modules: &Path, port: u16, log: &Path) -> Process {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", modules)
        .args([SERVER, &port.to_string()])
        .arg(log);
    Process::spawn(command, "moto", &log.with_extension("log"))
}

fn directory(sandbox: &Sandbox, name: &str) -> PathBuf {
    let dir = sandbox.path(&format!("{name}-dump"));
    fs::create_dir_all(&dir).expect("the sandbox takes a directory");
    dir
}
