//! A Mosquitto broker, as a process.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{Sandbox, ports, process::Process, programs, skip, wait};

/// A broker that can end in order and come back with its sessions on the same port.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where clients connect.
    pub port: u16,
    program: PathBuf,
    dir: PathBuf,
    process: Process,
}

impl Mosquitto {
    /// Starts one that takes anybody; `None`, said aloud, where the program is missing.
    ///
    /// # Panics
    /// When the sandbox cannot be written, or it does not start.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(program) = programs::on_path("mosquitto") else {
            skip::missing_program("mosquitto");
            return None;
        };
        let port = ports::free();
        let dir = sandbox.path("mosquitto");
        fs::create_dir_all(&dir).expect("the sandbox can be written");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n\
             persistence true\npersistence_location {}/\nmax_queued_messages 0\n",
            dir.display()
        );
        fs::write(dir.join("conf"), text).expect("the sandbox can be written");
        let process = spawn(&program, &dir, port);
        Some(Self {
            port,
            program,
            dir,
            process,
        })
    }

    /// Ends it in order: it writes its sessions down.
    pub fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(20));
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.program, &self.dir, self.port);
    }
}

fn spawn(program: &std::path::Path, dir: &std::path::Path, port: u16) -> Process {
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.join("conf"));
    let mut process = Process::spawn(command, "mosquitto", &dir.with_extension("log"));
    wait::until(Duration::from_secs(20), "mosquitto to listen", || {
        if let Some(status) = process.ended() {
            panic!("mosquitto ended: {status}; {}", process.tail());
        }
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    process
}

/// A `mosquitto_sub` that writes down what it gets.
#[derive(Debug)]
pub struct Subscriber {
    output: PathBuf,
    process: Process,
}

impl Subscriber {
    /// Subscribes at QoS 1 in MQTT 5, and waits until that is so. `None`, said aloud,
    /// where the program is missing.
    pub fn start(sandbox: &Sandbox, port: u16, filter: &str) -> Option<Self> {
        for program in ["mosquitto_sub", "stdbuf"] {
            if programs::on_path(program).is_none() {
                skip::missing_program(program);
                return None;
            }
        }
        // Its own buffering would keep what it gets from us.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "mosquitto_sub", "-d", "-V", "5", "-q", "1"])
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", filter])
            .args(["-F", "GOT %t %C %P %p"]);
        let output = sandbox.path(&format!("subscriber-{port}.log"));
        let process = Process::spawn(command, "mosquitto_sub", &output);
        let subscriber = Self { output, process };
        wait::until(Duration::from_secs(20), "the subscription", || {
            subscriber.text().contains("Subscribed").then_some(())
        });
        Some(subscriber)
    }

    /// Each message: topic, content type, properties, payload, with blanks between.
    pub fn messages(&self) -> Vec<String> {
        let text = self.text();
        // What has no end yet is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter_map(|line| line.strip_prefix("GOT "));
        lines.map(str::to_owned).collect()
    }

    /// Waits for so many messages.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<String> {
        wait::until(Duration::from_secs(30), "messages", || {
            Some(self.messages()).filter(|messages| messages.len() >= count)
        })
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Publishes one message at QoS 1 in MQTT 5, with user properties.
///
/// # Panics
/// When it is not acknowledged.
#[track_caller]
pub fn publish(port: u16, topic: &str, payload: &str, user: &[(&str, &str)]) {
    let mut more = vec!["-q", "1"];
    for (name, value) in user {
        more.extend(["-D", "publish", "user-property", name, value]);
    }
    publish_with(port, topic, payload, &more);
}

/// Publishes one message in MQTT 5, as further arguments of `mosquitto_pub` say.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn publish_with(port: u16, topic: &str, payload: &str, more: &[&str]) {
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "5"])
        .args(["-t", topic, "-m", payload])
        .args(more);
    let output = command.output().expect("mosquitto_pub runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Publishes each line as a message, at QoS 1 over one connection.
///
/// # Panics
/// When they are not acknowledged.
#[track_caller]
pub fn publish_lines(port: u16, topic: &str, lines: &str) {
    let mut process = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(["-q", "1", "-t", topic, "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub runs");
    let mut input = process.stdin.take().expect("it was asked for");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let status = process.wait().expect("it ends");
    assert!(status.success(), "{status}");
}
