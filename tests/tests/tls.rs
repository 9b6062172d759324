//! The recipe for TLS as an operator would follow it, with clients that others wrote.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use penstock_tests::{Gateway, Sandbox, Setup, http, ports, programs, skip, wait};
use rustix::process::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(20);

fn recipe() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tls.toml");
    fs::read_to_string(file).expect("the recipe")
}

/// Runs the commands of the recipe whose line has `word` in it.
fn follow(dir: &Path, word: &str) {
    let text = recipe();
    let commands: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| line.starts_with("openssl ") || line.starts_with("echo "))
        .filter(|line| line.contains(word))
        .collect();
    assert!(!commands.is_empty(), "{word}");
    for command in commands {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(dir)
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
}

/// Where the gateway of a test listens.
struct Ports {
    devices: u16,
    pages: u16,
    /// A WebSocket that the recipe does not have, without TLS.
    plain: u16,
}

/// A gateway with the recipe's listeners, on ports that are free.
fn gateway(sandbox: &Sandbox) -> Option<(Gateway, Ports)> {
    for program in ["mosquitto_pub", "openssl"] {
        if programs::on_path(program).is_none() {
            skip::missing_program(program);
            return None;
        }
    }
    let dir = sandbox.path("");
    follow(&dir, "");
    let ports = Ports {
        devices: ports::free(),
        pages: ports::free(),
        plain: ports::free(),
    };
    let recipe = recipe();
    let (_, listeners) = recipe
        .split_once("[[broker.listener]]")
        .expect("the recipe has a listener");
    let listeners = listeners
        .replace("0.0.0.0:8883", &format!("127.0.0.1:{}", ports.devices))
        .replace("127.0.0.1:9443", &format!("127.0.0.1:{}", ports.pages));
    let plain = format!(
        "[[broker.listener]]\nlisten = \"127.0.0.1:{}\"\ntransport = \"websocket\"",
        ports.plain
    );
    let setup = Setup::new(sandbox)
        .with(&format!("[[broker.listener]]{listeners}\n{plain}"))
        .to_file("events");
    Some((Gateway::start(&setup), ports))
}

fn publish(dir: &Path, port: u16, version: &str, own: bool) -> Output {
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-h", "localhost", "-p", &port.to_string()])
        .args(["-V", version, "--cafile", "ca.pem", "-q", "1"])
        .args(["-t", "devices/device-1/telemetry", "-m", "{\"t\": 1}"])
        .current_dir(dir);
    if own {
        command.args(["--cert", "device-1.pem", "--key", "device-1.key"]);
    }
    command.output().expect("mosquitto_pub runs")
}

/// A few devices at `broker` for a second; every message has to be acknowledged.
fn simulate(dir: &Path, broker: &str, ca: &[&str], own: &[&str]) {
    let output = Command::new(programs::device_sim())
        .args(["run", "--broker", broker])
        .args(ca)
        .args(own)
        .args(["--devices", "4", "--rate", "100", "--for", "1s"])
        .args(["--settle", "10s"])
        .current_dir(dir)
        .output()
        .expect("device-sim runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{broker}: {said}");
}

/// What `openssl s_client` says of the connection it makes.
fn s_client(dir: &Path, port: u16, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn counter(gateway: &Gateway, name: &str) -> u64 {
    let reply = http::get(gateway.setup().http, "/api/v1/status").expect("a status");
    let status: Value = serde_json::from_str(&reply.body).expect("JSON");
    status["broker"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {status}"))
}

fn until(gateway: &Gateway, name: &str, wanted: u64) {
    wait::until(LONG, name, || {
        (counter(gateway, name) >= wanted).then_some(())
    });
}

#[test]
fn the_recipe_for_tls_lets_devices_with_certificates_in_and_nobody_else() {
    let sandbox = Sandbox::new();
    let Some((mut gateway, ports)) = gateway(&sandbox) else {
        return;
    };
    let port = ports.devices;
    let dir = sandbox.path("");
    for version in ["mqttv311", "mqttv5"] {
        let output = publish(&dir, port, version, true);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    // The same line that loads a gateway over TCP, in both versions.
    let own = ["--tls-cert", "device-1.pem", "--tls-key", "device-1.key"];
    simulate(
        &dir,
        &format!("localhost:{port}"),
        &["--tls-ca", "ca.pem"],
        &own,
    );
    assert!(!publish(&dir, port, "mqttv5", false).status.success());
    until(&gateway, "tls_certificate_refused", 1);
    // No version in common.
    s_client(&dir, port, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    until(&gateway, "tls_incompatible", 1);
    assert!(gateway.wait_until_drained(LONG).ledger.accepted > 2);
    gateway = gateway.expecting(&["a handshake failed"]);
    gateway.finish();
}

#[test]
fn simulated_devices_go_over_websockets_plain_and_secure() {
    let sandbox = Sandbox::new();
    let Some((gateway, ports)) = gateway(&sandbox) else {
        return;
    };
    let dir = sandbox.path("");
    simulate(&dir, &format!("ws://localhost:{}", ports.plain), &[], &[]);
    let before = gateway.wait_until_drained(LONG).ledger.accepted;
    assert!(before > 0);
    let secure = format!("wss://localhost:{}/mqtt", ports.pages);
    simulate(&dir, &secure, &["--tls-ca", "ca.pem"], &[]);
    assert!(gateway.wait_until_drained(LONG).ledger.accepted > before);
    gateway.finish();
}

#[test]
fn a_new_certificate_is_shown_after_a_hangup_and_a_broken_one_is_not() {
    let sandbox = Sandbox::new();
    let Some((mut gateway, ports)) = gateway(&sandbox) else {
        return;
    };
    let port = ports.devices;
    let dir = sandbox.path("");
    let own = ["-cert", "device-1.pem", "-key", "device-1.key"];
    let shown = || s_client(&dir, port, &own);
    let before = certificate(&shown());
    follow(&dir, "server.csr");
    gateway.process().signal(Signal::HUP);
    wait::until(LONG, "another certificate", || {
        (certificate(&shown()) != before).then_some(())
    });
    let after = certificate(&shown());
    fs::write(dir.join("server.pem"), "not a certificate").expect("it can be written");
    gateway.process().signal(Signal::HUP);
    wait::until(LONG, "the log to say so", || {
        let log = fs::read_to_string(gateway.setup().log()).ok()?;
        log.contains("new certificates cannot be used")
            .then_some(())
    });
    assert_eq!(certificate(&shown()), after);
    let checked = gateway.command(&["check-config"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success(), "{said}");
    for part in ["devices", "certificate", "server.pem", "BEGIN CERTIFICATE"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    gateway = gateway.expecting(&["new certificates cannot be used", "a handshake failed"]);
    gateway.finish();
}

fn certificate(said: &str) -> String {
    let (_, rest) = said.split_once("-----BEGIN CERTIFICATE-----").expect(said);
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").expect(said);
    body.to_owned()
}
