//! Real clients against the real gateway: who is let in, what they may do, and what
//! changes while it runs.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use penstock_tests::{
    Gateway, Sandbox, Setup, http, log::occurrences, process::Process, programs, skip, wait,
};
use rustix::process::Signal;

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];
const LONG: Duration = Duration::from_secs(20);
const RULES: &str = r#"
[[acl]]
publish = ["devices/{user}/#"]
subscribe = ["commands/{user}/#"]
"#;

fn tools_are_there() -> bool {
    let needed = [
        "mosquitto_pub",
        "mosquitto_sub",
        "openssl",
        "bash",
        "timeout",
    ];
    match needed.iter().find(|tool| programs::on_path(tool).is_none()) {
        Some(missing) => {
            skip::missing_program(missing);
            false
        }
        None => true,
    }
}

/// A password that is cheap to check.
fn set_password(setup: &Setup, command: &str, user: &str, password: &str) {
    let mut child = Command::new(programs::penstock())
        .args(["user", command, user, "--password-stdin"])
        .args(["--memory", "64", "--iterations", "1", "--file"])
        .arg(passwords(setup))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the gateway's program runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    writeln!(stdin, "{password}").expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("it ends").success(), "{command} {user}");
}

fn passwords(setup: &Setup) -> std::path::PathBuf {
    setup.log().with_file_name("passwords")
}

/// A setup with a password file and rules.
fn guarded(sandbox: &Sandbox, auth: &str, rules: &str) -> Setup {
    Setup::new(sandbox)
        .to_file("events")
        .with(&format!("[auth]\npasswords = \"passwords\"\n{auth}"))
        .with(rules)
}

/// Runs a client that ends by itself or is ended; its output is for messages.
fn client(program: &str, setup: &Setup, version: &str, rest: &[&str]) -> Output {
    Command::new("timeout")
        .args(["8", program, "-h", "127.0.0.1", "-V", version, "-p"])
        .arg(setup.mqtt.to_string())
        .args(rest)
        .output()
        .expect("the client runs")
}

fn publish(setup: &Setup, version: &str, who: (&str, &str), topic: &str) -> Output {
    let rest = [
        "-u", who.0, "-P", who.1, "-q", "1", "-t", topic, "-m", "21.5",
    ];
    client("mosquitto_pub", setup, version, &rest)
}

fn subscribe(setup: &Setup, version: &str, who: (&str, &str), filter: &str) -> Output {
    let rest = ["-u", who.0, "-P", who.1, "-t", filter, "-E"];
    client("mosquitto_sub", setup, version, &rest)
}

fn said(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A counter of the broker.
fn counter(setup: &Setup, name: &str) -> u64 {
    let reply = http::get(setup.http, "/metrics").expect("the gateway answers");
    let line = format!("gateway_broker_{name}_total ");
    let value = reply.body.lines().find_map(|row| row.strip_prefix(&line));
    value.expect("a metric").trim().parse().expect("a number")
}

#[test]
fn passwords_and_rules_hold_for_real_clients_in_both_versions() {
    if !tools_are_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let setup = guarded(&sandbox, "", RULES);
    set_password(&setup, "add", "line-3", "sesame-open");
    let gateway = Gateway::start(&setup).expecting(&["a publish was refused"]);
    let right = ("line-3", "sesame-open");
    for version in VERSIONS {
        let output = publish(&setup, version, right, "devices/line-3/t");
        assert!(output.status.success(), "{}", said(&output));
        for wrong in [("line-3", "guess"), ("nobody", "sesame-open")] {
            let output = publish(&setup, version, wrong, "devices/line-3/t");
            assert!(!output.status.success(), "{wrong:?}: {}", said(&output));
        }
        let bare = ["-q", "1", "-t", "devices/line-3/t", "-m", "1"];
        let output = client("mosquitto_pub", &setup, version, &bare);
        assert!(!output.status.success(), "{}", said(&output));

        let output = subscribe(&setup, version, right, "commands/line-3/#");
        assert!(output.status.success(), "{}", said(&output));
        for filter in ["#", "commands/+/reset", "commands/line-4/reset", "$SYS/#"] {
            let output = subscribe(&setup, version, right, filter);
            let denied = said(&output).contains("denied");
            assert!(
                denied || !output.status.success(),
                "{filter}: {}",
                said(&output)
            );
        }
    }
    assert_eq!(counter(&setup, "subscriptions_denied"), 8);
    let output = publish(&setup, "mqttv5", right, "devices/line-4/t");
    assert!(
        said(&output).contains("Not authorized"),
        "{}",
        said(&output)
    );
    assert_eq!(counter(&setup, "publishes_denied"), 1);
    // 3.1.1 has no way to say so: the connection is closed, again and again.
    let output = publish(&setup, "mqttv311", right, "devices/line-4/t");
    assert!(!output.status.success(), "{}", said(&output));
    assert!(counter(&setup, "publishes_denied") > 1);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.ledger.accepted, 2, "only what was allowed");
    let log = fs::read_to_string(setup.log()).expect("a log");
    assert!(log.contains("penstock::audit"), "decisions are in the log");
    for secret in ["sesame-open", "guess", "argon2id"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    gateway.finish();
}

#[test]
fn guessing_is_locked_and_the_lock_ends() {
    if !tools_are_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let setup = guarded(&sandbox, "failures_max = 2\nlock = \"3s\"\n", RULES);
    set_password(&setup, "add", "line-3", "sesame");
    let gateway = Gateway::start(&setup);
    let knock = |password: &str| {
        let output = publish(&setup, "mqttv5", ("line-3", password), "devices/line-3/t");
        output.status.success()
    };
    assert!(!knock("a") && !knock("b"));
    assert!(!knock("sesame"), "locked, also for the right password");
    assert_eq!(counter(&setup, "auth_locked"), 1);
    wait::until(LONG, "the lock to end", || knock("sesame").then_some(()));
    gateway.finish();
}

/// A subscriber that stays.
fn watcher(sandbox: &Sandbox, setup: &Setup, who: (&str, &str), filter: &str) -> Process {
    let mut command = Command::new("stdbuf");
    command
        .args(["-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p"])
        .arg(setup.mqtt.to_string())
        .args(["-V", "mqttv5", "-u", who.0, "-P", who.1, "-t", filter]);
    let output = sandbox.path("watcher.log");
    let process = Process::spawn(command, "mosquitto_sub", &output);
    wait::until(LONG, "the subscription", || {
        let text = fs::read_to_string(&output).ok()?;
        text.contains("Subscribed").then_some(())
    });
    process
}

#[test]
fn users_and_rules_change_while_the_gateway_runs() {
    if !tools_are_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let setup = guarded(&sandbox, "", RULES);
    set_password(&setup, "add", "line-3", "sesame");
    let mut gateway = Gateway::start(&setup).expecting(&["stay as they were"]);
    let may = |user: &str, password: &str, topic: &str| {
        publish(&setup, "mqttv5", (user, password), topic)
            .status
            .success()
    };
    assert!(!may("line-4", "four", "devices/line-4/t"));
    set_password(&setup, "add", "line-4", "four");
    wait::until(LONG, "the new user", || {
        may("line-4", "four", "devices/line-4/t").then_some(())
    });

    // A user with another password is disconnected, and only it.
    let other = watcher(&sandbox, &setup, ("line-4", "four"), "commands/line-4/#");
    let watching = Sandbox::new();
    let _gone = watcher(&watching, &setup, ("line-3", "sesame"), "commands/line-3/#");
    set_password(&setup, "passwd", "line-3", "another");
    wait::until(LONG, "the session to end", || {
        (counter(&setup, "sessions_revoked") == 1).then_some(())
    });
    wait::until(LONG, "the new password", || {
        may("line-3", "another", "devices/line-3/t").then_some(())
    });

    // A mistake changes nothing, and is said.
    let good = fs::read(passwords(&setup)).expect("the password file");
    let reloads = || occurrences(setup.log(), "were read again");
    let before = occurrences(setup.log(), "stay as they were");
    fs::write(passwords(&setup), "nonsense\n").expect("it can be written");
    wait::until(LONG, "the mistake to be said", || {
        (occurrences(setup.log(), "stay as they were") > before).then_some(())
    });
    assert!(may("line-4", "four", "devices/line-4/t"));
    let before = reloads();
    fs::write(passwords(&setup), good).expect("it can be written");
    wait::until(LONG, "the file to be right again", || {
        (reloads() > before).then_some(())
    });

    // Rules of the configuration, at SIGHUP: the subscription is no longer allowed.
    let narrowed = RULES.replace("commands/{user}/#", "commands/{user}/reset");
    let text = fs::read_to_string(setup.write()).expect("the configuration");
    let file = setup.log().with_file_name("penstock.toml");
    fs::write(file, text.replace(RULES.trim(), narrowed.trim())).expect("it can be written");
    gateway.process().signal(Signal::HUP);
    wait::until(LONG, "the narrowed session to end", || {
        (counter(&setup, "sessions_revoked") == 2).then_some(())
    });
    let output = subscribe(
        &setup,
        "mqttv5",
        ("line-4", "four"),
        "commands/line-4/reset",
    );
    assert!(output.status.success(), "{}", said(&output));
    drop(other);
    gateway.finish();
}

/// A token for HS256 by a program that is not ours.
fn token(secret: &str, claims: &str) -> String {
    let script = r#"
        part() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
        body="$(printf '{"alg":"HS256","typ":"JWT"}' | part).$(printf '%s' "$2" | part)"
        printf '%s.%s' "$body" "$(printf '%s' "$body" | openssl dgst -sha256 -hmac "$1" -binary | part)"
    "#;
    let output = Command::new("bash")
        .args(["-c", script, "token", secret, claims])
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).expect("a token is ASCII")
}

#[test]
fn a_token_lets_its_client_in_until_it_expires() {
    if !tools_are_there() {
        return;
    }
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let sandbox = Sandbox::new();
    let auth = format!(
        "[auth.token]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\nleeway = \"0s\"\naudience = \"penstock\"\n"
    );
    let setup = guarded(&sandbox, &auth, RULES);
    fs::write(passwords(&setup), "").expect("it can be written");
    let gateway = Gateway::start(&setup);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let claims = |ends: u64| format!(r#"{{"sub":"line-3","aud":"penstock","exp":{ends}}}"#);
    for version in VERSIONS {
        let good = token(SECRET, &claims(now + 600));
        let output = publish(&setup, version, ("any", &good), "devices/line-3/t");
        assert!(output.status.success(), "{}", said(&output));
        let other_key = token(&SECRET.to_uppercase(), &claims(now + 600));
        let old = token(SECRET, &claims(now - 1));
        for bad in [other_key, old] {
            let output = publish(&setup, version, ("any", &bad), "devices/line-3/t");
            assert!(!output.status.success(), "{}", said(&output));
        }
    }
    let short = token(SECRET, &claims(now + 6));
    let _watching = watcher(&sandbox, &setup, ("any", &short), "commands/line-3/#");
    wait::until(LONG, "the session to end with its token", || {
        (counter(&setup, "sessions_revoked") == 1).then_some(())
    });
    gateway.finish();
}

#[test]
fn the_pages_are_for_those_who_know_the_token() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox);
    let file = setup.write();
    let http = format!("listen = \"127.0.0.1:{}\"", setup.http);
    let text = fs::read_to_string(&file).expect("the configuration");
    let with_token = text.replace(
        &http,
        &format!("{http}\ntoken = \"a-token-of-some-length\""),
    );
    fs::write(&file, with_token).expect("it can be written");
    let mut command = Command::new(programs::penstock());
    command.arg("run").arg("--config").arg(&file);
    let _gateway = Process::spawn(command, "gateway", setup.log());
    wait::until(LONG, "the gateway to serve", || {
        http::get(setup.http, "/healthz").filter(|reply| reply.status == 200)
    });
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/quarantine"] {
        let reply = http::get(setup.http, path).expect("an answer");
        assert_eq!(reply.status, 401, "{path}");
    }
    // Commands know it from the configuration.
    let output = Command::new(programs::penstock())
        .args(["status", "--json", "--config"])
        .arg(&file)
        .output()
        .expect("the gateway's program runs");
    assert!(output.status.success(), "{}", said(&output));
    let note = fs::read_to_string(setup.data().join("gateway.json")).expect("a note");
    assert!(!note.contains("a-token-of-some-length"));
}

/// The commands of docs/security.md, one after the other, as they stand there.
#[test]
fn the_commands_of_the_documentation_do_what_it_says() {
    if !tools_are_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let (ports, others) = (Setup::new(&sandbox), Setup::new(&sandbox));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let page = fs::read_to_string(page).expect("the page");
    std::os::unix::fs::symlink(programs::penstock(), sandbox.path("penstock"))
        .expect("the sandbox can be written");
    let mut script =
        "set -euo pipefail\nPATH=\"$PWD:$PATH\"\ntrap 'kill $(jobs -p); wait' EXIT\n".to_owned();
    let blocks: Vec<&str> = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 6, "{} blocks", blocks.len());
    for block in blocks {
        for line in block.lines() {
            // `!` alone does not end a script: a command that should fail and does not, has to.
            match line.strip_prefix("! ") {
                Some(command) => script.push_str(&format!("if {command}; then exit 9; fi\n")),
                None => script.push_str(&format!("{line}\n")),
            }
        }
        if block.contains("penstock run") {
            let port = if block.contains("8883") { 8883 } else { 1883 };
            script.push_str(&format!(
                "until (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done\n"
            ));
        }
    }
    let script = script
        .replace("1883", &ports.mqtt.to_string())
        .replace("8080", &ports.http.to_string())
        .replace("8883", &others.mqtt.to_string())
        .replace("8081", &others.http.to_string());
    fs::write(sandbox.path("script"), script).expect("the sandbox can be written");
    let output = Command::new("timeout")
        .args(["60", "bash", "-x", "script"])
        .current_dir(sandbox.dir())
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", said(&output));
    let users = Command::new(programs::penstock())
        .args(["user", "list", "--file"])
        .arg(sandbox.path("passwords"))
        .output()
        .expect("the gateway's program runs");
    assert_eq!(String::from_utf8_lossy(&users.stdout), "line-3\nline-4\n");
}
