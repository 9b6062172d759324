//! Keys and mistakes of destinations that are tables of PostgreSQL.

use insta::assert_snapshot;

use super::*;
use crate::{
    config::{Config as Whole, Mistakes},
    tls::Files,
};

fn read(text: &str) -> Result<Whole, Mistakes> {
    let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
    Whole::from_text(text, Path::new("/etc/penstock"), &env)
}

fn postgres(keys: &str) -> Config {
    let text = format!("[[destination]]\nname = \"s\"\ntype = \"postgres\"\n{keys}");
    let config = read(&text).unwrap();
    let Kind::Postgres(config) = &config.destinations[0].kind else {
        panic!("another kind");
    };
    config.clone()
}

fn server(host: &str, port: u16) -> Server {
    let host = host.to_owned();
    Server { host, port }
}

#[test]
fn a_server_a_database_and_a_role_are_enough() {
    let config = postgres(
        "servers = [\"h\", \"[::1]:5433\", \"/var/run/postgresql\"]\ndatabase = \"d\"\nuser = \"u\"",
    );
    let servers = vec![
        server("h", 5_432),
        server("::1", 5_433),
        server("/var/run/postgresql", 5_432),
    ];
    assert_eq!(config, Config::new(servers, "d", "u"));
}

#[test]
fn every_key_that_differs_from_the_default_is_taken() {
    let config = postgres(
        r#"
servers = ["h:6432"]
database = "d"
user = "u"
password = "${WORD}"
tls = true
ca = "ca.pem"
certificate = "/c.pem"
key = "k.pem"
table = "plant.Events"
layout = "measurement"
partitioned = true
create_table = false
batch_records = 100
batch_bytes = "8KiB"
linger = "1s"
timeout = "3s"
connect_timeout = "2s"
"#,
    );
    let expect = Config {
        servers: vec![server("h", 6_432)],
        database: "d".to_owned(),
        user: "u".to_owned(),
        password: Some("sesame-open".into()),
        tls: Some(Files {
            ca: Some("/etc/penstock/ca.pem".into()),
            identity: Some(("/c.pem".into(), "/etc/penstock/k.pem".into())),
        }),
        table: Name {
            schema: Some("plant".to_owned()),
            name: "Events".to_owned(),
        },
        layout: Layout::Measurement,
        partitioned: true,
        create_table: false,
        batch_records: 100,
        batch_bytes: 8 << 10,
        linger: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(2),
    };
    assert_eq!(config, expect);
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn mistakes_say_what_would_be_right() {
    let text = r#"
[[destination]]
name = "a"
type = "postgres"
servers = ["postgres://h/d", "h:0", "::1", ""]
user = "u"
table = "a.b.c"
layout = "wide"
ca = "ca.pem"
timeout = "1s"
connect_timeout = "2s"
[[destination]]
name = "b"
type = "postgres"
servers = ["/var/run/postgresql"]
database = "d"
user = "u"
tls = true
key = "k.pem"
"#;
    let mistakes = read(text).expect_err("it has mistakes").to_string();
    assert_snapshot!(mistakes, @r#"
    configuration:2: destination[1].database: is missing; for example database = "telemetry"
    configuration:5: destination[1].servers: "postgres://h/d": a server is a host with or without a port, such as "db.example:5432", or the directory of a socket, such as "/var/run/postgresql"
    configuration:5: destination[1].servers: "h:0": a server is a host with or without a port, such as "db.example:5432", or the directory of a socket, such as "/var/run/postgresql"
    configuration:5: destination[1].servers: "::1": a server is a host with or without a port, such as "db.example:5432", or the directory of a socket, such as "/var/run/postgresql"
    configuration:5: destination[1].servers: "": a server is a host with or without a port, such as "db.example:5432", or the directory of a socket, such as "/var/run/postgresql"
    configuration:7: destination[1].table: "a.b.c": a table is "TABLE" or "SCHEMA.TABLE", each of at most 63 bytes
    configuration:8: destination[1].layout: "wide": should be one of event, measurement
    configuration:9: destination[1].ca: is for TLS; set tls = true
    configuration:10: destination[1].timeout: connect_timeout should be at most timeout
    configuration:18: destination[2].tls: a Unix socket has no TLS; leave it away, or name hosts
    configuration:19: destination[2].key: certificate and key go together; certificate is missing
    "#);
}

#[test]
fn a_password_that_goes_to_another_machine_in_the_clear_is_said() {
    let warned = |keys: &str| {
        let text = format!(
            "[[destination]]\nname = \"s\"\ntype = \"postgres\"\ndatabase = \"d\"\nuser = \"u\"\npassword = \"${{WORD}}\"\n{keys}"
        );
        read(&text).unwrap().destination_warnings().count() > 0
    };
    assert!(warned("servers = [\"localhost\", \"db.example\"]"));
    assert!(!warned(
        "servers = [\"localhost\", \"[::1]:5433\", \"/run\"]"
    ));
    assert!(!warned("servers = [\"db.example\"]\ntls = true"));
}
