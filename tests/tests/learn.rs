//! `penstock learn` beside a live gateway: what it proposes after watching devices is a
//! configuration, and takes what they send.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup, mqtt::Client, mqtt::Version, process::Process, programs, skip, wait,
};

const LONG: Duration = Duration::from_secs(120);
/// How long is watched: a busy machine takes a while to connect.
const WATCHED: &str = "10s";

/// A reading that nobody sent before.
fn reading(number: u64) -> String {
    format!(
        r#"{{"ts":{},"seq":{number},"boot":"b1","temperature":21.5,"door":{{"open":true}}}}"#,
        1_772_366_390_123 + 250 * number
    )
}

/// `penstock learn` with a broker, and where it writes to.
fn learning(server: &str, rest: &[&str], out: &Path) -> Command {
    let mut command = Command::new(programs::penstock());
    command
        .args(["learn", "--topic", "plant/#", "--for", WATCHED])
        .args(["--server", server])
        .args(rest)
        .arg("--out")
        .arg(out);
    command
}

/// Watches while `publish` is called with the devices and readings, and gives what was
/// proposed.
#[track_caller]
fn watched(sandbox: &Sandbox, command: Command, mut publish: impl FnMut(&str, &str)) -> PathBuf {
    let mut learn = Process::spawn(command, "learn", &sandbox.path("learn.log"));
    let mut number = 0;
    let ended = wait::until(LONG, "what was learned", || {
        number += 1;
        for device in ["b7", "b8"] {
            publish(device, &reading(number));
        }
        learn.ended()
    });
    assert!(ended.success(), "{ended}; {}", learn.tail());
    sandbox.path("learned").join("mappings.toml")
}

/// Runs the program with a configuration.
fn with(config: &Path, arguments: &[&str]) -> Output {
    Command::new(programs::penstock())
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .expect("the gateway's program runs")
}

fn said(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The proposal is a configuration under which what was seen becomes events.
#[track_caller]
fn holds(config: &Path) {
    let text = fs::read_to_string(config).expect("a proposal");
    assert!(
        text.contains("are no data, 0 would be\n# quarantined, and 0 events are not"),
        "{text}"
    );
    assert!(
        text.contains("topic = \"plant/{device}/telemetry\""),
        "{text}"
    );
    let checked = with(config, &["check-config"]);
    assert!(checked.status.success(), "{}\n{text}", said(&checked));
    let topic = ["map", "try", "--topic", "plant/b7/telemetry"];
    let tried = with(config, &[&topic[..], &[&reading(1)]].concat());
    let words = said(&tried);
    assert!(tried.status.success(), "{words}\n{text}");
    for part in [
        "from the sequence, with time, boot id and content",
        "\"device\": \"b7\"",
        "\"door.open\"",
        "2026-03-01T11:59:50.373Z",
    ] {
        assert!(words.contains(part), "{part} is not in {words}\n{text}");
    }
}

#[test]
fn what_is_learned_beside_a_live_gateway_is_a_configuration_for_what_was_seen() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .with("[[mapping]]\ntopic = \"plant/{device}/telemetry\"");
    let gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V4, "press");
    let server = format!("mqtt://127.0.0.1:{}", setup.mqtt);
    let command = learning(&server, &[], &sandbox.path("learned"));
    let config = watched(&sandbox, command, |device, payload| {
        let topic = format!("plant/{device}/telemetry");
        let sent = client.publish(&topic, payload.as_bytes(), 1, 1);
        sent.expect("the gateway takes it");
        let ack = client.ack(LONG).expect("the connection lives");
        assert_eq!(ack.expect("an acknowledgement").id, 1);
    });
    holds(&config);
    // What is there already is not written over.
    let before = fs::read_to_string(&config).expect("a proposal");
    let seen = sandbox.path("seen.ndjson");
    fs::write(&seen, "{\"topic\":\"x/a\",\"payload\":\"1\"}\n").expect("a file");
    let again = Command::new(programs::penstock())
        .args(["learn", "--messages"])
        .arg(&seen)
        .arg("--out")
        .arg(sandbox.path("learned"))
        .output()
        .expect("the gateway's program runs");
    assert!(!again.status.success(), "{}", said(&again));
    assert_eq!(fs::read_to_string(&config).expect("it is there"), before);
    gateway.finish();
}

const CERTIFICATES: &str = "\
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=Authority -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=gateway -keyout server.key -out server.csr
echo subjectAltName=IP:127.0.0.1 > server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.pem
";

#[test]
fn who_learns_over_tls_is_let_in_and_sees_what_its_rules_allow() {
    for needed in ["mosquitto_pub", "openssl", "timeout"] {
        if programs::on_path(needed).is_none() {
            skip::missing_program(needed);
            return;
        }
    }
    let sandbox = Sandbox::new();
    let made = Command::new("sh")
        .args(["-ec", CERTIFICATES])
        .current_dir(sandbox.path(""))
        .output()
        .expect("a shell");
    assert!(made.status.success(), "{}", said(&made));
    let port = penstock_tests::ports::free();
    let setup = Setup::new(&sandbox).to_file("events").with(&format!(
        r#"
[auth]
passwords = "passwords"

[[broker.listener]]
name = "secured"
listen = "127.0.0.1:{port}"
tls = {{ certificate = "server.pem", key = "server.key" }}

[[acl]]
users = ["watcher"]
subscribe = ["plant/#"]

[[acl]]
users = ["press"]
publish = ["plant/#"]

[[mapping]]
topic = "plant/{{device}}/telemetry"
"#
    ));
    for user in ["watcher", "press"] {
        let mut child = Command::new(programs::penstock())
            .args(["user", "add", user, "--password-stdin"])
            .args(["--memory", "64", "--iterations", "1", "--file"])
            .arg(sandbox.path("passwords"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the gateway's program runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        writeln!(stdin, "sesame-open").expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success(), "{user}");
    }
    let gateway = Gateway::start(&setup);
    let server = format!("mqtts://127.0.0.1:{port}");
    let out = sandbox.path("learned");
    let ca = sandbox.path("ca.pem");
    let ca = ca.to_str().expect("a path in text");
    let learn = |user: &str, password: &str, filter: &str| {
        let rest = ["--ca", ca, "--user", user];
        let mut command = learning(&server, &rest, &out);
        if !filter.is_empty() {
            command = Command::new(programs::penstock());
            command.args(["learn", "--for", WATCHED, "--topic", filter]);
            command.args(["--server", &server]).args(rest);
        }
        command.env("PENSTOCK_PASSWORD", password);
        command
    };
    for (user, password, filter, why) in [
        ("watcher", "guess", "plant/#", "refused the connection"),
        ("watcher", "sesame-open", "#", "does not let us subscribe"),
        (
            "press",
            "sesame-open",
            "plant/#",
            "does not let us subscribe",
        ),
    ] {
        let output = learn(user, password, filter).output().expect("it runs");
        let words = said(&output);
        assert!(!output.status.success(), "{user} {filter}: {words}");
        assert!(words.contains(why), "{words}");
        assert!(
            !words.contains("guess") && !words.contains("sesame"),
            "{words}"
        );
    }
    let config = watched(
        &sandbox,
        learn("watcher", "sesame-open", ""),
        |device, payload| {
            let sent = Command::new("timeout")
                .args(["60", "mosquitto_pub", "-h", "127.0.0.1", "-p"])
                .arg(port.to_string())
                .args([
                    "--cafile",
                    ca,
                    "-u",
                    "press",
                    "-P",
                    "sesame-open",
                    "-q",
                    "1",
                ])
                .args(["-t", &format!("plant/{device}/telemetry"), "-m", payload])
                .output()
                .expect("the client runs");
            assert!(sent.status.success(), "{}", said(&sent));
        },
    );
    holds(&config);
    gateway.finish();
}
