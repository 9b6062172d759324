//! Apache Kafka as one process, broker and controller in one (`KRaft`).

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Sandbox, ports, process::Process, programs, skip, wait};

/// How long Java may take on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A server that is killed and comes back with the same topics on the same port.
#[derive(Debug)]
pub struct KafkaServer {
    /// Where the broker listens.
    pub port: u16,
    jars: PathBuf,
    dir: PathBuf,
    process: Process,
}

impl KafkaServer {
    /// Starts one that tells clients to come to `advertised`, or to its own port;
    /// `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox, advertised: impl FnOnce(u16) -> u16) -> Option<Self> {
        let Some(jars) = programs::kafka() else {
            skip::missing_program("kafka or java");
            return None;
        };
        let (port, controller) = (ports::free(), ports::free());
        let advertised = advertised(port);
        let dir = sandbox.path("kafka");
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        let config = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             num.partitions=3\nauto.create.topics.enable=false\n",
            dir.join("data").display()
        );
        fs::write(dir.join("server.properties"), config).expect("the sandbox takes a file");
        run(java(&jars, "kafka.tools.StorageTool")
            .args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c"])
            .arg(dir.join("server.properties")));
        let process = spawn(&jars, &dir, port);
        Some(Self {
            port,
            jars,
            dir,
            process,
        })
    }

    /// Makes a topic with three partitions, and these settings besides.
    pub fn create_topic(&self, topic: &str, settings: &[&str]) {
        let mut command = java(&self.jars, "org.apache.kafka.tools.TopicCommand");
        command
            .args(["--bootstrap-server", &self.address(), "--create"])
            .args(["--topic", topic, "--partitions", "3"]);
        for setting in settings {
            command.args(["--config", setting]);
        }
        run(&mut command);
    }

    /// Writes what a topic has into a new directory, one event a line; events of a
    /// partition in their order. `count` are there at least.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn dump(&self, sandbox: &Sandbox, topic: &str, count: u64) -> PathBuf {
        let dir = sandbox.path(&format!("{topic}-dump"));
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        let output = java(&self.jars, class)
            .args(["--bootstrap-server", &self.address(), "--topic", topic])
            .args(["--from-beginning", "--timeout-ms", "10000"])
            .args(["--isolation-level", "read_committed"])
            .output()
            .expect("java runs");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(lines as u64 >= count, "{lines} of {count} events; {said}");
        fs::write(dir.join("all.ndjson"), output.stdout).expect("the sandbox takes a file");
        dir
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.jars, &self.dir, self.port);
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn java(jars: &Path, class: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars.join("*"))
        .arg(class);
    command
}

fn spawn(jars: &Path, dir: &Path, port: u16) -> Process {
    let mut command = java(jars, "kafka.Kafka");
    command.arg(dir.join("server.properties"));
    let mut process = Process::spawn(command, "kafka", &dir.join("server.log"));
    wait::until(START, "Kafka to listen", || {
        if let Some(status) = process.ended() {
            panic!("Kafka ended: {status}; {}", process.tail());
        }
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    process
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("java runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
