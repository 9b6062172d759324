//! What a reload does to those who are there, and what a service may and may not say.

use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;

use super::*;
use crate::auth::{
    certificate::Name,
    token::{Algorithm, Key},
};

const SECRETS: [&str; 2] = [
    "0123456789abcdef0123456789abcdef",
    "fedcba9876543210fedcba9876543210",
];

fn tokens(path: &Path) -> token::Config {
    token::Config {
        algorithm: Algorithm::Hs256,
        key: Key::File(path.to_path_buf()),
        issuer: None,
        audience: None,
        leeway: Duration::ZERO,
        user_claim: "sub".to_owned(),
        device_claim: None,
        acl_claim: None,
    }
}

/// A token that is good for long, signed with the key of that number.
fn token(secret: &str, name: Option<&str>) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let header = jsonwebtoken::Header {
        kid: name.map(str::to_owned),
        ..jsonwebtoken::Header::default()
    };
    jsonwebtoken::encode(&header, &json!({"sub": "line-3", "exp": u32::MAX}), &key).unwrap()
}

#[tokio::test]
async fn a_session_by_token_ends_when_its_key_is_another_or_tokens_have_to_say_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, SECRETS[0]).unwrap();
    let fixture = fixture(|config| config.token = Some(tokens(&path)));
    let admitted = fixture.admit(None, Some(&token(SECRETS[0], None))).await;
    let rights = admitted.unwrap();
    assert_eq!(who(&rights), (Some("line-3"), Method::Token));

    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert_eq!(rights.objection([]), None, "nothing has changed");
    let mut stricter = fixture.config.clone();
    stricter.token.as_mut().unwrap().audience = Some("penstock".to_owned());
    fixture.auth.reload(stricter).unwrap();
    assert!(rights.objection([]).is_some() && !rights.is_valid());

    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert_eq!(rights.objection([]), None);
    std::fs::write(&path, SECRETS[1]).unwrap();
    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert!(rights.objection([]).is_some() && !rights.is_valid());
}

#[tokio::test]
async fn of_a_key_set_only_the_sessions_of_the_key_that_goes_end() {
    let set = |names: &[usize]| {
        use base64::Engine as _;
        let keys = names.iter().map(|&n| {
            let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(SECRETS[n]);
            json!({"kty": "oct", "alg": "HS256", "kid": n.to_string(), "k": key})
        });
        json!({"keys": keys.collect::<Vec<_>>()}).to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, set(&[0, 1])).unwrap();
    let fixture = fixture(|config| config.token = Some(tokens(&path)));
    let mut rights = Vec::new();
    for (n, secret) in SECRETS.iter().enumerate() {
        let token = token(secret, Some(&n.to_string()));
        rights.push(fixture.admit(None, Some(&token)).await.unwrap());
    }
    std::fs::write(&path, set(&[1])).unwrap();
    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert!(rights[0].objection([]).is_some());
    assert_eq!(rights[1].objection([]), None);
}

fn certificate() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "line-3");
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

impl Fixture {
    async fn admit_by(&self, certificate: &[u8], user: Option<&str>) -> Result<Rights, Refusal> {
        let user: Option<Arc<str>> = user.map(Arc::from);
        self.auth
            .admit(&Attempt {
                client_id: &Arc::from("line-4"),
                is_assigned: false,
                username: user.as_ref(),
                password: None,
                address: None,
                listener: "mqtt",
                certificate: Some(certificate),
                allow_anonymous: false,
            })
            .await
    }
}

#[tokio::test]
async fn a_session_by_certificate_ends_when_another_name_is_the_users() {
    let fixture = fixture(|config| config.certificate = Some(Name::CommonName));
    let rights = fixture.admit_by(&certificate(), None).await.unwrap();
    assert_eq!(who(&rights), (Some("line-3"), Method::Certificate));
    fixture.auth.reload(fixture.config.clone()).unwrap();
    assert_eq!(rights.objection([]), None);
    let by_subject = Config {
        certificate: Some(Name::Subject),
        ..fixture.config.clone()
    };
    fixture.auth.reload(by_subject).unwrap();
    assert!(rights.objection([]).is_some() && !rights.is_valid());
}

#[tokio::test]
async fn a_session_ends_when_its_client_identifier_is_no_longer_its_users() {
    let fixture = fixture(|_| {});
    let rights = fixture.admit(Some("line-3"), Some("sesame")).await.unwrap();
    let stricter = Config {
        client_ids: ClientIds::parse("user").unwrap(),
        ..fixture.config.clone()
    };
    fixture.auth.reload(stricter).unwrap();
    assert!(rights.objection([]).is_some() && !rights.is_valid());
}

#[tokio::test]
async fn whom_a_service_does_not_name_is_not_named_by_its_client_identifier() {
    let fixture = fixture(|config| config.hook = Some(hook::Config::default()));
    let der = certificate();
    let nameless = fixture.admit_by(&der, None).await.unwrap_err();
    assert_eq!(nameless, NAMELESS);
    let empty = fixture.admit_by(&der, Some("")).await.unwrap_err();
    assert_eq!(empty, NAMELESS);
    let named = fixture.admit_by(&der, Some("press-7")).await.unwrap();
    assert_eq!(who(&named), (Some("press-7"), Method::Hook));
}

#[tokio::test]
async fn refusals_never_take_the_place_of_a_remembered_permission() {
    let fixture = fixture(|config| {
        config.hook = Some(hook::Config {
            remembered_max: 2,
            ..hook::Config::default()
        });
        config.lockout.failures_in_total_max = 1_000;
    });
    drop(fixture.admit(Some("other"), Some("asked")).await.unwrap());
    for n in 0..20 {
        let stranger = format!("stranger-{n}");
        let refused = fixture.admit(Some(&stranger), Some("x")).await;
        assert_eq!(refused.unwrap_err(), WRONG);
    }
    let asked = fixture.service.asked.load(Relaxed);
    drop(fixture.admit(Some("other"), Some("asked")).await.unwrap());
    assert_eq!(fixture.service.asked.load(Relaxed), asked);
}

#[test]
fn bounds_with_which_nobody_gets_in_are_mistakes() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 6] = [
        ("failures_max", |config| config.lockout.failures_max = 0),
        ("failures_in_total_max", |config| {
            config.lockout.failures_in_total_max = 0;
        }),
        ("lock", |config| config.lockout.lock = Duration::ZERO),
        ("checks_at_once", |config| config.checks_at_once = Some(0)),
        ("in_flight_max", |config| {
            config.hook = Some(hook::Config {
                in_flight_max: 0,
                ..hook::Config::default()
            });
        }),
        ("leeway", |config| {
            let mut token = tokens(Path::new("/nowhere"));
            token.key = Key::Secret(SECRETS[0].to_owned());
            token.leeway = Duration::MAX;
            config.token = Some(token);
        }),
    ];
    for (name, change) in changes {
        let mut config = Config::default();
        change(&mut config);
        let said = config.check().unwrap_err().to_string();
        assert!(said.starts_with(name), "{name}: {said}");
        assert!(Auth::load(config, Arc::default()).is_err(), "{name}");
    }
    assert!(Config::default().check().is_ok());
}
