//! MQTT.js in a real browser, over a WebSocket and a secure one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use penstock_tests::{Gateway, Sandbox, Setup, ports, process::Process, programs, skip};
use serde_json::{Value, json};

/// A browser takes its time to start on a busy machine.
const BROWSER: Duration = Duration::from_secs(90);

/// Connects in both protocol versions, subscribes, publishes at every QoS, and says to
/// the test what came back.
const PAGE: &str = r#"<!doctype html><script src="/mqtt.js"></script><script>
const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });
const run = (url, version) => new Promise((resolve, reject) => {
  const heard = [];
  const client = mqtt.connect(url, {
    protocolVersion: version, clientId: "browser-" + version, reconnectPeriod: 0,
  });
  client.on("error", (error) => reject("error: " + error.message));
  client.on("close", () => reject("closed"));
  client.on("message", (topic, payload, packet) => {
    heard.push([topic, payload.length, packet.qos]);
    if (heard.length === 3) { resolve(heard); client.end(); }
  });
  client.on("connect", async () => {
    try {
      await client.subscribeAsync("devices/browser/#", { qos: 2 });
      for (const qos of [0, 1, 2])
        await client.publishAsync("devices/browser/v" + version, "x".repeat(10 ** (qos + 2)), { qos });
    } catch (error) { reject("failed: " + error.message); }
  });
});
(async () => {
  try {
    const heard = [];
    for (const url of ["ws://127.0.0.1:PLAIN/mqtt", "wss://127.0.0.1:SECURE/mqtt"])
      for (const version of [4, 5]) heard.push(await run(url, version));
    report({ heard });
  }
  catch (error) { report({ error: String(error) }); }
})();
</script>"#;

/// Serves the page and MQTT.js, and hands over what the page reports.
fn serve(page: String, script: Vec<u8>, reports: SyncSender<Value>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (page, script) = (page.as_bytes(), &script[..]);
            // A browser opens connections that it then does not use.
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok();
            drop(answer(&stream, page, script, &reports));
        }
    });
    port
}

fn answer(
    mut stream: &TcpStream,
    page: &[u8],
    script: &[u8],
    reports: &SyncSender<Value>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (kind, content) = match request.split(' ').nth(1) {
        Some("/mqtt.js") => ("text/javascript", script),
        Some("/report") => {
            let report = serde_json::from_slice(&body).unwrap_or(Value::Null);
            reports.send(report).ok();
            ("text/plain", &b""[..])
        }
        _ => ("text/html", page),
    };
    let length = content.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(content)
}

/// A certificate for this machine, and its key.
fn certificate(sandbox: &Sandbox) {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "60",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", "server.key", "-out", "server.pem"])
        .current_dir(sandbox.path(""))
        .output()
        .expect("openssl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn mqtt_js_in_a_browser_publishes_and_hears_itself_at_every_qos() {
    let Some(chromium) = programs::on_path("chromium") else {
        return skip::missing_program("chromium");
    };
    let Some(script) = programs::mqtt_js() else {
        return skip::missing_program("MQTT.js");
    };
    if programs::on_path("openssl").is_none() {
        return skip::missing_program("openssl");
    }
    let sandbox = Sandbox::new();
    certificate(&sandbox);
    let (plain, secure) = (ports::free(), ports::free());
    let listener = |port: u16| {
        format!("[[broker.listener]]\nlisten = \"127.0.0.1:{port}\"\ntransport = \"websocket\"\n")
    };
    let setup = Setup::new(&sandbox)
        .with(&format!(
            "{}{}tls = {{ certificate = {:?}, key = {:?} }}",
            listener(plain),
            listener(secure),
            sandbox.path("server.pem"),
            sandbox.path("server.key"),
        ))
        .to_file("events");
    let gateway = Gateway::start(&setup);
    let (reports, reported) = sync_channel(8);
    let script = fs::read(script).expect("MQTT.js");
    let page = PAGE
        .replace("PLAIN", &plain.to_string())
        .replace("SECURE", &secure.to_string());
    let page = serve(page, script, reports);
    let mut command = Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args([
            "--disable-sync",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args(["--no-proxy-server", "--remote-debugging-port=0"])
        // Nobody has heard of the authority that made the certificate.
        .arg("--ignore-certificate-errors")
        .arg(format!(
            "--user-data-dir={}",
            sandbox.path("browser").display()
        ))
        .arg(format!("http://127.0.0.1:{page}/"));
    let log = sandbox.path("browser.log");
    let mut browser = Process::spawn(command, "chromium", &log);
    let report = reported
        .recv_timeout(BROWSER)
        .unwrap_or_else(|error| panic!("{error}; {}", browser.tail()));
    let heard = |version: u8| {
        let topic = format!("devices/browser/v{version}");
        json!([[topic, 100, 0], [topic, 1000, 1], [topic, 10_000, 2]])
    };
    let expect = json!([heard(4), heard(5), heard(4), heard(5)]);
    assert_eq!(report["heard"], expect, "{report}");
    browser.kill();
    let status = gateway.wait_until_drained(Duration::from_secs(20));
    assert_eq!(status.ledger.accepted, 12);
    gateway.finish();
}
