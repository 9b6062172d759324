//! OpenSearch as one process: a node that is a cluster of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Sandbox, http, nobody, ports, process::Process, programs, skip, wait};

/// How long Java may take on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Documents of an answer.
const PAGE: usize = 2_000;
const VERSION: &str = "2.19.6";
/// The one module that a node cannot do without.
const TRANSPORT: &str = "modules/transport-netty4";

/// A node that is killed and comes back with the same documents on the same port.
#[derive(Debug)]
pub struct OpenSearchServer {
    /// Where it answers.
    pub port: u16,
    home: PathBuf,
    process: Process,
}

impl OpenSearchServer {
    /// Starts one; `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(jars) = programs::opensearch() else {
            skip::missing_program("opensearch or java");
            return None;
        };
        let (port, home) = (ports::free(), sandbox.path("opensearch"));
        nobody::dir(sandbox, &home);
        install(&jars, &home);
        let config = format!(
            "cluster.name: tests\nnode.name: one\ndiscovery.type: single-node\n\
             network.host: 127.0.0.1\nhttp.port: {port}\ntransport.port: {}\n\
             bootstrap.system_call_filter: false\n\
             cluster.routing.allocation.disk.threshold_enabled: false\n",
            ports::free()
        );
        write(&home, "config/opensearch.yml", &config);
        let process = spawn(&home);
        let mut server = Self {
            port,
            home,
            process,
        };
        server.wait_until_ready();
        Some(server)
    }

    /// The answer to a question.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let reply = http::get(self.port, path).expect("the node answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        serde_json::from_str(&reply.body).expect("an answer is JSON")
    }

    /// Has something done.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn post(&self, path: &str) {
        let request = format!("POST {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        let reply = http::exchange(self.port, request.as_bytes()).expect("the node answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }

    /// All documents of some indices, in the order in which each index got them.
    pub fn documents(&self, indices: &str) -> Vec<Value> {
        // What is not refreshed is not found.
        self.post(&format!("/{indices}/_refresh"));
        let mut page = self.get(&format!(
            "/{indices}/_search?scroll=1m&size={PAGE}&sort=_index,_seq_no"
        ));
        let mut documents = Vec::new();
        loop {
            let hits = page["hits"]["hits"].as_array().expect("hits").clone();
            if hits.is_empty() {
                return documents;
            }
            documents.extend(hits);
            let id = page["_scroll_id"]
                .as_str()
                .expect("there is more to ask for");
            page = self.get(&format!("/_search/scroll?scroll=1m&scroll_id={id}"));
        }
    }

    /// Writes the documents into a new directory, as events, one a line.
    pub fn dump(&self, sandbox: &Sandbox, indices: &str) -> PathBuf {
        let dir = sandbox.path("opensearch-dump");
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        let mut lines = String::new();
        for hit in self.documents(indices) {
            let mut event = hit["_source"].clone();
            let values = event["values"].as_object().cloned().unwrap_or_default();
            let measurement = |(name, value)| json!({ "n": name, "v": value });
            let measurements: Vec<Value> = values.into_iter().map(measurement).collect();
            event["data"] = json!({ "m": measurements, "tags": event["tags"] });
            lines.push_str(&event.to_string());
            lines.push('\n');
        }
        fs::write(dir.join("all.ndjson"), lines).expect("the sandbox takes a file");
        dir
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.home);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait::until(START, "OpenSearch to answer", || {
            if let Some(status) = self.process.ended() {
                panic!("OpenSearch ended: {status}; {}", self.process.tail());
            }
            let health = http::get(
                self.port,
                "/_cluster/health?wait_for_status=yellow&timeout=5s",
            );
            health.filter(|reply| reply.status == 200)
        });
    }
}

/// What an archive of OpenSearch has, as far as a node needs it.
fn install(jars: &Path, home: &Path) {
    for dir in ["lib", TRANSPORT, "plugins", "config", "data", "logs"] {
        fs::create_dir_all(home.join(dir)).expect("the sandbox takes a directory");
        nobody::own(&home.join(dir));
    }
    for entry in fs::read_dir(jars).expect("there are jars") {
        let jar = entry.expect("an entry").path();
        let name = jar.file_name().expect("a name").to_string_lossy();
        let is_of_module = name.starts_with("netty") || name.starts_with("transport-netty4");
        let dir = if is_of_module { TRANSPORT } else { "lib" };
        fs::copy(&jar, home.join(dir).join(&*name)).expect("the sandbox takes a file");
    }
    let descriptor = format!(
        "description=HTTP\nversion={VERSION}\nname=transport-netty4\n\
         classname=org.opensearch.transport.Netty4Plugin\njava.version=11\n\
         opensearch.version={VERSION}\nhas.native.controller=false\n"
    );
    let policy = "grant { permission java.security.AllPermission; };\n";
    let log = "rootLogger.level = warn\nrootLogger.appenderRef.console.ref = console\n\
               appender.console.type = Console\nappender.console.name = console\n\
               appender.console.layout.type = PatternLayout\n\
               appender.console.layout.pattern = %d %p %c{1} %m%n\n";
    write(
        home,
        &format!("{TRANSPORT}/plugin-descriptor.properties"),
        &descriptor,
    );
    write(home, &format!("{TRANSPORT}/plugin-security.policy"), policy);
    write(home, "config/log4j2.properties", log);
}

fn write(home: &Path, name: &str, text: &str) {
    fs::write(home.join(name), text).expect("the sandbox takes a file");
}

fn spawn(home: &Path) -> Process {
    let mut command = nobody::run(Command::new("java"));
    let setting = |name: &str, dir: &Path| format!("-D{name}={}", dir.display());
    command
        .current_dir(home)
        .args([
            "-Xms256m",
            "-Xmx512m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
        ])
        .args(["-Djava.security.manager=allow", "-Dlog4j2.disable.jmx=true"])
        .args([
            "-Dopensearch.distribution.type=tar",
            "-Dopensearch.bundled_jdk=false",
        ])
        .arg(setting("java.io.tmpdir", &home.join("data")))
        .arg(setting("opensearch.path.home", home))
        .arg(setting("opensearch.path.conf", &home.join("config")))
        .arg("-cp")
        .arg(home.join("lib/*"))
        .arg("org.opensearch.bootstrap.OpenSearch");
    Process::spawn(command, "opensearch", &home.join("server.log"))
}
