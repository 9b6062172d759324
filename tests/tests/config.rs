//! A configuration that is wrong is refused before anything listens, in words that help.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Output},
};

use penstock_tests::{Gateway, Sandbox, Setup, ports, programs};

fn penstock(subcommand: &str, config: &Path) -> Output {
    Command::new(programs::penstock())
        .arg(subcommand)
        .arg("--config")
        .arg(config)
        .output()
        .expect("the gateway's program runs")
}

/// Both `run` and `check-config` refuse `tables`, name the file, and say each of `words`.
#[track_caller]
fn refused(tables: &str, words: &[&str]) {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(tables);
    let file = setup.write();
    for subcommand in ["check-config", "run"] {
        let output = penstock(subcommand, &file);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{subcommand} takes {tables}");
        assert!(
            said.contains("penstock.toml"),
            "{subcommand} does not name the file: {said}"
        );
        for word in words {
            assert!(
                said.contains(word),
                "{subcommand} does not say {word:?}: {said}"
            );
        }
        assert!(!setup.data().join("gateway.json").is_file());
    }
    // Nobody listens, and nobody did: the ports can be had at once.
    for port in [setup.mqtt, setup.http] {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    }
}

#[test]
fn mistakes_are_refused_with_the_key_and_what_would_be_right() {
    refused(
        "[store]\nsize_maximum = \"1GiB\"",
        &["size_maximum", "size_max"],
    );
    refused(
        "[store]\nsize_max = \"a lot\"",
        &["size_max", "a lot", "MiB"],
    );
    refused(
        "[store]\non_full = \"explode\"",
        &["on_full", "explode", "push-back", "drop-oldest"],
    );
    refused("[dedup]\nage_max = \"24\"", &["age_max", "24h"]);
    refused(
        "[[destination]]\nname = \"x\"\ntype = \"pigeon\"",
        &["pigeon", "file", "http", "nats"],
    );
    refused("[[destination]]\nname = \"x\"\ntype = \"http\"", &["url"]);
    refused("[[mapping]]\ntopic = \"a/#/b\"", &["topic", "a/#/b"]);
    refused("[broken", &["penstock.toml"]);
}

#[test]
fn every_mistake_is_said_at_once() {
    refused(
        "[store]\nsize_max = \"a lot\"\n[dedup]\nage_max = \"soon\"\n\
         [[destination]]\nname = \"a\"\ntype = \"http\"\nurl = \"no url\"",
        &["size_max", "age_max", "url"],
    );
}

#[test]
fn a_secret_that_is_not_set_is_named_and_not_guessed() {
    refused(
        "[[destination]]\nname = \"lake\"\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\n\
         headers = { Authorization = \"Bearer ${PENSTOCK_TEST_NOT_SET}\" }",
        &["PENSTOCK_TEST_NOT_SET"],
    );
}

#[test]
fn nothing_listens_beyond_loopback_unless_said_in_words() {
    for listener in ["broker", "http"] {
        let sandbox = Sandbox::new();
        let setup = Setup::new(&sandbox);
        let file = setup.write();
        let port = ports::free();
        let open = format!(
            "data_dir = \"{}\"\n[{listener}]\nlisten = \"0.0.0.0:{port}\"\n",
            setup.data().display()
        );
        fs::write(&file, &open).expect("the sandbox can be written");
        for subcommand in ["check-config", "run"] {
            let output = penstock(subcommand, &file);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{subcommand} takes {open}");
            assert!(
                said.contains("allow_anonymous"),
                "what would be right is not said: {said}"
            );
            assert!(said.contains(&format!("0.0.0.0:{port}")), "{said}");
        }
        fs::write(&file, format!("{open}allow_anonymous = true\n")).expect("it can be written");
        let output = penstock("check-config", &file);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_data_directory_has_one_gateway_at_a_time() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    // Another one, with ports of its own, on the same data.
    let second = Sandbox::new();
    let file = Setup::new(&second)
        .data_dir(setup.data())
        .to_file("events")
        .write();
    let output = penstock("run", &file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "two gateways run on one data directory"
    );
    assert!(
        said.contains(&setup.data().display().to_string()),
        "which one is not said: {said}"
    );
    // The first one is none the worse for it.
    gateway.status().assert_balanced();
    gateway.finish();
}

#[test]
fn a_port_that_is_taken_is_said_and_the_data_is_left_alone() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let file = setup.write();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, setup.mqtt)).expect("the port is free");
    let output = penstock("run", &file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains(&setup.mqtt.to_string()),
        "which port is not said: {said}"
    );
    assert!(!setup.data().join("gateway.json").is_file());
}
