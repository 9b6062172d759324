//! Apache Kafka: each process is broker and controller in one (`KRaft`).

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Certificates, Sandbox, ports, process::Process, programs, skip, wait};

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

/// Where a [secured](KafkaServer::secured) server listens besides.
#[derive(Debug, Clone, Copy)]
pub struct SecurePorts {
    /// Encrypted, for those with a password ([`USER`], [`PASSWORD`]).
    pub password: u16,
    /// Encrypted, for those with a certificate.
    pub certificate: u16,
}

/// Who may come with a password.
pub const USER: &str = "plant";
/// It.
pub const PASSWORD: &str = "open-sesame";

impl KafkaServer {
    /// Starts one that tells clients to come to `advertised`, or to its own port;
    /// `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox, advertised: impl FnOnce(u16) -> u16) -> Option<Self> {
        let jars = jars()?;
        let (port, controller) = (ports::free(), ports::free());
        let advertised = advertised(port);
        let server = Self::prepare(
            &jars,
            sandbox.path("kafka"),
            port,
            &format!(
                "node.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            ),
        );
        Some(server)
    }

    /// Starts one with two more doors, each behind whatever `behind` makes for its port and
    /// gives the port of; its own tools come to `port`.
    pub fn with_doors(
        sandbox: &Sandbox,
        mut behind: impl FnMut(u16) -> u16,
    ) -> Option<(Self, [u16; 2])> {
        let jars = jars()?;
        let (port, controller) = (ports::free(), ports::free());
        let doors = [0; 2].map(|_| ports::free());
        let shown = doors.map(&mut behind);
        let server = Self::prepare(
            &jars,
            sandbox.path("kafka"),
            port,
            &format!(
                "node.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
             ONE://127.0.0.1:{},TWO://127.0.0.1:{}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},\
             ONE://127.0.0.1:{},TWO://127.0.0.1:{}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n",
                doors[0], doors[1], shown[0], shown[1]
            ),
        );
        Some((server, shown))
    }

    /// Starts one that also listens for those who are known, with the certificate `server`
    /// of `certificates`. Its own tools come to `port` as ever.
    pub fn secured(sandbox: &Sandbox, certificates: &Certificates) -> Option<(Self, SecurePorts)> {
        let jars = jars()?;
        let (port, controller) = (ports::free(), ports::free());
        let (password, certificate) = (ports::free(), ports::free());
        let login = "org.apache.kafka.common.security";
        let server = Self::prepare(
            &jars,
            sandbox.path("kafka"),
            port,
            &format!(
                "node.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
             SASL_SSL://127.0.0.1:{password},SSL://127.0.0.1:{certificate}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             ssl.keystore.type=PEM\nssl.keystore.location={}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.ssl.ssl.client.auth=required\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={login}.plain.PlainLoginModule \
             required user_{USER}=\"{PASSWORD}\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;\n",
                certificates.both("server").display(),
                certificates.ca().display(),
            ),
        );
        let ports = SecurePorts {
            password,
            certificate,
        };
        Some((server, ports))
    }

    /// Starts one with these settings besides those of all.
    fn prepare(jars: &Path, dir: PathBuf, port: u16, settings: &str) -> Self {
        format(jars, &dir, settings);
        let mut process = spawn(jars, &dir);
        wait_for(&mut process, port);
        Self {
            port,
            jars: jars.to_path_buf(),
            dir,
            process,
        }
    }

    /// Makes a topic with three partitions, and these settings besides.
    pub fn create_topic(&self, topic: &str, settings: &[&str]) {
        create_topic(&self.jars, &self.address(), topic, settings);
    }

    /// Whoever calls himself `client` may send so many bytes a second.
    pub fn slow_down(&self, client: &str, bytes_per_sec: u32) {
        let quota = format!("producer_byte_rate={bytes_per_sec}");
        self.alter_client(client, &["--add-config", &quota]);
    }

    /// He may send as much as he likes again.
    pub fn speed_up(&self, client: &str) {
        self.alter_client(client, &["--delete-config", "producer_byte_rate"]);
    }

    fn alter_client(&self, client: &str, change: &[&str]) {
        let mut command = java(&self.jars, "kafka.admin.ConfigCommand");
        command
            .args(["--bootstrap-server", &self.address(), "--alter"])
            .args(["--entity-type", "clients", "--entity-name", client])
            .args(change);
        run(&mut command);
    }

    /// Writes what a topic has into a new directory, one event a line; events of a
    /// partition in their order. `count` are there at least.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn dump(&self, sandbox: &Sandbox, topic: &str, count: u64) -> PathBuf {
        dump(&self.jars, &self.address(), sandbox, topic, count)
    }

    /// Puts records into a topic, in order: a header, the key, the value. Neither has a tab,
    /// and a key that is `NULL` is none.
    pub fn produce(&self, topic: &str, records: &[(&str, &str, &str)]) {
        use std::{io::Write as _, process::Stdio};
        let mut lines = String::new();
        for (header, key, value) in records {
            lines += &format!("{header}\t{key}\t{value}\n");
        }
        let mut command = java(&self.jars, "org.apache.kafka.tools.ConsoleProducer");
        command.args(["--bootstrap-server", &self.address(), "--topic", topic]);
        for property in ["parse.key=true", "parse.headers=true", "null.marker=NULL"] {
            command.args(["--property", property]);
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut producer = piped.expect("java runs");
        let mut input = producer.stdin.take().expect("it is piped");
        input.write_all(lines.as_bytes()).expect("it reads");
        drop(input);
        let status = producer.wait().expect("it ends");
        assert!(status.success(), "{command:?}: {status}");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.jars, &self.dir);
        wait_for(&mut self.process, self.port);
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Three servers, each broker and controller.
#[derive(Debug)]
pub struct KafkaCluster {
    /// Where the brokers listen.
    pub ports: [u16; 3],
    jars: PathBuf,
    dirs: [PathBuf; 3],
    processes: [Process; 3],
}

impl KafkaCluster {
    /// Starts them; `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let jars = jars()?;
        let (ports, controllers) = ([0; 3].map(|_| ports::free()), [0; 3].map(|_| ports::free()));
        let [one, two, three] = controllers;
        let dirs = [1, 2, 3].map(|id| {
            let (port, controller) = (ports[id - 1], controllers[id - 1]);
            let dir = sandbox.path(&format!("kafka-{id}"));
            format(
                &jars,
                &dir,
                &format!(
                    "node.id={id}\ncontroller.quorum.voters=\
                 1@127.0.0.1:{one},2@127.0.0.1:{two},3@127.0.0.1:{three}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 default.replication.factor=3\nmin.insync.replicas=2\n"
                ),
            );
            dir
        });
        let processes = dirs.each_ref().map(|dir| spawn(&jars, dir));
        let mut cluster = Self {
            ports,
            jars,
            dirs,
            processes,
        };
        for (process, port) in cluster.processes.iter_mut().zip(ports) {
            wait_for(process, port);
        }
        Some(cluster)
    }

    /// Makes a topic with three partitions: each broker leads one, and the others have it.
    pub fn create_topic(&self, topic: &str) {
        create_topic(&self.jars, &self.address(), topic, &[]);
    }

    /// As [`KafkaServer::dump`].
    pub fn dump(&self, sandbox: &Sandbox, topic: &str, count: u64) -> PathBuf {
        dump(&self.jars, &self.address(), sandbox, topic, count)
    }

    /// `kill -9` of one.
    pub fn kill(&mut self, which: usize) {
        self.processes[which].kill();
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self, which: usize) {
        self.processes[which] = spawn(&self.jars, &self.dirs[which]);
        wait_for(&mut self.processes[which], self.ports[which]);
    }

    fn address(&self) -> String {
        self.ports.map(|port| format!("127.0.0.1:{port}")).join(",")
    }
}

fn jars() -> Option<PathBuf> {
    let jars = programs::kafka();
    if jars.is_none() {
        skip::missing_program("kafka or java");
    }
    jars
}

/// Writes the configuration and prepares the directory of a server.
fn format(jars: &Path, dir: &Path, settings: &str) {
    fs::create_dir_all(dir).expect("the sandbox takes a directory");
    let config = format!(
        "process.roles=broker,controller\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=\
         CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,\
         ONE:PLAINTEXT,TWO:PLAINTEXT\n\
         group.initial.rebalance.delay.ms=0\n\
         log.dirs={}\nnum.partitions=3\nauto.create.topics.enable=false\n{settings}",
        dir.join("data").display()
    );
    fs::write(dir.join("server.properties"), config).expect("the sandbox takes a file");
    let mut command = java(jars, "kafka.tools.StorageTool");
    command
        .args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c"])
        .arg(dir.join("server.properties"));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let user = format!("{mechanism}=[name={USER},password={PASSWORD}]");
        command.args(["--add-scram", &user]);
    }
    run(&mut command);
}

fn create_topic(jars: &Path, address: &str, topic: &str, settings: &[&str]) {
    let mut command = java(jars, "org.apache.kafka.tools.TopicCommand");
    command
        .args(["--bootstrap-server", address, "--create"])
        .args(["--topic", topic, "--partitions", "3"]);
    for setting in settings {
        command.args(["--config", setting]);
    }
    run(&mut command);
}

fn dump(jars: &Path, address: &str, sandbox: &Sandbox, topic: &str, count: u64) -> PathBuf {
    let dir = sandbox.path(&format!("{topic}-dump"));
    fs::create_dir_all(&dir).expect("the sandbox takes a directory");
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let mut said = String::new();
    // On a busy machine its patience may end before the broker has let it join its group.
    for _ in 0..3 {
        let output = java(jars, class)
            .args(["--bootstrap-server", address, "--topic", topic])
            .args(["--from-beginning", "--timeout-ms", "5000"])
            .args(["--isolation-level", "read_committed"])
            .output()
            .expect("java runs");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        if lines as u64 >= count {
            fs::write(dir.join("all.ndjson"), output.stdout).expect("the sandbox takes a file");
            return dir;
        }
        let error = String::from_utf8_lossy(&output.stderr);
        said += &format!("{lines} of {count} events; {error}\n");
    }
    panic!("{said}");
}

fn java(jars: &Path, class: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars.join("*"))
        .arg(class);
    command
}

fn spawn(jars: &Path, dir: &Path) -> Process {
    let mut command = java(jars, "kafka.Kafka");
    command.arg(dir.join("server.properties"));
    Process::spawn(command, "kafka", &dir.join("server.log"))
}

fn wait_for(process: &mut Process, port: u16) {
    wait::until(START, "Kafka to listen", || {
        if let Some(status) = process.ended() {
            panic!("Kafka ended: {status}; {}", process.tail());
        }
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("java runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
