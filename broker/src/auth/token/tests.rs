//! Tokens made with keys of the tests' own.

use base64::Engine as _;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_900_000_000;

fn config(algorithm: Algorithm, key: Key) -> Config {
    Config {
        algorithm,
        key,
        issuer: Some("plant".to_owned()),
        audience: Some("penstock".to_owned()),
        leeway: Duration::from_secs(30),
        user_claim: "sub".to_owned(),
        device_claim: Some("device".to_owned()),
        acl_claim: Some("acl".to_owned()),
    }
}

fn checker() -> Checker {
    Checker::load(&config(Algorithm::Hs256, Key::Secret(SECRET.to_owned()))).unwrap()
}

fn good() -> Value {
    json!({"sub": "line-3", "iss": "plant", "aud": "penstock", "exp": NOW + 60})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn sign(claims: &Value) -> Vec<u8> {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key)
        .unwrap()
        .into_bytes()
}

#[test]
fn a_good_token_says_who_and_for_how_long() {
    let mut claims = with("device", json!("press"));
    claims["acl"] = json!([{"publish": ["a/{device}"]}]);
    let token = sign(&claims);
    assert!(is_token(&token));
    let found = checker().check_at(&token, NOW).unwrap();
    assert_eq!(found.user, "line-3");
    assert_eq!(found.device.as_deref(), Some("press"));
    assert_eq!(found.rules.unwrap().0.len(), 1);
    assert_eq!(found.secs_left, 90, "leeway included");
}

#[test]
fn a_token_is_good_between_its_times_with_leeway() {
    let check = |claims: &Value, now| checker().check_at(&sign(claims), now).map(|_| ());
    assert_eq!(check(&good(), NOW + 89), Ok(()));
    assert_eq!(check(&good(), NOW + 90), Err("a token that has expired"));
    let begins = with("nbf", json!(NOW + 30));
    assert_eq!(check(&begins, NOW), Ok(()));
    assert_eq!(check(&begins, NOW - 1), Err("a token that is not good yet"));
    assert_eq!(check(&with("exp", json!(1_900_000_060.5)), NOW), Ok(()));
}

#[test]
fn a_token_that_lacks_something_is_not_taken() {
    for (claims, why) in [
        (without("exp"), "a token without a claim that is required"),
        (without("iss"), "a token without a claim that is required"),
        (without("aud"), "a token without a claim that is required"),
        (without("sub"), "a token that names no user"),
        (with("sub", json!("")), "a token that names no user"),
        (with("sub", json!("a\nb")), "a token that names no user"),
        (with("sub", json!(7)), "a token that names no user"),
        (with("iss", json!("other")), "a token of another issuer"),
        (with("aud", json!(["x"])), "a token for another audience"),
        (
            with("acl", json!([{"publish": ["#/a"]}])),
            "a token with rules that cannot be read",
        ),
        (
            with("nbf", json!("soon")),
            "a token with a time that is not a number",
        ),
    ] {
        assert_eq!(
            checker().check_at(&sign(&claims), NOW).map(|_| ()),
            Err(why),
            "{claims}"
        );
    }
}

/// A token put together by hand.
fn forge(header: &Value, claims: &Value, signature: &[u8]) -> Vec<u8> {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let parts = [
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes()),
        encode(signature),
    ];
    parts.join(".").into_bytes()
}

#[test]
fn the_token_does_not_choose_its_algorithm() {
    for algorithm in ["none", "HS384", "RS256", "nonsense"] {
        let token = forge(&json!({"alg": algorithm}), &good(), b"");
        assert!(checker().check_at(&token, NOW).is_err(), "{algorithm}");
    }
    // The public key as an HMAC secret is the classic one.
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pem = key.public_key_pem();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    fs::write(&path, &pem).unwrap();
    let checker = Checker::load(&config(Algorithm::EdDsa, Key::File(path.clone()))).unwrap();
    let forged = encode(
        &Header::default(),
        &good(),
        &EncodingKey::from_secret(pem.as_bytes()),
    );
    assert_eq!(
        checker
            .check_at(forged.unwrap().as_bytes(), NOW)
            .map(|_| ()),
        Err("a token of another algorithm")
    );
    let error = Checker::load(&config(Algorithm::Hs256, Key::File(path))).unwrap_err();
    assert!(error.contains("no secret"), "{error}");
}

#[test]
fn a_changed_token_is_not_taken() {
    let token = sign(&good());
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        if changed == token {
            continue;
        }
        // The last character has bits that are not used.
        if at + 1 < token.len() {
            assert!(checker().check_at(&changed, NOW).is_err(), "byte {at}");
        }
    }
    for noise in [&b""[..], b".", b"..", b"eyJ..", b"a.b.c", b"\xff.\xff.\xff"] {
        assert!(checker().check_at(noise, NOW).is_err());
    }
}

#[test]
fn public_keys_are_read_from_pem_and_from_a_key_set() {
    let dir = tempfile::tempdir().unwrap();
    for (algorithm, kind) in [
        (Algorithm::EdDsa, &PKCS_ED25519),
        (Algorithm::Es256, &PKCS_ECDSA_P256_SHA256),
    ] {
        let pair = KeyPair::generate_for(kind).unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, pair.public_key_pem()).unwrap();
        let signing = match algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()),
            _ => EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()),
        }
        .unwrap();
        let header = Header::new(algorithm.its());
        let token = encode(&header, &good(), &signing).unwrap();
        let by_pem = Checker::load(&config(algorithm, Key::File(path.clone()))).unwrap();
        assert!(
            by_pem.check_at(token.as_bytes(), NOW).is_ok(),
            "{algorithm}"
        );

        let jwk = |pair: &KeyPair, name: &str| {
            let raw = pair.public_key_raw();
            let part = |bytes| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            match algorithm {
                Algorithm::EdDsa => {
                    json!({"kty": "OKP", "crv": "Ed25519", "x": part(raw), "kid": name})
                }
                _ => json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": name,
                    "x": part(&raw[1..33]), "y": part(&raw[33..]),
                }),
            }
        };
        let other = KeyPair::generate_for(kind).unwrap();
        let set = json!({"keys": [jwk(&other, "two"), jwk(&pair, "one")]});
        fs::write(&path, set.to_string()).unwrap();
        let by_set = Checker::load(&config(algorithm, Key::File(path))).unwrap();
        let mut header = Header::new(algorithm.its());
        header.kid = Some("one".to_owned());
        let named = encode(&header, &good(), &signing).unwrap();
        assert!(
            by_set.check_at(named.as_bytes(), NOW).is_ok(),
            "{algorithm}"
        );
        assert!(
            by_set.check_at(token.as_bytes(), NOW).is_ok(),
            "no key named"
        );
        header.kid = Some("three".to_owned());
        let unknown = encode(&header, &good(), &signing).unwrap();
        assert_eq!(
            by_set.check_at(unknown.as_bytes(), NOW).map(|_| ()),
            Err("a token of an unknown key")
        );
    }
}

/// What openssl makes of a key, or says of it; `None`, loudly, where there is none.
fn openssl(arguments: &[&str]) -> Option<String> {
    let Ok(output) = std::process::Command::new("openssl")
        .args(arguments)
        .output()
    else {
        let required = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
        assert!(
            !required("CI") && !required("PENSTOCK_REQUIRE_TOOLS"),
            "no openssl, and tests that need it must not be skipped here"
        );
        eprintln!("SKIPPED: RS256: no openssl");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_rsa_key_of_openssls_is_read_from_pem_and_from_a_key_set() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (own, public, other) = (of("own.pem"), of("public.pem"), of("other.pem"));
    for key in [&own, &other] {
        if openssl(&["genrsa", "-out", key, "2048"]).is_none() {
            return;
        }
    }
    openssl(&["rsa", "-in", &own, "-pubout", "-out", &public]).unwrap();
    let sign = |key: &str, name: Option<&str>| {
        let key = EncodingKey::from_rsa_pem(&fs::read(key).unwrap()).unwrap();
        let mut header = Header::new(Algorithm::Rs256.its());
        header.kid = name.map(str::to_owned);
        encode(&header, &good(), &key).unwrap().into_bytes()
    };
    let by_pem = Checker::load(&config(Algorithm::Rs256, Key::File(public.into()))).unwrap();
    assert!(by_pem.check_at(&sign(&own, None), NOW).is_ok());
    let wrong = by_pem.check_at(&sign(&other, None), NOW).map(|_| ());
    assert_eq!(wrong, Err("a token whose signature is wrong"));

    let modulus = openssl(&["rsa", "-in", &own, "-modulus", "-noout"]).unwrap();
    let digits = modulus.trim().strip_prefix("Modulus=").unwrap();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let n = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let set = json!({"keys": [
        {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": n, "e": "AQAB"},
    ]});
    fs::write(of("keys"), set.to_string()).unwrap();
    let by_set = Checker::load(&config(Algorithm::Rs256, Key::File(of("keys").into()))).unwrap();
    assert!(by_set.check_at(&sign(&own, Some("one")), NOW).is_ok());
    assert!(by_set.check_at(&sign(&other, Some("one")), NOW).is_err());
}

#[test]
fn a_file_larger_than_any_key_is_not_read_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
    let error = Checker::load(&config(Algorithm::Hs256, Key::File(path))).unwrap_err();
    assert!(error.contains("more than 1 MiB"), "{error}");
}

#[test]
fn keys_that_cannot_be_right_are_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for (algorithm, bytes, why) in [
        (Algorithm::Hs256, "short", "at least 32"),
        (Algorithm::Rs256, "nonsense", "neither a PEM"),
        (Algorithm::Rs256, "{\"keys\": []}", "has no key for RS256"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = Checker::load(&config(algorithm, Key::File(path.clone()))).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let missing = Key::File(dir.path().join("missing"));
    assert!(Checker::load(&config(Algorithm::Rs256, missing)).is_err());
    let secret = Key::Secret(SECRET.to_owned());
    assert!(Checker::load(&config(Algorithm::Rs256, secret.clone())).is_err());
    assert!(!format!("{secret:?}").contains(SECRET));
}
