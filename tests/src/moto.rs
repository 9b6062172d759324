//! moto, a stand-in for Amazon's services, as a process. It keeps everything in memory.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::{Sandbox, http, ports, process::Process, programs, skip, wait};

/// Starts the server, whatever the path says.
const SERVE: &str = "from moto.server import main; main()";

/// Speaks to the server: makes a stream, or writes what its shards have, in their order,
/// one event a line.
const SCRIPT: &str = r"
import boto3, os, sys
port, what, stream = sys.argv[1:4]
client = boto3.client('kinesis', endpoint_url='http://127.0.0.1:' + port,
    region_name='eu-central-1', aws_access_key_id='a', aws_secret_access_key='b')
if what == 'create':
    client.create_stream(StreamName=stream, ShardCount=4)
    client.get_waiter('stream_exists').wait(StreamName=stream)
else:
    shards = client.list_shards(StreamName=stream)['Shards']
    for shard in shards:
        name = shard['ShardId']
        at = client.get_shard_iterator(StreamName=stream, ShardId=name,
            ShardIteratorType='TRIM_HORIZON')['ShardIterator']
        with open(os.path.join(sys.argv[4], name + '.ndjson'), 'wb') as out:
            while True:
                page = client.get_records(ShardIterator=at, Limit=10000)
                for record in page['Records']:
                    out.write(record['Data'] + b'\n')
                if not page['Records'] and page['MillisBehindLatest'] == 0:
                    break
                at = page['NextShardIterator']
";

/// See the module.
#[derive(Debug)]
pub struct MotoServer {
    /// Where clients connect.
    pub port: u16,
    modules: PathBuf,
    _process: Process,
}

impl MotoServer {
    /// Starts one; `None`, said aloud, where it is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(modules) = programs::moto() else {
            skip::missing_program("moto");
            return None;
        };
        let port = ports::free();
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &modules).args([
            "-c",
            SERVE,
            "-H",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        let mut process = Process::spawn(command, "moto", &sandbox.path("moto.log"));
        wait::until(Duration::from_secs(60), "moto to be ready", || {
            if let Some(status) = process.ended() {
                panic!("moto ended: {status}; {}", process.tail());
            }
            http::get(port, "/moto-api/").filter(|reply| reply.status == 200)
        });
        Some(Self {
            port,
            modules,
            _process: process,
        })
    }

    /// Makes a stream with four shards.
    pub fn create_stream(&self, stream: &str) {
        self.script(&["create", stream]);
    }

    /// Writes what the stream has into a new directory, a file for each shard.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn dump(&self, sandbox: &Sandbox, stream: &str) -> PathBuf {
        let dir = sandbox.path(&format!("{stream}-dump"));
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        self.script(&["dump", stream, &dir.display().to_string()]);
        dir
    }

    fn script(&self, arguments: &[&str]) {
        let output = Command::new("python3")
            .env("PYTHONPATH", &self.modules)
            .args(["-c", SCRIPT, &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "moto: {arguments:?}: {said}");
    }
}
