//! The audit of a JetStream stream, with a real server. Says aloud when there is none.

use std::{
    env, fs,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream};

use crate::device_sim;

struct NatsServer {
    process: Child,
    url: String,
}

impl NatsServer {
    fn start(store: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let program = env::var_os("PENSTOCK_NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let process = Command::new(program)
            .args([
                "-js",
                "-a",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-sd",
                store.to_str().unwrap(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match process {
            Ok(process) => Some(Self {
                process,
                url: format!("nats://127.0.0.1:{port}"),
            }),
            Err(error) => {
                let required =
                    env::var_os("PENSTOCK_REQUIRE_TOOLS").is_some_and(|value| value == "1");
                assert!(!required, "nats-server is required here: {error}");
                let test = std::thread::current().name().unwrap_or("?").to_owned();
                // Past the capture of the test's output, so that it is seen although the test passes.
                writeln!(std::io::stderr(), "SKIPPED: {test}: nats-server is missing")
                    .expect("standard error takes a line");
                None
            }
        }
    }

    async fn connect(&self) -> jetstream::Context {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match async_nats::connect(&self.url).await {
                Ok(client) => return jetstream::new(client),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_stream_is_read_whole_and_in_order() {
    const MESSAGES: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = NatsServer::start(&dir.path().join("js")) else {
        return;
    };
    let log = dir.path().join("ack.log");
    let mut lines = String::new();
    for n in 0..MESSAGES {
        lines += &format!(
            "{{\"t\":\"sent\",\"id\":\"sim-d-1-{n}\",\"device\":\"d\",\"n\":{n},\"malformed\":false}}\n"
        );
        lines += &format!("{{\"t\":\"acked\",\"id\":\"sim-d-1-{n}\"}}\n");
    }
    fs::write(&log, lines).unwrap();

    let audit = |stream: &str| {
        let report = dir.path().join("audit.json");
        let output = device_sim(&[
            "audit",
            "--ack-log",
            log.to_str().unwrap(),
            "--nats",
            &server.url,
            "--stream",
            stream,
            "--report",
            report.to_str().unwrap(),
        ]);
        let report: serde_json::Value = fs::read(&report)
            .map(|report| serde_json::from_slice(&report).unwrap())
            .unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), report)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let publish = |stream: &'static str, sequence: Vec<u64>| {
        runtime.block_on(async {
            let context = server.connect().await;
            let config = stream::Config {
                name: stream.to_owned(),
                subjects: vec![stream.to_owned()],
                ..Default::default()
            };
            context.create_stream(config).await.unwrap();
            let mut acks = Vec::new();
            for n in sequence {
                let event =
                    format!(r#"{{"specversion":"1.0","id":"sim-d-1-{n}","data":{{"m":[]}}}}"#);
                acks.push(context.publish(stream, event.into()).await.unwrap());
            }
            for ack in acks {
                ack.await.unwrap();
            }
        });
    };

    publish("CLEAN", (0..MESSAGES).collect());
    let (code, report) = audit("CLEAN");
    assert_eq!(
        (code, &report["arrived"]),
        (Some(0), &MESSAGES.into()),
        "{report:#}"
    );

    // One missing, one twice, one too late, one that nobody sent.
    let mut faulty: Vec<u64> = (0..MESSAGES).collect();
    faulty.remove(100);
    faulty.push(5);
    faulty.swap(2_000, 2_001);
    faulty.push(MESSAGES);
    publish("FAULTY", faulty);
    let (code, report) = audit("FAULTY");
    assert_eq!(code, Some(1));
    for fault in ["lost", "duplicated", "out_of_order", "phantom"] {
        assert_eq!(report[fault]["count"], 1, "{fault} in {report:#}");
    }

    publish("EMPTY", Vec::new());
    let (code, report) = audit("EMPTY");
    assert_eq!(
        (code, &report["lost"]["count"]),
        (Some(1), &MESSAGES.into())
    );

    let output = device_sim(&[
        "audit",
        "--ack-log",
        log.to_str().unwrap(),
        "--nats",
        &server.url,
        "--stream",
        "ABSENT",
    ]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "a stream that is not there is no verdict: {output:?}"
    );
}
