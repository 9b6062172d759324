//! Who we are, for a server that asks; and encryption.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::*;
use crate::forward::testing::certificates::Certificates;

fn logged_in(server: &Server, login: Login) -> Config {
    Config {
        login,
        ..config(server.url())
    }
}

fn misconfigured(outcomes: Outcomes) -> String {
    match outcomes {
        Err(Error::Misconfigured(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// Taken with the right login, and a person is needed with the wrong one or none.
async fn knows(server: &Server, right: Login, wrong: Login) {
    let outcomes = nats(logged_in(server, right)).send(batch(1..=3)).await;
    assert!(all_acknowledged(&outcomes), "{outcomes:?}");
    for login in [wrong, Login::None] {
        let reason = misconfigured(nats(logged_in(server, login)).send(batch([4])).await);
        assert!(reason.to_lowercase().contains("authorization"), "{reason}");
    }
}

#[tokio::test]
async fn a_server_knows_user_and_password() {
    let users = "authorization { user: plant, password: sesame }";
    let Some(server) = Server::configured("a_server_knows_user_and_password", users) else {
        return;
    };
    let user = |password: &str| Login::User {
        user: "plant".to_owned(),
        password: password.into(),
    };
    knows(&server, user("sesame"), user("open")).await;
}

#[tokio::test]
async fn a_server_knows_a_token() {
    let token = "authorization { token: sesame }";
    let Some(server) = Server::configured("a_server_knows_a_token", token) else {
        return;
    };
    let token = |word: &str| Login::Token(word.into());
    knows(&server, token("sesame"), token("open")).await;
}

#[tokio::test]
async fn a_server_knows_the_public_half_of_an_nkey() {
    let (ours, other) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        ours.public_key()
    );
    let Some(server) = Server::configured("a_server_knows_the_public_half_of_an_nkey", &users)
    else {
        return;
    };
    let nkey = |pair: &KeyPair| Login::Nkey(pair.seed().unwrap().into());
    knows(&server, nkey(&ours), nkey(&other)).await;
}

/// A JWT as NATS has them, signed by `issuer` about `subject`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, mut nats: Value) -> String {
    nats["version"] = json!(2);
    let claims = json!({
        "jti": name,
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_server_knows_the_jwt_of_a_credentials_file_which_may_change() {
    let [operator, account, system] = [
        KeyPairType::Operator,
        KeyPairType::Account,
        KeyPairType::Account,
    ]
    .map(KeyPair::new);
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({
        "type": "account", "limits": limits, "default_permissions": {"pub": {}, "sub": {}},
    });
    let mut of_system = of_account.clone();
    for name in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"][name] = json!(0);
    }
    let configuration = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, "op", json!({"type": "operator"})),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, "plant", of_account),
        system.public_key(),
        jwt(&operator, &system, "sys", of_system),
    );
    let test = "a_server_knows_the_jwt_of_a_credentials_file_which_may_change";
    let Some(server) = Server::configured(test, &configuration) else {
        return;
    };
    let user = KeyPair::new_user();
    let credentials = |issuer: &KeyPair| {
        let of_user = json!({
            "type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, &user, "plant-7", of_user),
            user.seed().unwrap()
        )
    };
    let file = server.dir.path().join("plant.creds");
    let nats = nats(logged_in(&server, Login::Credentials(file.clone())));
    let missing = misconfigured(nats.send(batch([1])).await);
    assert!(missing.contains("plant.creds: No such file"), "{missing}");
    std::fs::write(&file, user.seed().unwrap()).unwrap();
    let unreadable = misconfigured(nats.send(batch([1])).await);
    assert!(unreadable.contains("no JWT"), "{unreadable}");
    assert!(!unreadable.contains(&user.seed().unwrap()), "{unreadable}");
    // Of an account that the server does not know, and then of the one that it does.
    std::fs::write(&file, credentials(&KeyPair::new_account())).unwrap();
    misconfigured(nats.send(batch([1])).await);
    std::fs::write(&file, credentials(&account)).unwrap();
    let outcomes = nats.send(batch(1..=3)).await;
    assert!(all_acknowledged(&outcomes), "{outcomes:?}");
}

#[tokio::test]
async fn both_sides_show_certificates_and_nothing_goes_in_clear() {
    let known = Certificates::new();
    for name in ["localhost", "plant-7"] {
        known.issue(name);
    }
    let stranger = Certificates::new();
    stranger.issue("plant-7");
    let tls = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        known.path("localhost.pem"),
        known.path("localhost.key"),
        known.path("ca.pem")
    );
    let test = "both_sides_show_certificates_and_nothing_goes_in_clear";
    let Some(server) = Server::configured(test, &tls) else {
        return;
    };
    let url = format!("tls://localhost:{}", server.address.port());
    let with = |tls: Files| Config {
        tls,
        ..config(url.clone())
    };
    let outcomes = nats(with(known.files(Some("plant-7"))))
        .send(batch(1..=3))
        .await;
    assert!(all_acknowledged(&outcomes), "{outcomes:?}");
    let theirs = Files {
        ca: known.files(None).ca,
        ..stranger.files(Some("plant-7"))
    };
    for (files, expect) in [
        // We do not know the server, or have no certificate at all.
        (stranger.files(Some("plant-7")), "certificate"),
        (stranger.files(Some("none")), "none.pem"),
    ] {
        let reason = misconfigured(nats(with(files)).send(batch([4])).await);
        assert!(reason.to_lowercase().contains(expect), "{reason}");
    }
    // The server knows nobody, or a stranger. Its word can be lost with the connection.
    for files in [known.files(None), theirs] {
        let nats = nats(with(files));
        let mut refused = None;
        for _ in 0..50 {
            refused = match nats.send(batch([4])).await {
                Err(Error::Misconfigured(reason)) => Some(reason),
                Err(Error::Unavailable { .. }) => continue,
                other => panic!("{other:?}"),
            };
            break;
        }
        let refused = refused.expect("it is heard in one of fifty times");
        assert!(refused.contains("alert"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password_that_was_meant_for_one_with_it() {
    let test = "a_server_without_tls_gets_no_password_that_was_meant_for_one_with_it";
    let Some(server) = Server::start(test) else {
        return;
    };
    let known = Certificates::new();
    // One address says tls://, so all are.
    let config = Config {
        servers: vec![server.url(), "tls://127.0.0.1:1".to_owned()],
        tls: known.files(None),
        ..config(server.url())
    };
    let outcomes = nats(config).send(batch([1])).await;
    assert!(outcomes.is_err(), "{outcomes:?}");
}

#[test]
fn a_seed_that_is_none_is_refused_and_never_shown() {
    let nkey = |seed: &str| Config {
        login: Login::Nkey(seed.into()),
        ..config("nats://127.0.0.1:4222".to_owned())
    };
    let account = KeyPair::new_account().seed().unwrap();
    for seed in ["SUhush", "", &account] {
        let error = nkey(seed).check().unwrap_err().to_string();
        assert!(error.contains("SU..."), "{error}");
        assert!(seed.is_empty() || !error.contains(seed), "{error}");
    }
    nkey(&KeyPair::new_user().seed().unwrap()).check().unwrap();
}

#[test]
fn a_window_that_ordinary_resends_outlast_is_said_to_be_short() {
    let retry_max = Duration::from_secs(30);
    let window = |seconds| Config {
        duplicate_window: Duration::from_secs(seconds),
        ..Config::new(vec!["nats://127.0.0.1:4222".to_owned()], "S")
    };
    // Twice 10s for the answer and the stream, 30s of delay, 5s for connecting.
    assert_eq!(window(110).warning(retry_max), None);
    let warning = window(109).warning(retry_max).unwrap();
    assert!(
        warning.contains("109s") && warning.contains("55s"),
        "{warning}"
    );
    let theirs = Config {
        create_stream: false,
        ..window(1)
    };
    assert_eq!(
        theirs.warning(retry_max),
        None,
        "its window is not ours to set"
    );
}
