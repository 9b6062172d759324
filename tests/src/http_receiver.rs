//! An HTTP endpoint that keeps what it gets: the simulator's, as a process.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Sandbox, ports, process::Process, programs, wait};

/// A receiver that writes every event to a file, dedupes nothing, and comes back on the
/// same port.
#[derive(Debug)]
pub struct HttpReceiver {
    /// Where it listens.
    pub port: u16,
    out: PathBuf,
    log: PathBuf,
    process: Process,
}

impl HttpReceiver {
    /// Starts one. What it gets is written to a file in a directory of its own.
    ///
    /// # Panics
    /// When the sandbox cannot be written.
    pub fn start(sandbox: &Sandbox) -> Self {
        let port = ports::free();
        let dir = sandbox.path(&format!("received-{port}"));
        std::fs::create_dir_all(&dir).expect("the sandbox can be written");
        let (out, log) = (
            dir.join("events.ndjson"),
            sandbox.path(&format!("receiver-{port}.log")),
        );
        let process = spawn(port, &out, &log);
        Self {
            port,
            out,
            log,
            process,
        }
    }

    /// The directory with what it got.
    ///
    /// # Panics
    /// Never: the file is in a directory.
    pub fn dir(&self) -> &Path {
        self.out.parent().expect("the file is in a directory")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again; it goes on with the same file.
    pub fn start_again(&mut self) {
        self.process = spawn(self.port, &self.out, &self.log);
    }
}

fn spawn(port: u16, out: &Path, log: &Path) -> Process {
    let mut command = Command::new(programs::device_sim());
    command
        .args(["receive", "--listen", &format!("127.0.0.1:{port}"), "--out"])
        .arg(out);
    let mut process = Process::spawn(command, "receiver", log);
    wait::until(Duration::from_secs(20), "the receiver to listen", || {
        if let Some(status) = process.ended() {
            panic!("the receiver ended: {status}; {}", process.tail());
        }
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()
    });
    process
}
