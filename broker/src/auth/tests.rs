//! Methods in their order, with a password file and a service of the tests' own.

mod changes;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize},
    time::Duration,
};

use crate::{
    QoS,
    acl::{Permit, Rules},
};

use super::{
    hook::{Allowed, Answer, Asking},
    passwords::Cost,
    *,
};

const CHEAP: Cost = Cost {
    memory_kib: 8,
    iterations: 1,
};

#[derive(Debug, Default)]
struct Service {
    asked: AtomicUsize,
    broken: AtomicBool,
    /// It thinks about it.
    held: AtomicBool,
}

impl Hook for Service {
    fn ask<'a>(&'a self, question: &'a Question) -> Asking<'a> {
        self.asked.fetch_add(1, Relaxed);
        Box::pin(async move {
            while self.held.load(Relaxed) {
                tokio::task::yield_now().await;
            }
            if self.broken.load(Relaxed) {
                return Err("down".to_owned());
            }
            Ok(Answer {
                allowed: (question.password.as_deref() == Some(b"asked")
                    || question.certificate.is_some())
                .then(|| Allowed {
                    device: Some(Arc::from("press")),
                    ..Allowed::default()
                }),
                remember: Duration::from_secs(60),
            })
        })
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    config: Config,
    auth: Arc<Auth>,
    service: Arc<Service>,
}

/// A password file with `line-3` and `sesame`.
fn file(dir: &Path) -> PathBuf {
    let path = dir.join("passwords");
    let mut users = Passwords::default();
    users.set("line-3", &passwords::hash(b"sesame", CHEAP).unwrap());
    users.save(&path).unwrap();
    path
}

fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        passwords: Some(file(dir.path())),
        ..Config::default()
    };
    change(&mut config);
    let service = Arc::new(Service::default());
    let auth = Auth::load(config.clone(), Arc::default()).unwrap();
    auth.set_hook(service.clone());
    Fixture {
        dir,
        config,
        auth: Arc::new(auth),
        service,
    }
}

impl Fixture {
    async fn admit(&self, user: Option<&str>, password: Option<&str>) -> Result<Rights, Refusal> {
        self.admit_as("c1", user, password, false, "10.0.0.1").await
    }

    async fn admit_as(
        &self,
        client_id: &str,
        user: Option<&str>,
        password: Option<&str>,
        allow_anonymous: bool,
        address: &str,
    ) -> Result<Rights, Refusal> {
        let user: Option<Arc<str>> = user.map(Arc::from);
        self.auth
            .admit(&Attempt {
                client_id: &Arc::from(client_id),
                is_assigned: false,
                username: user.as_ref(),
                password: password.map(str::as_bytes),
                address: Some(SocketAddr::new(address.parse().unwrap(), 50_000)),
                listener: "mqtt",
                certificate: None,
                allow_anonymous,
            })
            .await
    }
}

fn who(rights: &Rights) -> (Option<&str>, Method) {
    let identity = rights.identity();
    (identity.user.as_deref(), identity.method)
}

#[tokio::test]
async fn nothing_configured_asks_nobody_and_forbids_nothing() {
    let fixture = fixture(|config| config.passwords = None);
    let rights = fixture.admit(Some("anyone"), Some("x")).await.unwrap();
    assert_eq!(who(&rights), (None, Method::Anonymous));
    assert_eq!(rights.publish("a"), Some(Permit::ALL));
    assert_eq!(rights.subscribe("$SYS/#"), Some(Permit::ALL));
}

#[tokio::test]
async fn a_password_is_right_or_wrong_and_never_anonymous() {
    let fixture = fixture(|_| {});
    let rights = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    assert_eq!(who(&rights), (Some("line-3"), Method::Password));
    assert_eq!(
        rights.publish("a"),
        None,
        "nothing is allowed without a rule"
    );
    assert_eq!(rights.subscribe("a"), None);
    for (user, password) in [
        (Some("line-3"), Some("guess")),
        (Some("line-3"), None),
        (Some("nobody"), Some("sesame")),
        (None, Some("sesame")),
    ] {
        let refused = fixture
            .admit_as("c1", user, password, true, "10.0.0.2")
            .await;
        assert_eq!(refused.unwrap_err(), WRONG, "{user:?} {password:?}");
    }
    let refused = fixture.admit(None, None).await.unwrap_err();
    assert_eq!(refused.reason, reason::NOT_AUTHORIZED);
    let anonymous = fixture.admit_as("c1", None, None, true, "10.0.0.2").await;
    assert_eq!(who(&anonymous.unwrap()), (None, Method::Anonymous));
}

#[tokio::test]
async fn an_unknown_user_costs_a_check_too() {
    let fixture = fixture(|_| {});
    fixture.admit(Some("nobody"), Some("x")).await.unwrap_err();
    assert_eq!(fixture.auth.counters.passwords_checked.get(), 1);
}

#[tokio::test]
async fn guessing_is_locked_for_the_address_and_not_for_the_device() {
    let fixture = fixture(|_| {});
    for _ in 0..5 {
        fixture
            .admit(Some("line-3"), Some("guess"))
            .await
            .unwrap_err();
    }
    // Also with the right password, or a guess that is right would be told.
    let locked = fixture.admit(Some("line-3"), Some("sesame")).await;
    assert_eq!(locked.unwrap_err(), LOCKED);
    let honest = fixture.admit_as("c1", Some("line-3"), Some("sesame"), false, "10.0.0.9");
    assert!(honest.await.is_ok());
    assert_eq!(fixture.auth.counters.auth_locked.get(), 1);
    assert_eq!(fixture.auth.counters.auth_denied.get(), 5);
}

#[tokio::test]
async fn a_device_that_came_before_its_user_was_added_is_not_locked_out() {
    let fixture = fixture(|_| {});
    for _ in 0..9 {
        fixture
            .admit(Some("line-4"), Some("four"))
            .await
            .unwrap_err();
    }
    // Without a change of the passwords nothing is forgotten.
    fixture.auth.reload(fixture.config.clone()).unwrap();
    let locked = fixture.admit(Some("line-4"), Some("four")).await;
    assert_eq!(locked.unwrap_err(), LOCKED);
    let path = fixture.dir.path().join("passwords");
    let mut users = Passwords::load(&path).unwrap();
    users.set("line-4", &passwords::hash(b"four", CHEAP).unwrap());
    users.save(&path).unwrap();
    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert!(fixture.admit(Some("line-4"), Some("four")).await.is_ok());
}

#[tokio::test]
async fn an_address_with_many_failures_lets_what_is_remembered_pass() {
    let fixture = fixture(|config| config.lockout.failures_in_total_max = 3);
    let before = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    for user in ["a", "b", "c"] {
        fixture.admit(Some(user), Some("x")).await.unwrap_err();
    }
    assert!(fixture.admit(Some("line-3"), Some("sesame")).await.is_ok());
    let guess = fixture.admit(Some("line-3"), Some("guess")).await;
    assert_eq!(guess.unwrap_err(), LOCKED);
    drop(before);
}

#[tokio::test]
async fn the_service_is_asked_about_whom_the_file_does_not_know() {
    let fixture = fixture(|config| config.hook = Some(hook::Config::default()));
    let known = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    assert_eq!(who(&known), (Some("line-3"), Method::Password));
    assert_eq!(fixture.service.asked.load(Relaxed), 0);
    for _ in 0..3 {
        let asked = fixture.admit(Some("other"), Some("asked")).await.unwrap();
        assert_eq!(who(&asked), (Some("other"), Method::Hook));
        assert_eq!(asked.identity().device.as_deref(), Some("press"));
    }
    assert_eq!(
        fixture.service.asked.load(Relaxed),
        1,
        "the answer is remembered"
    );
    assert_eq!(
        fixture.admit(Some("other"), Some("x")).await.unwrap_err(),
        WRONG
    );
    fixture.service.broken.store(true, Relaxed);
    let other = fixture.admit(Some("third"), Some("asked")).await;
    assert_eq!(other.unwrap_err(), UNANSWERED, "no answer is a no");
    assert!(fixture.admit(Some("other"), Some("asked")).await.is_ok());
}

#[tokio::test]
async fn a_client_identifier_may_have_to_be_the_users() {
    let fixture = fixture(|config| config.client_ids = ClientIds::parse("{user}:*").unwrap());
    let admit = |id| fixture.admit_as(id, Some("line-3"), Some("sesame"), false, "10.0.0.1");
    assert!(admit("line-3:gateway").await.is_ok());
    let other = admit("line-4:gateway").await.unwrap_err();
    assert_eq!(other.reason, reason::CLIENT_ID_INVALID);
}

#[test]
fn client_identifiers_are_like_their_pattern() {
    for (pattern, user, id, expect) in [
        ("any", "u", "x", true),
        ("user", "u", "u", true),
        ("user", "u", "u2", false),
        ("{user}-*", "u", "u-1", true),
        ("{user}-*", "u", "u", false),
        ("{user}-*", "a", "a-b-1", true),
        ("{user}-*", "a-b", "a-b-1", false),
        ("dev-{user}-x", "u", "dev-u-x", true),
        ("dev-{user}-x", "u", "dev-u-xy", false),
    ] {
        let rule = ClientIds::parse(pattern).unwrap();
        assert_eq!(rule.takes(user, id), expect, "{pattern} {user} {id}");
    }
    for bad in [
        "",
        "users",
        "*",
        "{client}",
        "{user}*",
        "{user}*{user}",
        "*{user}",
    ] {
        assert!(ClientIds::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_reload_takes_effect_at_once_or_not_at_all() {
    let fixture = fixture(|_| {});
    let rights = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    let (version, revision) = (rights.version(), rights.revision());
    let path = fixture.dir.path().join("passwords");
    std::fs::write(&path, "nonsense").unwrap();
    let error = fixture.auth.reload(fixture.config.clone()).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
    assert_eq!(rights.version(), version);
    assert_eq!(rights.objection([]), None);

    let rule = crate::acl::Rule {
        subscribe: vec![crate::acl::Filter::parse("a/{user}").unwrap()],
        qos_max: QoS::AtLeastOnce,
        ..crate::acl::Rule::default()
    };
    let config = Config {
        rules: Arc::new(Rules(vec![rule])),
        ..fixture.config.clone()
    };
    let at_1 = |filter| (filter, QoS::AtLeastOnce);
    file(fixture.dir.path());
    fixture.auth.reload(config.clone()).unwrap();
    assert!(revision.is_cancelled() && rights.version() != version);
    assert!(rights.subscribe("a/line-3").is_some());
    assert!(
        rights.objection([at_1("a/line-3")]).is_some(),
        "another hash"
    );

    let rights = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    assert_eq!(
        rights.objection(["a/line-3", "$share/g/a/line-3"].map(at_1)),
        None
    );
    assert!(rights.objection([at_1("a/line-4")]).is_some());
    let narrower = rights.objection([("a/line-3", QoS::ExactlyOnce)]);
    assert!(narrower.is_some(), "it would get QoS 1 today");
    let mut users = Passwords::load(&path).unwrap();
    users.remove("line-3");
    users.save(&path).unwrap();
    fixture.auth.reload(config).unwrap();
    assert!(rights.objection([]).is_some(), "the user is gone");
}

#[tokio::test]
async fn guesses_at_the_same_time_are_no_more_than_guesses_in_turn() {
    let fixture = fixture(|config| config.checks_at_once = Some(8));
    let guesses: Vec<String> = (0..60).map(|n| format!("guess {n}")).collect();
    let all = guesses
        .iter()
        .map(|guess| fixture.admit(Some("line-3"), Some(guess)));
    for refused in futures(all).await {
        refused.unwrap_err();
    }
    assert_eq!(fixture.auth.counters.passwords_checked.get(), 5);
    assert_eq!(fixture.auth.counters.auth_locked.get(), 55);
}

/// All at the same time.
async fn futures<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        for (one, output) in &mut all {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = one.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if all.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn a_device_whose_password_is_remembered_is_not_locked_out_by_its_neighbour() {
    let fixture = fixture(|_| {});
    drop(fixture.admit(Some("line-3"), Some("sesame")).await.unwrap());
    for _ in 0..9 {
        let guess = fixture.admit(Some("line-3"), Some("guess")).await;
        guess.unwrap_err();
    }
    assert!(fixture.admit(Some("line-3"), Some("sesame")).await.is_ok());
    // And that gives no more guesses.
    let guess = fixture.admit(Some("line-3"), Some("guess")).await;
    assert_eq!(guess.unwrap_err(), LOCKED);
}

#[tokio::test]
async fn whoever_is_admitted_while_the_rules_change_hears_of_it() {
    let fixture = Arc::new(fixture(|config| {
        config.hook = Some(hook::Config::default());
    }));
    fixture.service.held.store(true, Relaxed);
    let admitted = tokio::spawn({
        let fixture = Arc::clone(&fixture);
        async move { fixture.admit(Some("other"), Some("asked")).await }
    });
    while fixture.service.asked.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    fixture.auth.reload(fixture.config.clone()).unwrap();
    fixture.service.held.store(false, Relaxed);
    let rights = admitted.await.unwrap().unwrap();
    assert!(rights.admitted_under().is_cancelled());
}

#[tokio::test]
async fn a_reload_never_turns_authentication_or_the_service_on_or_off() {
    let rule = crate::acl::Rule {
        anonymous: true,
        publish: vec![crate::acl::Filter::parse("guests/#").unwrap()],
        ..crate::acl::Rule::default()
    };
    let fixture = fixture(|config| config.rules = Arc::new(Rules(vec![rule])));
    let off = Config {
        passwords: None,
        ..fixture.config.clone()
    };
    fixture.auth.reload(off).unwrap_err();
    assert!(fixture.admit(None, None).await.is_err(), "still asked");
    let asks = Config {
        hook: Some(hook::Config::default()),
        ..fixture.config.clone()
    };
    let error = fixture.auth.reload(asks).unwrap_err().to_string();
    assert!(error.contains("service"), "{error}");
}

#[tokio::test]
async fn whoever_is_known_does_not_wait_for_a_slow_service() {
    let fixture = Arc::new(fixture(|config| {
        config.hook = Some(hook::Config {
            in_flight_max: 1,
            ..hook::Config::default()
        });
    }));
    let known = fixture.admit(Some("other"), Some("asked")).await;
    drop(known.unwrap());
    fixture.service.held.store(true, Relaxed);
    let waits = tokio::spawn({
        let fixture = Arc::clone(&fixture);
        async move { fixture.admit(Some("third"), Some("asked")).await.is_ok() }
    });
    while fixture.service.asked.load(Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(fixture.admit(Some("other"), Some("asked")).await.is_ok());
    fixture.service.held.store(false, Relaxed);
    assert!(waits.await.unwrap());
}
