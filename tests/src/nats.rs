//! A NATS server with JetStream, as a process; or a cluster of three.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Sandbox, http, ports, process::Process, programs, skip, wait};

/// A server that is killed and comes back with the same streams on the same port.
#[derive(Debug)]
pub struct NatsServer {
    /// Where clients connect.
    pub port: u16,
    monitor: u16,
    program: PathBuf,
    dir: PathBuf,
    /// What makes it one of a cluster.
    more: Vec<String>,
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
        let process = spawn(&program, &dir, port, monitor, &[]);
        let mut server = Self {
            port,
            monitor,
            program,
            dir,
            more: Vec::new(),
            process,
        };
        server.wait_until_ready();
        Some(server)
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
        let Self { port, monitor, .. } = *self;
        self.process = spawn(&self.program, &self.dir, port, monitor, &self.more);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait::until(
            Duration::from_secs(30),
            "the NATS server to be ready",
            || {
                if let Some(status) = self.process.ended() {
                    panic!("the NATS server ended: {status}; {}", self.process.tail());
                }
                http::get(self.monitor, "/healthz").filter(|reply| reply.status == 200)
            },
        );
    }

    /// Messages that a stream holds; `None` when there is no such stream.
    pub fn messages(&self, stream: &str) -> Option<u64> {
        self.detail(stream)?.pointer("/state/messages")?.as_u64()
    }

    /// Writes what a stream has into a new directory, one event a line, in its order.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn dump(&self, sandbox: &Sandbox, stream: &str) -> PathBuf {
        let dir = sandbox.path(&format!("{stream}-dump"));
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        let count = self.messages(stream).expect("the stream is there");
        let bytes = self.events(stream, count).expect("the server speaks NATS");
        fs::write(dir.join("all.ndjson"), bytes).expect("the sandbox takes a file");
        dir
    }

    /// So many payloads of a stream from its beginning, one a line: the server pushes them
    /// to a subscription of ours.
    fn events(&self, stream: &str, count: u64) -> std::io::Result<Vec<u8>> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let consumer = json!({
            "stream_name": stream,
            "config": { "deliver_subject": "look", "deliver_policy": "all", "ack_policy": "none" },
        });
        let consumer = consumer.to_string();
        write!(
            &socket,
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB look 1\r\nSUB said 2\r\n\
             PUB $JS.API.CONSUMER.CREATE.{stream} said {}\r\n{consumer}\r\n",
            consumer.len()
        )?;
        let mut from = BufReader::new(&socket);
        let (mut events, mut seen, mut line) = (Vec::new(), 0, String::new());
        while seen < count {
            line.clear();
            if from.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |word: &str| word.parse::<usize>().map_err(std::io::Error::other);
            // HMSG subject id [reply] bytes-of-headers bytes-of-all
            let (headers, length) = match words.as_slice() {
                ["HMSG", .., headers, all] => (number(headers)?, number(all)?),
                ["MSG", .., all] => (0, number(all)?),
                ["PING"] => {
                    write!(&socket, "PONG\r\n")?;
                    continue;
                }
                _ => continue,
            };
            let mut message = vec![0; length + 2];
            from.read_exact(&mut message)?;
            if words[1] == "said" {
                // What became of the consumer.
                let said = String::from_utf8_lossy(&message);
                assert!(!said.contains("\"error\""), "{said}");
                continue;
            }
            events.extend(&message[headers..length]);
            events.push(b'\n');
            seen += 1;
        }
        Ok(events)
    }

    /// The name of the server that leads a stream, as this one sees it.
    fn leader(&self, stream: &str) -> Option<String> {
        let detail = self.detail(stream)?;
        let leader = detail.pointer("/cluster/leader")?.as_str()?;
        (!leader.is_empty()).then(|| leader.to_owned())
    }

    fn detail(&self, stream: &str) -> Option<Value> {
        let reply = http::get(self.monitor, "/jsz?streams=true")?;
        let streams: Value = serde_json::from_str(&reply.body).ok()?;
        streams
            .get("account_details")?
            .as_array()?
            .iter()
            .filter_map(|account| account.get("stream_detail")?.as_array())
            .flatten()
            .find(|detail| detail.get("name").and_then(Value::as_str) == Some(stream))
            .cloned()
    }
}

/// Three servers that keep their streams together.
#[derive(Debug)]
pub struct NatsCluster {
    /// The servers, `n0` to `n2`.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts them; `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(program) = programs::nats_server() else {
            skip::missing_program("nats-server");
            return None;
        };
        let routes: [u16; 3] = std::array::from_fn(|_| ports::free());
        let all = routes.map(|port| format!("nats://127.0.0.1:{port}"));
        let one = |n: usize| {
            let (port, monitor) = (ports::free(), ports::free());
            let dir = sandbox.path(&format!("nats-{n}"));
            let more = [
                ["--server_name", &format!("n{n}")],
                ["--cluster_name", "plant"],
                ["--cluster", &all[n]],
                ["--routes", &all.join(",")],
            ];
            let more: Vec<String> = more
                .as_flattened()
                .iter()
                .map(|s| (*s).to_owned())
                .collect();
            NatsServer {
                process: spawn(&program, &dir, port, monitor, &more),
                port,
                monitor,
                program: program.clone(),
                dir,
                more,
            }
        };
        // None of them is ready before the others are there.
        let mut servers: Vec<_> = (0..all.len()).map(one).collect();
        servers.iter_mut().for_each(NatsServer::wait_until_ready);
        Some(Self { servers })
    }

    /// The one that leads a stream.
    ///
    /// # Panics
    /// When nobody does for a minute.
    pub fn leader(&self, stream: &str) -> usize {
        wait::until(Duration::from_secs(60), "a leader of the stream", || {
            let leader = self.servers.iter().find_map(|one| one.leader(stream))?;
            leader.strip_prefix('n')?.parse().ok()
        })
    }
}

fn spawn(program: &Path, dir: &Path, port: u16, monitor: u16, more: &[String]) -> Process {
    let mut command = Command::new(program);
    command
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--http_port",
            &monitor.to_string(),
            "--jetstream",
            "--store_dir",
        ])
        .arg(dir)
        .args(more);
    Process::spawn(command, "nats-server", &dir.with_extension("log"))
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
