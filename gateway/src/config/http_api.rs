//! `[http]`: where the API is, and who may ask.

use std::{net::SocketAddr, path::Path};

use super::{listener, reader::Table};
use crate::{
    forward::Secret,
    http::{Config, Objection, Role, Token},
};

pub(super) fn read(table: Table<'_, '_, '_>, dir: &Path) -> Config {
    let default = Config::default();
    let config = Config {
        listen: table.address("listen", default.listen),
        allow_anonymous: table.boolean("allow_anonymous", default.allow_anonymous),
        allow_plaintext: table.boolean("allow_plaintext", default.allow_plaintext),
        tls: listener::tls(&table, dir).flatten(),
        tokens: tokens(&table),
    };
    if !config.tokens.is_empty() && config.allow_anonymous {
        let what =
            "a token keeps out who does not know it; leave one of token and allow_anonymous away";
        table.mistake(table.span("token").as_ref(), "token", what);
    }
    loopback(&table, &config);
    table.finish();
    config
}

/// `token`, which is an admin's, or any number of `[[http.token]]`.
fn tokens(table: &Table<'_, '_, '_>) -> Vec<Token> {
    if !table.is_array("token") {
        let secret = table.parsed("token", token).map(Secret::from);
        let admin = secret.map(|secret| Token {
            name: "token".to_owned(),
            role: Role::Admin,
            secret,
        });
        return admin.into_iter().collect();
    }
    let mut tokens: Vec<Token> = Vec::new();
    for table in table.tables("token").into_iter().flatten() {
        let name = table.required("name", "\"grafana\"");
        let name =
            name.and_then(|text| table.parse("name", &text, |name| token_name(name, &tokens)));
        let role = table.required("role", "\"viewer\"");
        let role = role.and_then(|text| {
            let roles = Role::WORDS;
            let known = roles.iter().find(|(word, _)| *word == text.value);
            let what = "should be one of viewer, operator, admin";
            table.parse("role", &text, |_| known.map(|(_, role)| *role).ok_or(what))
        });
        let secret = table.required("secret", "\"${GRAFANA_TOKEN}\"");
        let secret = secret.and_then(|text| {
            table.parse("secret", &text, |word| {
                let word = Secret::from(token(word)?);
                match tokens.iter().any(|one| one.secret == word) {
                    true => Err("another token has the same secret; each needs one of its own"),
                    false => Ok(word),
                }
            })
        });
        table.finish();
        if let (Some(name), Some(role), Some(secret)) = (name, role, secret) {
            tokens.push(Token { name, role, secret });
        }
    }
    tokens
}

/// What the audit log calls whoever has the token.
fn token_name(name: &str, before: &[Token]) -> Result<String, &'static str> {
    let is_plain =
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic());
    match name {
        _ if !is_plain => Err("a name has 1 to 64 visible ASCII characters"),
        "anyone" | "command" => Err("this name is taken; the audit log needs it"),
        _ if before.iter().any(|one| one.name == name) => Err("another token has this name"),
        _ => Ok(name.to_owned()),
    }
}

/// A token that nobody guesses and every header can carry.
fn token(text: &str) -> Result<String, &'static str> {
    if text.len() < 16 || text.len() > 512 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "a token has 16 to 512 visible ASCII characters, such as from \"openssl rand -hex 32\"",
        );
    }
    Ok(text.to_owned())
}

/// Beyond this machine it takes a token and TLS, or a word.
fn loopback(table: &Table<'_, '_, '_>, config: &Config) {
    let Some(objection) = config.objection() else {
        return;
    };
    // With a mistake in a token or a certificate it would be said twice.
    let is_said = match objection {
        Objection::NobodyIsAsked => table.span("token").is_some(),
        Objection::InTheClear => table.span("tls").is_some(),
    };
    if !is_said {
        let local = SocketAddr::from(([127, 0, 0, 1], config.listen.port()));
        let what = format!(
            "{} is beyond this machine, and {objection}, or listen on \"{local}\"",
            config.listen
        );
        table.mistake(table.span("listen").as_ref(), "listen", what);
    }
}
