//! Who asks, and what they may do.
//!
//! `routes.rs` has the least role for each operation, and the [guard](super::guard) asks
//! for it.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::sync::watch;

use super::error::Problem;
use crate::forward::Secret;

/// What somebody may do. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Changes what can be changed back, and tries again what failed.
    Operator,
    /// Also removes what is gone then.
    Admin,
}

impl Role {
    /// Their names in the configuration and in the document.
    pub const WORDS: [(&str, Self); 3] = [
        ("viewer", Self::Viewer),
        ("operator", Self::Operator),
        ("admin", Self::Admin),
    ];

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What somebody says to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who says it: what the audit log shows.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The word itself.
    pub secret: Secret,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    name: Arc<str>,
    role: Role,
    is_bearer: bool,
    /// The hash of the token that they said, if it was one of the operator's.
    word: Option<blake3::Hash>,
}

impl Caller {
    /// Whoever it is, where nobody is asked.
    pub(super) const ANYONE: &str = "anyone";
    /// A command of this machine.
    pub(super) const COMMAND: &str = "command";

    fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.into(),
            role,
            is_bearer: false,
            word: None,
        }
    }

    /// The name of their token.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What they may do.
    pub(super) const fn role(&self) -> Role {
        self.role
    }

    /// Whether they said a bearer token, which no browser does by itself.
    pub(super) const fn is_bearer(&self) -> bool {
        self.is_bearer
    }

    /// Whether it is a command of this machine.
    pub(super) fn is_command(&self) -> bool {
        // No token has this name.
        &*self.name == Self::COMMAND
    }

    /// Who says something, where they may say it for somebody: whose token it is stands
    /// beside it, but where nobody is asked, and of a command of this machine.
    pub(super) fn speaking_for(&self, other: Option<String>) -> String {
        match other {
            None => self.name().to_owned(),
            Some(other) if self.is_command() || self.name() == Self::ANYONE => other,
            Some(other) => format!("{other} ({})", self.name),
        }
    }

    /// Refuses whoever may not do as much, where that hangs on more than the operation.
    ///
    /// # Errors
    /// 403 to whom has a lesser role.
    pub(super) fn needs(&self, role: Role) -> Result<(), Problem> {
        match self.role >= role {
            true => Ok(()),
            false => Err(Problem::forbidden(self.role, role)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The guard has put it there; without it nobody is let in.
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(Problem::unauthorized)
    }
}

/// The operator's tokens, which can be exchanged while the gateway runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokens(watch::Sender<Known>);

/// Callers by the hash of what they say: comparing hashes takes the same time wherever they
/// differ.
type Known = Arc<[(blake3::Hash, Caller)]>;

/// Why tokens are not exchanged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("whether [http] asks for tokens at all changes at a restart")]
pub struct AsksOtherwise;

impl Tokens {
    pub(super) fn new(tokens: &[Token]) -> Self {
        Self(watch::Sender::new(known(tokens)))
    }

    /// From now on these are known and no others. Streams of those who are not end. Whether
    /// that changes anything.
    ///
    /// # Errors
    /// When nobody was asked and now should be, or the other way round: what listens beyond
    /// loopback was allowed for what it was at the start.
    pub fn exchange(&self, tokens: &[Token]) -> Result<bool, AsksOtherwise> {
        let now = known(tokens);
        if now.is_empty() != self.0.borrow().is_empty() {
            return Err(AsksOtherwise);
        }
        Ok(self.0.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        }))
    }

    /// Ends when this caller is no longer let in.
    pub(super) async fn expiry(&self, caller: &Caller) {
        let Some(word) = caller.word else {
            // A command of this machine, or anybody where nobody is asked.
            return std::future::pending().await;
        };
        let is_known = |known: &Known| {
            let mut all = known.iter();
            all.any(|(hash, now)| *hash == word && now.role == caller.role)
        };
        let mut now = self.0.subscribe();
        // It never fails: who could send another value is here.
        if now.wait_for(|known| !is_known(known)).await.is_err() {
            std::future::pending().await
        }
    }
}

fn known(tokens: &[Token]) -> Known {
    let known = tokens.iter().map(|token| {
        let hash = blake3::hash(token.secret.expose().as_bytes());
        let caller = Caller {
            word: Some(hash),
            ..Caller::new(&token.name, token.role)
        };
        (hash, caller)
    });
    known.collect()
}

/// Whom the gateway knows.
#[derive(Debug, Clone)]
pub(super) struct Access {
    tokens: Tokens,
    /// Commands of this machine.
    command: (blake3::Hash, Caller),
}

impl Access {
    /// Those with tokens, and commands of this machine, which say `key`. Without tokens
    /// everybody may do everything.
    pub(super) fn new(tokens: Tokens, key: &str) -> Self {
        let command = Caller::new(Caller::COMMAND, Role::Admin);
        Self {
            tokens,
            command: (blake3::hash(key.as_bytes()), command),
        }
    }

    /// Whose word an Authorization header has: as a bearer token, or as the password of
    /// any user, which is how browsers ask for one.
    pub(super) fn who(&self, authorization: Option<&str>) -> Option<Caller> {
        let known = self.tokens.0.borrow().clone();
        let said = authorization.and_then(|header| {
            let (scheme, rest) = header.split_once(' ')?;
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            let word = match is_bearer {
                true => rest.trim().as_bytes().to_vec(),
                false => password(scheme, rest.trim())?,
            };
            let caller = self.find(&known, blake3::hash(&word))?;
            Some(Caller {
                is_bearer,
                ..caller.clone()
            })
        });
        match known.is_empty() {
            false => said,
            true => Some(said.unwrap_or_else(|| Caller::new(Caller::ANYONE, Role::Admin))),
        }
    }

    /// Looks at all of them, also after it found one.
    fn find<'k>(&'k self, known: &'k Known, hash: blake3::Hash) -> Option<&'k Caller> {
        let mut found = None;
        for (known, caller) in known.iter().chain([&self.command]) {
            if *known == hash {
                found = Some(caller);
            }
        }
        found
    }
}

/// The password in what follows `Basic`.
fn password(scheme: &str, rest: &str) -> Option<Vec<u8>> {
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, role: Role) -> Token {
        Token {
            name: name.to_owned(),
            role,
            secret: format!("the word of {name}").into(),
        }
    }

    #[test]
    fn who_says_a_token_is_known_by_its_name() {
        let tokens = [
            token("grafana", Role::Viewer),
            token("shift", Role::Operator),
        ];
        let access = Access::new(Tokens::new(&tokens), "the key");
        let check = |header: &str, expect: Option<(&str, Role)>| {
            let caller = access.who(Some(header));
            let found = caller.as_ref().map(|caller| (caller.name(), caller.role()));
            assert_eq!(found, expect, "{header}");
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let grafana = Some(("grafana", Role::Viewer));
        check("Bearer the word of grafana", grafana);
        check("bearer  the word of grafana ", grafana);
        check(&basic("anybody:the word of grafana"), grafana);
        check(
            &basic(":the word of shift"),
            Some(("shift", Role::Operator)),
        );
        check("Bearer the key", Some((Caller::COMMAND, Role::Admin)));
        check(&basic("the word of grafana"), None);
        check(&basic("the word of grafana:"), None);
        check("Bearer the word of nobody", None);
        check("Bearer", None);
        check("Digest the word of grafana", None);
        check("Basic %", None);
        assert_eq!(access.who(None), None);
    }

    #[test]
    fn without_tokens_nobody_is_asked() {
        let access = Access::new(Tokens::new(&[]), "the key");
        for header in [None, Some("Bearer x"), Some("Basic x")] {
            let caller = access.who(header).unwrap();
            assert_eq!(
                (caller.name(), caller.role()),
                (Caller::ANYONE, Role::Admin)
            );
        }
        let caller = access.who(Some("Bearer the key")).unwrap();
        assert_eq!(caller.name(), Caller::COMMAND);
    }

    #[tokio::test]
    async fn tokens_are_exchanged_and_who_lost_theirs_hears_of_it() {
        let [one, two] = ["one", "two"].map(|name| token(name, Role::Operator));
        let tokens = Tokens::new(&[one.clone(), two.clone()]);
        let access = Access::new(tokens.clone(), "the key");
        let who = |word: &str| access.who(Some(&format!("Bearer {word}")));
        let callers = ["the word of one", "the word of two", "the key"];
        let [first, second, command] = callers.map(|word| who(word).unwrap());
        let has_ended = |caller: &Caller| {
            let (tokens, caller) = (tokens.clone(), caller.clone());
            async move {
                tokio::select! {
                    biased;
                    () = tokens.expiry(&caller) => true,
                    () = std::future::ready(()) => false,
                }
            }
        };
        // Its role is another, which is another right.
        let less = Token {
            role: Role::Viewer,
            ..two.clone()
        };
        assert_eq!(tokens.exchange(&[one.clone(), two.clone()]), Ok(false));
        assert_eq!(tokens.exchange(&[one.clone(), less]), Ok(true));
        assert!(!has_ended(&first).await && has_ended(&second).await);
        assert_eq!(tokens.exchange(std::slice::from_ref(&two)), Ok(true));
        assert!(has_ended(&first).await && !has_ended(&second).await);
        assert!(!has_ended(&command).await);
        assert_eq!(who("the word of one"), None);
        assert_eq!(who("the word of two").as_ref(), Some(&second));
        // Nobody is let in because the last token was taken away.
        assert_eq!(tokens.exchange(&[]), Err(AsksOtherwise));
        assert_eq!(access.who(None), None);
        assert_eq!(Tokens::new(&[]).exchange(&[one]), Err(AsksOtherwise));
    }

    #[test]
    fn a_greater_role_may_do_what_a_lesser_one_may() {
        let caller = |role| Caller::new("x", role);
        for (n, (_, has)) in Role::WORDS.into_iter().enumerate() {
            for (m, (_, needed)) in Role::WORDS.into_iter().enumerate() {
                assert_eq!(caller(has).needs(needed).is_ok(), n >= m);
            }
        }
    }
}
