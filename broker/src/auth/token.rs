//! JSON Web Tokens (RFC 7519) as passwords.
//!
//! The algorithm is the one that is configured, never one that the token asks for,
//! and a key of another kind is refused when it is read. A token needs `exp`, and
//! the issuer and audience where those are configured. What a token allows ends with
//! it: [`Claims::secs_left`].

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::{
    AlgorithmFamily, DecodingKey, Validation,
    jwk::{JwkSet, KeyAlgorithm},
};
use serde_json::Value;

use super::clock;
use crate::acl::Rules;

/// Keys of one key set; a token without a key identifier is tried with each.
const KEYS_MAX: usize = 32;
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Shorter secrets can be guessed offline from one token (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    const fn its(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }

    const fn of_keys(self) -> KeyAlgorithm {
        match self {
            Self::Hs256 => KeyAlgorithm::HS256,
            Self::Rs256 => KeyAlgorithm::RS256,
            Self::Es256 => KeyAlgorithm::ES256,
            Self::EdDsa => KeyAlgorithm::EdDSA,
        }
    }

    const fn family(self) -> AlgorithmFamily {
        match self {
            Self::Hs256 => AlgorithmFamily::Hmac,
            Self::Rs256 => AlgorithmFamily::Rsa,
            Self::Es256 => AlgorithmFamily::Ec,
            Self::EdDsa => AlgorithmFamily::Ed,
        }
    }
}

/// Where the key is.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// The secret itself. Debug output hides it.
    Secret(String),
    /// A file: a PEM public key, a JSON Web Key Set, or for HS256 the secret.
    File(PathBuf),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Which tokens are taken, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The one algorithm.
    pub algorithm: Algorithm,
    /// Its key.
    pub key: Key,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// What `aud` has to be, or have.
    pub audience: Option<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that names the device, for `{device}`.
    pub device_claim: Option<String>,
    /// The claim with rules for the client.
    pub acl_claim: Option<String>,
}

/// Checks tokens.
pub(super) struct Checker {
    keys: Keys,
    /// Stands for everything else that the configuration says.
    terms: blake3::Hash,
    validation: Validation,
    leeway_secs: u64,
    user_claim: String,
    device_claim: Option<String>,
    acl_claim: Option<String>,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// What a good token says.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) user: String,
    pub(super) device: Option<String>,
    pub(super) rules: Option<Rules>,
    /// How long it is still good for.
    pub(super) secs_left: u64,
    /// Stands for its key and everything else that it is good for.
    pub(super) grounds: Arc<str>,
}

/// Whether a password looks like a token at all: three parts, the first a JSON object.
pub(super) fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

impl Checker {
    /// Reads the key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn load(config: &Config) -> Result<Self, String> {
        let keys = match &config.key {
            Key::Secret(secret) => secret_key(config.algorithm, secret.as_bytes())?,
            Key::File(path) => {
                let bytes = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                file_keys(config.algorithm, &bytes)
                    .map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        let mut validation = Validation::new(config.algorithm.its());
        // Time is checked here, with our own clock.
        validation.validate_exp = false;
        let mut required = vec!["exp"];
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &config.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let terms = Config {
            key: Key::Secret(String::new()),
            ..config.clone()
        };
        Ok(Self {
            keys,
            terms: blake3::hash(format!("{terms:?}").as_bytes()),
            validation,
            leeway_secs: config.leeway.as_secs(),
            user_claim: config.user_claim.clone(),
            device_claim: config.device_claim.clone(),
            acl_claim: config.acl_claim.clone(),
        })
    }

    /// Checks a token; an error says why it is not good, for the log.
    pub(super) fn check(&self, token: &[u8]) -> Result<Claims, &'static str> {
        self.check_at(token, clock::unix_secs())
    }

    fn check_at(&self, token: &[u8], now: u64) -> Result<Claims, &'static str> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| "a token without a header")?;
        let mut last = "a token of an unknown key";
        let right = |named: &Option<String>| match (&header.kid, named) {
            (Some(asked), Some(named)) => asked == named,
            // A key without a name, or a token that names none.
            _ => true,
        };
        for key in self.keys.iter().filter(|key| right(&key.name)) {
            match jsonwebtoken::decode::<Value>(token, &key.key, &self.validation) {
                Ok(found) => return self.claims(&found.claims, key, now),
                Err(error) => last = why(&error),
            }
        }
        Err(last)
    }

    /// Whether a token that was good on these grounds would be still: its key is there
    /// and nothing else has changed.
    pub(super) fn still_takes(&self, grounds: &str) -> bool {
        self.keys.iter().any(|key| &*self.grounds(key) == grounds)
    }

    fn grounds(&self, key: &NamedKey) -> Arc<str> {
        Arc::from(format!("{} {}", key.mark, self.terms))
    }

    fn claims(&self, claims: &Value, key: &NamedKey, now: u64) -> Result<Claims, &'static str> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            // Numbers may have a fraction (RFC 7519, section 2).
            Some(value) => match (value.as_u64(), value.as_f64()) {
                (Some(secs), _) => Ok(Some(secs)),
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "in range, and whole seconds are wanted"
                )]
                (None, Some(secs)) if (0.0..1e15).contains(&secs) => Ok(Some(secs as u64)),
                _ => Err("a token with a time that is not a number"),
            },
        };
        let ends = time("exp")?.ok_or("a token without an end")?;
        let ends = ends.saturating_add(self.leeway_secs);
        let secs_left = ends.checked_sub(now).filter(|left| *left > 0);
        let secs_left = secs_left.ok_or("a token that has expired")?;
        if time("nbf")?.is_some_and(|begins| begins > now.saturating_add(self.leeway_secs)) {
            return Err("a token that is not good yet");
        }
        let text = |name: &str| {
            let text = claims.get(name)?.as_str()?;
            let fit = !text.is_empty() && !text.contains(char::is_control);
            fit.then(|| text.to_owned())
        };
        let rules = match self.acl_claim.as_ref().and_then(|name| claims.get(name)) {
            Some(rules) => Some(
                Rules::from_json(rules).map_err(|_| "a token with rules that cannot be read")?,
            ),
            None => None,
        };
        Ok(Claims {
            user: text(&self.user_claim).ok_or("a token that names no user")?,
            device: self.device_claim.as_deref().and_then(text),
            rules,
            secs_left,
            grounds: self.grounds(key),
        })
    }
}

fn why(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;

    match error.kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "a token of another algorithm"
        }
        ErrorKind::InvalidIssuer => "a token of another issuer",
        ErrorKind::InvalidAudience => "a token for another audience",
        ErrorKind::MissingRequiredClaim(_) => "a token without a claim that is required",
        _ => "a token whose signature is wrong",
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("has more than 1 MiB, which no key has"));
    }
    Ok(bytes)
}

/// A key, what a key set calls it, and what it is known again by.
struct NamedKey {
    name: Option<String>,
    key: DecodingKey,
    mark: blake3::Hash,
}

impl NamedKey {
    fn only(key: DecodingKey, written: &[u8]) -> Vec<Self> {
        vec![Self {
            name: None,
            key,
            mark: blake3::hash(written),
        }]
    }
}

type Keys = Vec<NamedKey>;

fn file_keys(algorithm: Algorithm, bytes: &[u8]) -> Result<Keys, String> {
    if let Ok(set) = serde_json::from_slice::<JwkSet>(bytes) {
        return set_keys(algorithm, &set);
    }
    let key = match algorithm {
        Algorithm::Hs256 => {
            let end = bytes
                .iter()
                .rposition(|byte| !byte.is_ascii_whitespace())
                .map_or(0, |last| last + 1);
            return secret_key(algorithm, &bytes[..end]);
        }
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(bytes),
        Algorithm::Es256 => DecodingKey::from_ec_pem(bytes),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(bytes),
    };
    let key = key.map_err(|_| {
        format!("is neither a PEM public key for {algorithm} nor a JSON Web Key Set")
    })?;
    Ok(NamedKey::only(key, bytes))
}

fn set_keys(algorithm: Algorithm, set: &JwkSet) -> Result<Keys, String> {
    if set.keys.len() > KEYS_MAX {
        return Err(format!("has more than {KEYS_MAX} keys"));
    }
    let mut keys = Keys::new();
    for jwk in &set.keys {
        // A set may hold keys for other purposes too.
        if jwk
            .common
            .key_algorithm
            .is_some_and(|other| other != algorithm.of_keys())
        {
            continue;
        }
        match DecodingKey::from_jwk(jwk) {
            Ok(key) if key.family() == algorithm.family() => {
                if let Ok(secret) = key.try_get_as_bytes()
                    && algorithm == Algorithm::Hs256
                {
                    long_enough(secret)?;
                }
                let written = serde_json::to_vec(jwk).map_err(|error| error.to_string())?;
                keys.push(NamedKey {
                    name: jwk.common.key_id.clone(),
                    key,
                    mark: blake3::hash(&written),
                });
            }
            _ => {}
        }
    }
    if keys.is_empty() {
        return Err(format!("has no key for {algorithm}"));
    }
    Ok(keys)
}

fn secret_key(algorithm: Algorithm, secret: &[u8]) -> Result<Keys, String> {
    if algorithm != Algorithm::Hs256 {
        return Err(format!(
            "a secret is for HS256; {algorithm} needs a public key"
        ));
    }
    // Whoever has the public key could sign with it.
    if secret.starts_with(b"-----BEGIN") {
        return Err("is a PEM key, which is no secret for HS256".to_owned());
    }
    long_enough(secret)?;
    Ok(NamedKey::only(DecodingKey::from_secret(secret), secret))
}

fn long_enough(secret: &[u8]) -> Result<(), String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "a secret of {} bytes; HS256 needs at least {SECRET_BYTES_MIN}, such as from \"openssl rand -hex 32\"",
            secret.len()
        ));
    }
    Ok(())
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        })
    }
}

#[cfg(test)]
mod tests;
