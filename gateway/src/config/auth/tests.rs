//! What `[auth]` and `[[acl]]` become, and what is said of mistakes.

use std::fs;

use super::*;
use crate::config;

fn read(text: &str) -> Result<config::Config, config::Mistakes> {
    config::Config::from_text(text, Path::new("/etc/penstock"), &|name| {
        (name == "SECRET").then(|| "0123456789abcdef0123456789abcdef".to_owned())
    })
}

#[test]
fn every_key_ends_where_it_belongs() {
    let config = read(
        r##"
        [[broker.listener]]
        listen = "0.0.0.0:8883"
        tls = { certificate = "c", key = "k", client_ca = "a" }
        [auth]
        passwords = "users"
        client_id = "{user}-*"
        denied_publish = "acknowledge"
        failures_max = 3
        failures_in_total_max = 30
        lock = "5m"
        remember = "1h"
        checks_at_once = 2
        [auth.certificate]
        identity = "uri"
        [auth.token]
        algorithm = "HS256"
        secret = "${SECRET}"
        issuer = "i"
        audience = "a"
        leeway = "1m"
        user_claim = "u"
        device_claim = "d"
        acl_claim = "acl"
        [[acl]]
        users = ["a", "b-*"]
        clients = ["c"]
        subscribe = ["x/{client}/+"]
        qos_max = 1
        retain = false
        [[acl]]
        allow = false
        publish = ["#"]
        [[acl]]
        anonymous = true
        publish = ["guests/{client}"]
        "##,
    )
    .unwrap();
    let pattern = |text| Pattern::parse(text).unwrap();
    let filter = |text| Filter::parse(text).unwrap();
    assert_eq!(
        config.broker.auth,
        Config {
            passwords: Some("/etc/penstock/users".into()),
            certificate: Some(Name::Uri),
            token: Some(token::Config {
                algorithm: Algorithm::Hs256,
                key: Key::Secret("0123456789abcdef0123456789abcdef".to_owned()),
                issuer: Some("i".to_owned()),
                audience: Some("a".to_owned()),
                leeway: 60 * SECOND,
                user_claim: "u".to_owned(),
                device_claim: Some("d".to_owned()),
                acl_claim: Some("acl".to_owned()),
            }),
            hook: None,
            client_ids: ClientIds::parse("{user}-*").unwrap(),
            rules: Arc::new(Rules(vec![
                Rule {
                    users: vec![pattern("a"), pattern("b-*")],
                    clients: vec![pattern("c")],
                    subscribe: vec![filter("x/{client}/+")],
                    qos_max: QoS::AtLeastOnce,
                    retain: false,
                    ..Rule::default()
                },
                Rule {
                    allow: false,
                    publish: vec![filter("#")],
                    ..Rule::default()
                },
                Rule {
                    anonymous: true,
                    publish: vec![filter("guests/{client}")],
                    ..Rule::default()
                },
            ])),
            denied_publish: DeniedPublish::Acknowledge,
            lockout: lockout::Config {
                failures_max: 3,
                failures_in_total_max: 30,
                lock: 300 * SECOND,
            },
            checks_at_once: Some(2),
            remember: HOUR,
        }
    );
}

#[cfg(feature = "http")]
#[test]
fn a_service_is_asked_as_it_is_said() {
    let config = read(
        r#"
        [auth.http]
        url = "https://me:${SECRET}@auth.example/mqtt"
        timeout = "1s"
        in_flight_max = 4
        remembered_max = 0
        headers = { X-Key = "${SECRET}" }
        "#,
    )
    .unwrap();
    assert_eq!(
        config.broker.auth.hook,
        Some(hook::Config {
            in_flight_max: 4,
            remembered_max: 0
        })
    );
    let service = config.auth_service.unwrap();
    assert_eq!(
        (service.url.expose(), service.timeout),
        (
            "https://me:0123456789abcdef0123456789abcdef@auth.example/mqtt",
            SECOND
        )
    );
    assert!(!format!("{service:?}").contains("0123456789abcdef"));
}

#[test]
fn mistakes_say_what_would_be_right() {
    let acl = "\n[[acl]]\npublish = [\"#\"]\n";
    for (text, expect) in [
        (
            "[auth]\nfailures_max = 3",
            "auth: names no way to know a client",
        ),
        (
            "[auth]\npasswords = \"p\"",
            "auth: nobody may do anything without an [[acl]]",
        ),
        (
            "[[acl]]\npublish = [\"a\"]",
            "acl: clients are not asked who they are",
        ),
        (
            "[auth]\npasswords = \"p\"\nclient_id = \"mine\"",
            "auth.client_id: \"mine\": should be \"any\"",
        ),
        (
            "[auth]\npasswords = \"p\"\ndenied_publish = \"drop\"",
            "should be one of disconnect, acknowledge",
        ),
        (
            "[auth.certificate]\nidentity = \"cn\"",
            "should be one of common-name, subject, dns, uri, email",
        ),
        (
            "[auth.certificate]\nidentity = \"dns\"",
            "no listener asks for client certificates",
        ),
        (
            "[auth.token]\nkey_file = \"k\"",
            "auth.token.algorithm: is missing",
        ),
        (
            "[auth.token]\nalgorithm = \"RS256\"",
            "auth.token.key_file: one of secret and key_file",
        ),
        (
            "[auth.token]\nalgorithm = \"none\"\nkey_file = \"k\"",
            "should be one of HS256, RS256, ES256, EdDSA",
        ),
        (
            "[auth.token]\nalgorithm = \"HS256\"\nsecret = \"short\"",
            "has 5 bytes; HS256 needs at least 32",
        ),
        (
            "[auth.token]\nalgorithm = \"RS256\"\nsecret = \"${SECRET}\"",
            "auth.token.secret: is for HS256",
        ),
        (
            "[auth.http]\nurl = \"auth.example\"",
            "should begin with http:// or https://",
        ),
        ("[[acl]]\nanonymous = true", "acl[1]: is about nothing"),
        (
            "[[acl]]\nanonymous = true\npublish = [\"a/{user}\"]",
            "neither {user} nor {device}, only {client}",
        ),
        (
            "[[acl]]\nanonymous = true\nusers = [\"a\"]\npublish = [\"a\"]",
            "an anonymous client has no user name",
        ),
        (
            "[[acl]]\nanonymous = true\npublish = [\"a/#/b\"]",
            "acl[1].publish: \"a/#/b\": a topic filter with a misplaced wildcard",
        ),
        (
            "[[acl]]\nanonymous = true\npublish = [\"a/{x}\"]",
            "{client}, {user} or {device}",
        ),
        (
            "[[acl]]\nanonymous = true\nsubscribe = [\"$share/g/a\"]",
            "checked by the filter behind $share/{group}/",
        ),
        (
            "[[acl]]\nanonymous = true\nclients = [\"a*b\"]\npublish = [\"a\"]",
            "may only be the last character",
        ),
        (
            "[[acl]]\nanonymous = true\nallow = false\nqos_max = 1\npublish = [\"a\"]",
            "there is nothing to limit",
        ),
        (
            "[[acl]]\nanonymous = true\npubish = [\"a\"]",
            "did you mean \"publish\"?",
        ),
        (
            "[http]\ntoken = \"short\"",
            "a token has 16 to 512 visible ASCII characters",
        ),
        (
            "[http]\ntoken = \"${SECRET}\"\nallow_anonymous = true",
            "leave one of token and allow_anonymous away",
        ),
        (
            "[http]\ntoken = [{ name = \"a\", role = \"root\", secret = \"${SECRET}\" }]",
            "http.token[1].role: \"root\": should be one of viewer, operator, admin",
        ),
        (
            "[http]\ntoken = [{ name = \"a\", role = \"viewer\", secret = \"${SECRET}\" }, { name = \"a\", role = \"admin\", secret = \"another-secret-of-16\" }]",
            "http.token[2].name: \"a\": another token has this name",
        ),
        (
            "[http]\ntoken = [{ name = \"a\", role = \"viewer\", secret = \"${SECRET}\" }, { name = \"b\", role = \"admin\", secret = \"${SECRET}\" }]",
            "http.token[2].secret: \"${SECRET}\": another token has the same secret",
        ),
        (
            "[http]\ntoken = [{ name = \"anyone\", role = \"viewer\", secret = \"${SECRET}\" }]",
            "this name is taken; the audit log needs it",
        ),
        (
            "[http]\ntoken = [{ name = \"a\", secret = \"${SECRET}\" }]",
            "http.token[1].role: is missing; for example role = \"viewer\"",
        ),
    ] {
        let text = match text.contains("[[acl]]") || expect.contains("[[acl]]") {
            true => text.to_owned(),
            false => format!("{text}{acl}"),
        };
        let said = read(&text).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(expect), "{text}\n{said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
    }
}

#[test]
fn a_service_that_hears_passwords_in_the_clear_is_noticed() {
    for (url, is_overheard) in [
        ("https://auth.example/mqtt", false),
        ("http://auth.example/mqtt", true),
        ("http://192.0.2.1:9000", true),
        ("http://127.0.0.1.auth.example/", true),
        ("http://127.0.0.1@auth.example/", true),
        ("http://127.0.0.1:9000/mqtt", false),
        ("http://localhost/mqtt", false),
        ("http://[::1]:9000/mqtt", false),
        ("http://me:word@localhost:9000?x", false),
    ] {
        let service = Service {
            url: url.into(),
            timeout: SECOND,
            headers: Vec::new(),
        };
        assert_eq!(service.is_overheard(), is_overheard, "{url}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_noticed() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwords");
    fs::write(&path, "").unwrap();
    let config = Config {
        passwords: Some(path.clone()),
        ..Config::default()
    };
    for (mode, open) in [(0o600, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(!too_open(&config).is_empty(), open, "{mode:o}");
    }
}
