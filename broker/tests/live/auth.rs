//! Who may connect, and who may do what, over real sockets.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use jsonwebtoken::{EncodingKey, Header};
use penstock_broker::{
    Config, QoS,
    acl::{Filter, Rule, Rules},
    auth::{
        self, ClientIds, DeniedPublish,
        hook::{Allowed, Answer, Asking, Hook, Question},
        passwords::{Cost, Passwords, hash},
        token,
    },
};
use serde_json::json;
use tokio::{task::JoinSet, time::Duration};

use crate::support::{
    Client, Running, config, packet, publish_v4, publish_v5, start, start_with_hook, string,
};

const CHEAP: Cost = Cost {
    memory_kib: 8,
    iterations: 1,
};
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn write_users(path: &Path, users: &[&str]) {
    let mut passwords = Passwords::default();
    for user in users {
        passwords.set(user, &hash(format!("{user}-pw").as_bytes(), CHEAP).unwrap());
    }
    passwords.save(path).unwrap();
}

fn filters(texts: &[&str]) -> Vec<Filter> {
    texts
        .iter()
        .map(|text| Filter::parse(text).unwrap())
        .collect()
}

/// Devices publish below their own name and read their own commands; `monitor`
/// reads everything.
fn rules() -> Arc<Rules> {
    Arc::new(Rules(vec![
        Rule {
            publish: filters(&["devices/{user}/#"]),
            subscribe: filters(&["commands/{user}/#"]),
            ..Rule::default()
        },
        Rule {
            users: vec![auth_pattern("monitor")],
            subscribe: filters(&["#", "$SYS/#"]),
            qos_max: QoS::AtLeastOnce,
            ..Rule::default()
        },
    ]))
}

fn auth_pattern(text: &str) -> penstock_broker::acl::Pattern {
    penstock_broker::acl::Pattern::parse(text).unwrap()
}

struct Fixture {
    _dir: tempfile::TempDir,
    config: Config,
}

fn fixture(users: &[&str]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwords");
    write_users(&path, users);
    let config = Config {
        auth: auth::Config {
            passwords: Some(path),
            rules: rules(),
            ..auth::Config::default()
        },
        ..config()
    };
    Fixture { _dir: dir, config }
}

/// CONNECT with a user name and a password.
fn connect(version: u8, id: &str, user: &str, password: &str) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    packet(
        0x10,
        &[
            &string("MQTT"),
            &[version, 0b1100_0010, 0, 0],
            properties,
            &string(id),
            &string(user),
            &string(password),
        ],
    )
}

async fn answer(broker: &Running, connect: &[u8]) -> (Client, u8) {
    let mut client = broker.raw().await;
    client.send(connect).await;
    let connack = client.packet().await;
    assert_eq!(connack[0], 0x20, "{connack:02x?}");
    (client, connack[3])
}

/// A session as `user`, whose password is `{user}-pw`.
async fn session(broker: &Running, version: u8, id: &str, user: &str) -> Client {
    let password = format!("{user}-pw");
    let (client, code) = answer(broker, &connect(version, id, user, &password)).await;
    assert_eq!(code, 0);
    client
}

#[tokio::test]
async fn a_client_is_let_in_with_the_right_password_and_told_why_otherwise() {
    let fixture = fixture(&["d1"]);
    let broker = start(fixture.config).await;
    for (version, user, password, code) in [
        (4, "d1", "d1-pw", 0),
        (5, "d1", "d1-pw", 0),
        (4, "d1", "wrong", 4),
        (5, "d1", "wrong", 0x86),
        (4, "nobody", "d1-pw", 4),
        (5, "nobody", "d1-pw", 0x86),
    ] {
        let (mut client, said) = answer(&broker, &connect(version, "c", user, password)).await;
        assert_eq!(said, code, "{version} {user} {password}");
        if code == 0 {
            client.send(&[0xE0, 0]).await;
        }
        client.expect_end().await;
    }
    for (version, code) in [(4, 5), (5, 0x87)] {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let bare = packet(
            0x10,
            &[
                &string("MQTT"),
                &[version, 2, 0, 0],
                properties,
                &string("c"),
            ],
        );
        assert_eq!(answer(&broker, &bare).await.1, code);
    }
    let metrics = broker.handle.metrics();
    assert_eq!((metrics.auth_allowed, metrics.auth_denied), (2, 6));
    broker.stop().await;
}

#[tokio::test]
async fn guessing_is_answered_with_wait() {
    let fixture = fixture(&["d1"]);
    let broker = start(fixture.config).await;
    for _ in 0..5 {
        answer(&broker, &connect(5, "c", "d1", "guess")).await;
    }
    assert_eq!(
        answer(&broker, &connect(5, "c", "d1", "d1-pw")).await.1,
        0x9F
    );
    assert_eq!(answer(&broker, &connect(4, "c", "d1", "d1-pw")).await.1, 3);
    assert_eq!(broker.handle.metrics().auth_locked, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_publish_without_the_right_is_refused_and_never_reaches_the_gateway() {
    let fixture = fixture(&["d1"]);
    let broker = start(fixture.config).await;
    let mut v5 = session(&broker, 5, "five", "d1").await;
    for (qos, kind) in [(1, 0x40), (2, 0x50)] {
        v5.send(&publish_v5("devices/d2/x", qos, 1, &[], "x")).await;
        let answer = v5.packet().await;
        assert_eq!((answer[0], answer[4]), (kind, 0x87), "{answer:02x?}");
    }
    v5.send(&publish_v5("devices/d2/x", 0, 0, &[], "x")).await;
    v5.send(&publish_v5("devices/d1/x", 1, 2, &[], "mine"))
        .await;
    v5.expect(&[0x40, 2, 0, 2]).await;

    let mut v4 = session(&broker, 4, "four", "d1").await;
    v4.send(&publish_v4("devices/d2/x", 0, 0, "x")).await;
    v4.send(&publish_v4("devices/d1/x", 1, 1, "before")).await;
    v4.send(&publish_v4("devices/d2/x", 1, 2, "not mine")).await;
    // What came before is acknowledged; this is not, and so not said to be kept.
    v4.expect(&[0x40, 2, 0, 1]).await;
    v4.expect_end().await;
    assert_eq!(broker.gateway.payloads(), ["mine", "before"]);
    assert_eq!(broker.handle.metrics().publishes_denied, 5);
    broker.stop().await;
}

#[tokio::test]
async fn an_operator_may_want_refused_publishes_of_3_1_1_acknowledged() {
    let mut fixture = fixture(&["d1"]);
    fixture.config.auth.denied_publish = DeniedPublish::Acknowledge;
    let broker = start(fixture.config).await;
    let mut v4 = session(&broker, 4, "four", "d1").await;
    v4.send(&publish_v4("devices/d2/x", 1, 1, "x")).await;
    v4.expect(&[0x40, 2, 0, 1]).await;
    v4.send(&publish_v4("devices/d2/x", 2, 2, "x")).await;
    v4.expect(&[0x50, 2, 0, 2]).await;
    v4.send(&[0x62, 2, 0, 2]).await;
    v4.expect(&[0x70, 2, 0, 2]).await;
    v4.ping().await;
    assert!(broker.gateway.payloads().is_empty());
    assert_eq!(broker.handle.metrics().publishes_denied, 2);
    broker.stop().await;
}

#[tokio::test]
async fn qos_and_retain_are_limited_where_a_rule_says_so() {
    let mut fixture = fixture(&["d1"]);
    fixture.config.auth.rules = Arc::new(Rules(vec![Rule {
        publish: filters(&["a"]),
        subscribe: filters(&["a"]),
        qos_max: QoS::AtLeastOnce,
        retain: false,
        ..Rule::default()
    }]));
    let broker = start(fixture.config).await;
    let mut client = session(&broker, 5, "c", "d1").await;
    client.send(&publish_v5("a", 2, 1, &[], "x")).await;
    assert_eq!(client.packet().await[4], 0x87);
    let mut retained = publish_v5("a", 1, 2, &[], "x");
    retained[0] |= 1;
    client.send(&retained).await;
    assert_eq!(client.packet().await[4], 0x87);
    client.send(&publish_v5("a", 1, 3, &[], "x")).await;
    client.expect(&[0x40, 2, 0, 3]).await;
    client
        .send(&packet(0x82, &[&[0, 9, 0], &string("a"), &[2]]))
        .await;
    client.expect(&[0x90, 4, 0, 9, 0, 1]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_subscription_wider_than_the_permission_is_refused() {
    let fixture = fixture(&["d1", "monitor"]);
    let broker = start(fixture.config).await;
    let mut v5 = session(&broker, 5, "five", "d1").await;
    for (filter, code) in [
        ("commands/d1/#", 0),
        ("commands/d1/reset", 0),
        ("commands/+/reset", 0x87),
        ("commands/#", 0x87),
        ("#", 0x87),
        ("$SYS/#", 0x87),
        ("devices/d1/#", 0x87),
    ] {
        v5.send(&packet(0x82, &[&[0, 9, 0], &string(filter), &[0]]))
            .await;
        v5.expect(&[0x90, 4, 0, 9, 0, code]).await;
    }
    let mut v4 = session(&broker, 4, "four", "d1").await;
    v4.send(&packet(0x82, &[&[0, 9], &string("#"), &[1]])).await;
    v4.expect(&[0x90, 3, 0, 9, 0x80]).await;
    let mut monitor = session(&broker, 5, "monitor", "monitor").await;
    monitor
        .send(&packet(
            0x82,
            &[&[0, 9, 0], &string("#"), &[2], &string("$SYS/#"), &[0]],
        ))
        .await;
    monitor.expect(&[0x90, 5, 0, 9, 0, 1, 0]).await;
    assert_eq!(broker.handle.metrics().subscriptions_denied, 6);
    // The refused ones bring nothing.
    monitor
        .send(&publish_v5("commands/d2/x", 0, 0, &[], "x"))
        .await;
    v5.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_without_the_right_is_refused_with_its_client() {
    let fixture = fixture(&["d1"]);
    let broker = start(fixture.config).await;
    let with_will = |version: u8, topic: &str| {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        packet(
            0x10,
            &[
                &string("MQTT"),
                &[version, 0b1100_0110, 0, 0],
                properties,
                &string("c"),
                properties,
                &string(topic),
                &string("gone"),
                &string("d1"),
                &string("d1-pw"),
            ],
        )
    };
    assert_eq!(
        answer(&broker, &with_will(5, "devices/d2/state")).await.1,
        0x87
    );
    assert_eq!(
        answer(&broker, &with_will(4, "devices/d2/state")).await.1,
        5
    );
    let (client, code) = answer(&broker, &with_will(5, "devices/d1/state")).await;
    assert_eq!(code, 0);
    client.abort();
    broker.gateway.took(1).await;
    broker.stop().await;
}

#[tokio::test]
async fn the_will_of_a_user_who_is_gone_is_not_published() {
    let fixture = fixture(&["d1", "d2"]);
    let auth = fixture.config.auth.clone();
    let broker = start(fixture.config).await;
    let mut watching = Vec::new();
    for user in ["d1", "d2"] {
        let connect = packet(
            0x10,
            &[
                &string("MQTT"),
                &[5, 0b1100_0110, 0, 0, 0],
                &string(user),
                &[0],
                &string(&format!("devices/{user}/state")),
                &string(user),
                &string(user),
                &string(&format!("{user}-pw")),
            ],
        );
        let (client, code) = answer(&broker, &connect).await;
        assert_eq!(code, 0);
        watching.push(client);
    }
    let path = auth.passwords.as_ref().unwrap();
    let mut passwords = Passwords::load(path).unwrap();
    passwords.remove("d1");
    passwords.save(path).unwrap();
    broker.handle.reload_auth(auth).unwrap();
    let [mut gone, stays] = <[Client; 2]>::try_from(watching).ok().unwrap();
    assert_eq!(gone.packet().await[0], 0xE0);
    gone.expect_end().await;
    // The will of the other one comes through, and it is the only one.
    stays.abort();
    broker.gateway.took(1).await;
    assert_eq!(broker.gateway.payloads(), ["d2"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_filter_of_the_wrong_form_is_not_held_against_the_rules() {
    let fixture = fixture(&["d1"]);
    let broker = start(fixture.config).await;
    let mut client = session(&broker, 5, "c", "d1").await;
    let subscribe = [&[0, 1, 0][..], &string("devices/#/x"), &[0]].concat();
    client.send(&packet(0x82, &[&subscribe])).await;
    client.expect(&[0x90, 4, 0, 1, 0, 0x8F]).await;
    assert_eq!(broker.handle.metrics().subscriptions_denied, 0);
    let subscribe = [&[0, 2, 0][..], &string("devices/d1/x"), &[0]].concat();
    client.send(&packet(0x82, &[&subscribe])).await;
    client.expect(&[0x90, 4, 0, 2, 0, 0x87]).await;
    assert_eq!(broker.handle.metrics().subscriptions_denied, 1);
    broker.stop().await;
}

#[tokio::test]
async fn one_user_cannot_take_the_session_of_another() {
    let fixture = fixture(&["d1", "d2"]);
    let broker = start(fixture.config).await;
    let mut d1 = session(&broker, 5, "the-id", "d1").await;
    let thief = connect(5, "the-id", "d2", "d2-pw");
    assert_eq!(answer(&broker, &thief).await.1, 0x85);
    assert_eq!(
        answer(&broker, &connect(4, "the-id", "d2", "d2-pw"))
            .await
            .1,
        2
    );
    d1.ping().await;
    // Its own user still takes over.
    let mut again = session(&broker, 5, "the-id", "d1").await;
    d1.expect_disconnect(0x8E).await;
    again.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn client_identifiers_can_be_bound_to_users() {
    let mut fixture = fixture(&["d1"]);
    fixture.config.auth.client_ids = ClientIds::parse("user").unwrap();
    let broker = start(fixture.config).await;
    assert_eq!(
        answer(&broker, &connect(5, "d2", "d1", "d1-pw")).await.1,
        0x85
    );
    assert_eq!(answer(&broker, &connect(5, "d1", "d1", "d1-pw")).await.1, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_reload_ends_the_sessions_that_would_not_be_let_in_again() {
    let fixture = fixture(&["d1", "d2", "monitor"]);
    let auth = fixture.config.auth.clone();
    let broker = start(fixture.config).await;
    let mut gone = session(&broker, 5, "gone", "d1").await;
    let mut narrowed = session(&broker, 5, "narrowed", "monitor").await;
    narrowed.subscribe_v5("#", 0).await;
    let mut stays = session(&broker, 5, "stays", "d2").await;
    stays
        .send(&publish_v5("devices/d2/x", 1, 1, &[], "x"))
        .await;
    stays.expect(&[0x40, 2, 0, 1]).await;
    narrowed
        .expect(&publish_v5("devices/d2/x", 0, 0, &[], "x"))
        .await;

    let mut passwords = Passwords::load(auth.passwords.as_ref().unwrap()).unwrap();
    passwords.remove("d1");
    passwords.save(auth.passwords.as_ref().unwrap()).unwrap();
    let changed = Rules(vec![Rule {
        publish: filters(&["other/{user}/#"]),
        ..Rule::default()
    }]);
    broker
        .handle
        .reload_auth(auth::Config {
            rules: Arc::new(changed),
            ..auth
        })
        .unwrap();
    for client in [&mut gone, &mut narrowed] {
        let packet = client.packet().await;
        assert_eq!((packet[0], packet[2]), (0xE0, 0x87), "{packet:02x?}");
        client.expect_end().await;
    }
    // The answer that was cached for the topic is not used any more.
    stays
        .send(&publish_v5("devices/d2/x", 1, 2, &[], "x"))
        .await;
    assert_eq!(stays.packet().await[4], 0x87);
    stays.send(&publish_v5("other/d2/x", 1, 3, &[], "x")).await;
    stays.expect(&[0x40, 2, 0, 3]).await;
    assert_eq!(broker.handle.metrics().sessions_revoked, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let config = Config {
        auth: auth::Config {
            token: Some(token::Config {
                algorithm: token::Algorithm::Hs256,
                key: token::Key::Secret(SECRET.to_owned()),
                issuer: None,
                audience: None,
                leeway: Duration::ZERO,
                user_claim: "sub".to_owned(),
                device_claim: None,
                acl_claim: Some("acl".to_owned()),
            }),
            ..auth::Config::default()
        },
        ..config()
    };
    let broker = start(config).await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let token = |user: &str, lifetime: u64| {
        let claims = json!({
            "sub": user, "exp": now + lifetime, "acl": [{"publish": ["devices/{user}/#"]}],
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
    };
    let connect_with = |id: &str, token: &str| connect(5, id, "ignored", token);
    let (mut short, code) = answer(&broker, &connect_with("short", &token("d1", 3))).await;
    assert_eq!(code, 0);
    let (mut long, code) = answer(&broker, &connect_with("long", &token("d2", 3_600))).await;
    assert_eq!(code, 0);
    short
        .send(&publish_v5("devices/d1/x", 1, 1, &[], "x"))
        .await;
    short.expect(&[0x40, 2, 0, 1]).await;
    short
        .send(&publish_v5("devices/d2/x", 1, 2, &[], "x"))
        .await;
    assert_eq!(short.packet().await[4], 0x87);
    let packet = short.packet().await;
    assert_eq!((packet[0], packet[2]), (0xE0, 0x87), "{packet:02x?}");
    short.expect_end().await;
    long.ping().await;
    let (_, code) = answer(&broker, &connect_with("late", &token("d1", 0))).await;
    assert_eq!(code, 0x87);
    assert_eq!(broker.handle.metrics().sessions_revoked, 1);
    broker.stop().await;
}

#[derive(Debug)]
struct Service;

impl Hook for Service {
    fn ask<'a>(&'a self, question: &'a Question) -> Asking<'a> {
        Box::pin(async move {
            let rules = json!([{"publish": ["from/{device}"]}]);
            Ok(Answer {
                allowed: (question.password.as_deref() == Some(b"open")).then(|| Allowed {
                    user: Some(Arc::from("known")),
                    device: Some(Arc::from("press")),
                    rules: Some(Arc::new(Rules::from_json(&rules).unwrap())),
                }),
                remember: Duration::ZERO,
            })
        })
    }
}

#[tokio::test]
async fn a_service_of_the_operator_says_who_a_client_is_and_what_it_may_do() {
    let config = Config {
        auth: auth::Config {
            hook: Some(auth::hook::Config::default()),
            ..auth::Config::default()
        },
        ..config()
    };
    let broker = start_with_hook(config, Arc::new(Service)).await;
    assert_eq!(answer(&broker, &connect(5, "c", "u", "shut")).await.1, 0x86);
    let (mut client, code) = answer(&broker, &connect(5, "c", "u", "open")).await;
    assert_eq!(code, 0);
    client.send(&publish_v5("from/press", 1, 1, &[], "x")).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.send(&publish_v5("from/u", 1, 2, &[], "x")).await;
    assert_eq!(client.packet().await[4], 0x87);
    broker.stop().await;
}

/// Five hundred devices come back at once, each with a password of its own that
/// costs something to check. All are let in, and who is connected is served all
/// the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_storm_is_let_in_while_others_are_served() {
    const CLIENTS: usize = 500;
    let names: Vec<String> = (0..CLIENTS).map(|n| format!("d{n}")).collect();
    let mut fixture = fixture(&["honest"]);
    let path = fixture.config.auth.passwords.clone().unwrap();
    let mut passwords = Passwords::load(&path).unwrap();
    for name in &names {
        let cost = Cost {
            memory_kib: 256,
            iterations: 1,
        };
        passwords.set(name, &hash(format!("{name}-pw").as_bytes(), cost).unwrap());
    }
    passwords.save(&path).unwrap();
    fixture.config.connect_timeout = Duration::from_secs(60);
    let broker = Arc::new(start(fixture.config).await);
    let mut honest = session(&broker, 5, "honest", "honest").await;
    let mut storm = JoinSet::new();
    for name in names {
        let broker = Arc::clone(&broker);
        storm.spawn(async move {
            let mut client = session(&broker, 4, &name, &name).await;
            client.ping().await;
            client
        });
    }
    let over = Arc::new(AtomicBool::new(false));
    let served = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut served = 0;
            while !over.load(Relaxed) {
                honest
                    .send(&publish_v5("devices/honest/x", 1, 1, &[], "x"))
                    .await;
                honest.expect(&[0x40, 2, 0, 1]).await;
                served += 1;
            }
            served
        }
    });
    let mut clients = Vec::new();
    while let Some(client) = storm.join_next().await {
        clients.push(client.unwrap());
    }
    over.store(true, Relaxed);
    assert!(served.await.unwrap() > 0);
    let metrics = broker.handle.metrics();
    assert_eq!(metrics.auth_allowed, 1 + CLIENTS as u64);
    assert_eq!(
        metrics.auth_denied + metrics.auth_locked + metrics.auth_unanswered,
        0
    );
    // They are lost and come back: nothing has to be checked again.
    let checked = metrics.passwords_checked;
    drop(clients);
    for n in 0..CLIENTS {
        let name = format!("d{n}");
        session(&broker, 5, &name, &name).await;
    }
    assert_eq!(broker.handle.metrics().passwords_checked, checked);
    broker.shutdown.cancel();
}
