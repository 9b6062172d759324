//! Who asks, and what they may do.
//!
//! `routes.rs` has the least role for each operation, and the [guard](super::guard) asks
//! for it.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use base64::{Engine as _, engine::general_purpose::STANDARD};

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

/// Whom the gateway knows.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// By the hash of what they say: comparing hashes takes the same time wherever they
    /// differ.
    known: Vec<(blake3::Hash, Caller)>,
    /// Whether to ask at all.
    is_asked: bool,
}

impl Access {
    /// Those with tokens, and commands of this machine, which say `key`. Without tokens
    /// everybody may do everything.
    pub(super) fn new(tokens: &[Token], key: &str) -> Self {
        let hash = |word: &str| blake3::hash(word.as_bytes());
        let known = tokens.iter().map(|token| {
            let caller = Caller::new(&token.name, token.role);
            (hash(token.secret.expose()), caller)
        });
        let command = (hash(key), Caller::new(Caller::COMMAND, Role::Admin));
        Self {
            known: known.chain([command]).collect(),
            is_asked: !tokens.is_empty(),
        }
    }

    /// Whose word an Authorization header has: as a bearer token, or as the password of
    /// any user, which is how browsers ask for one.
    pub(super) fn who(&self, authorization: Option<&str>) -> Option<Caller> {
        let said = authorization.and_then(|header| {
            let (scheme, rest) = header.split_once(' ')?;
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            let word = match is_bearer {
                true => rest.trim().as_bytes().to_vec(),
                false => password(scheme, rest.trim())?,
            };
            let caller = self.find(blake3::hash(&word))?;
            Some(Caller {
                is_bearer,
                ..caller.clone()
            })
        });
        match self.is_asked {
            true => said,
            false => Some(said.unwrap_or_else(|| Caller::new(Caller::ANYONE, Role::Admin))),
        }
    }

    /// Looks at all of them, also after it found one.
    fn find(&self, hash: blake3::Hash) -> Option<&Caller> {
        let mut found = None;
        for (known, caller) in &self.known {
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
        let access = Access::new(&tokens, "the key");
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
        let access = Access::new(&[], "the key");
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
