//! `[[destination]]` with `type = "http"`.

use std::{path::Path, time::Duration};

use super::{
    destination::{only_one, read_tls},
    reader::Table,
};
use crate::forward::{
    Kind,
    http::{
        self, Answers, Auth, Between, Config, Form, Meaning, Oauth2, Proxy, Signature, Template,
    },
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The forms that need nothing more to be said.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Batch,
    Structured,
    Binary,
    Lines,
    Template,
}

const FORMS: [(&str, Word); 5] = [
    ("cloudevents-batch", Word::Batch),
    ("cloudevents-structured", Word::Structured),
    ("cloudevents-binary", Word::Binary),
    ("ndjson", Word::Lines),
    ("template", Word::Template),
];
/// Where id and secret go: in a header, or in the form.
const CLIENT_AUTH: [(&str, bool); 2] = [("header", false), ("form", true)];

/// Reads a destination. Files are relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    let default = Config::new(String::new());
    let form = read_form(table);
    let in_flight = table.number("in_flight", 1..=256, default.in_flight);
    let signature = read_signature(table);
    let answers = read_answers(table);
    let config = Config {
        form,
        in_flight,
        signature,
        answers,
        ..read_connection(table, dir, "\"https://lake.example/events\"", default)?
    };
    Some(Kind::Http(Box::new(config)))
}

/// Reads what every destination behind HTTP has: where it is, who we are, how long to wait
/// and how much goes at once.
pub(super) fn read_connection(
    table: &Table<'_, '_, '_>,
    dir: &Path,
    example: &str,
    default: Config,
) -> Option<Config> {
    let url = table
        .required("url", example)
        .and_then(|text| table.parse("url", &text, is_url));
    let is_encrypted = url.as_ref().is_none_or(|url| url.starts_with("https://"));
    let config = Config {
        gzip: table.boolean("gzip", default.gzip),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        connect_timeout: table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        batch_bytes: super::stages::bytes(table.size(
            "batch_bytes",
            KIB..=64 * MIB,
            default.batch_bytes as u64,
        )),
        linger: table.duration(
            "linger",
            Duration::ZERO..=Duration::from_secs(3_600),
            default.linger,
        ),
        headers: table
            .pairs("headers")
            .into_iter()
            .map(|(name, text)| (name, text.value.into()))
            .collect(),
        auth: read_auth(table),
        tls: read_tls(
            table,
            dir,
            is_encrypted,
            "the address should begin with https://",
        ),
        proxy: read_proxy(table),
        url: url?,
        ..default
    };
    Some(config)
}

fn read_proxy(table: &Table<'_, '_, '_>) -> Proxy {
    let proxy = match table.text("proxy").map(|text| text.value) {
        None => Proxy::Environment,
        Some(word) if word == "none" => Proxy::None,
        Some(address) => Proxy::At(address.into()),
    };
    if let Err(what) = proxy.check() {
        table.mistake(table.span("proxy").as_ref(), "proxy", what);
    }
    proxy
}

fn is_url(url: &str) -> Result<String, &'static str> {
    match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(url.to_owned()),
        false => Err("a URL begins with http:// or https://"),
    }
}

fn read_form(table: &Table<'_, '_, '_>) -> Form {
    let word = table.word("form", &FORMS, Word::Batch);
    let template = table.table("template");
    let read = read_template(&template, word == Word::Template);
    match word {
        Word::Template if !template.is_present() => {
            let what = "is missing; for example [destination.template] with event = \"{{event}}\"";
            table.mistake(table.span("form").as_ref(), "template", what);
        }
        Word::Template => {}
        _ if template.is_present() => {
            let what = "is for form = \"template\"";
            table.mistake(table.span("template").as_ref(), "template", what);
        }
        _ => {}
    }
    match word {
        Word::Batch => Form::Batch,
        Word::Structured => Form::Structured,
        Word::Binary => Form::Binary,
        Word::Lines => Form::Lines,
        // Where there is none that was said, and nothing comes of this.
        Word::Template => read.map_or(Form::Batch, |template| Form::Template(Box::new(template))),
    }
}

fn read_template(table: &Table<'_, '_, '_>, is_wanted: bool) -> Option<Template> {
    let event = match table.is_present() && is_wanted {
        true => table.required("event", "\"{{event}}\""),
        false => table.text("event"),
    };
    let text = |key| table.text(key).map(|text| text.value);
    let around = Between {
        begin: text("begin").unwrap_or_default(),
        between: text("between"),
        end: text("end").unwrap_or_default(),
    };
    let content_type = text("content_type").unwrap_or_else(|| "application/json".to_owned());
    table.finish();
    let parse = |event: &str| Template::parse(event, around, &content_type);
    event.and_then(|event| table.parse("event", &event, parse))
}

fn read_auth(table: &Table<'_, '_, '_>) -> Auth {
    let user = table.text("user").map(|text| text.value);
    let password = table.text("password").map(|text| text.value);
    let token = table.text("token").map(|text| text.value);
    for (missing, other) in [("user", "password"), ("password", "user")] {
        if table.span(missing).is_none() && table.span(other).is_some() {
            let what = format!("user and password go together; {missing} is missing");
            table.mistake(table.span(other).as_ref(), other, what);
        }
    }
    only_one(table, &["user", "token", "oauth2"]);
    if let Some(oauth2) = read_oauth2(&table.table("oauth2")) {
        return Auth::Oauth2(oauth2);
    }
    match (user.zip(password), token) {
        (Some((user, password)), _) => Auth::Basic {
            user,
            password: password.into(),
        },
        (None, Some(token)) => Auth::Bearer(token.into()),
        (None, None) => Auth::None,
    }
}

fn read_oauth2(table: &Table<'_, '_, '_>) -> Option<Oauth2> {
    let required = |key, example| match table.is_present() {
        true => table.required(key, example),
        false => table.text(key),
    };
    let token_url = required("token_url", "\"https://login.example/oauth2/token\"")
        .and_then(|text| table.parse("token_url", &text, is_url));
    let client_id = required("client_id", "\"plant-7\"");
    let client_secret = required("client_secret", "\"${CLIENT_SECRET}\"");
    let oauth2 = Oauth2 {
        scope: table.text("scope").map(|text| text.value),
        audience: table.text("audience").map(|text| text.value),
        in_form: table.word("client_auth", &CLIENT_AUTH, false),
        token_url: String::new(),
        client_id: String::new(),
        client_secret: "".into(),
    };
    table.finish();
    Some(Oauth2 {
        token_url: token_url?,
        client_id: client_id?.value,
        client_secret: client_secret?.value.into(),
        ..oauth2
    })
}

fn read_signature(table: &Table<'_, '_, '_>) -> Option<Signature> {
    let table = table.table("signature");
    let secret = match table.is_present() {
        true => table.required("secret", "\"${SIGNING_SECRET}\""),
        false => table.text("secret"),
    };
    if let Some(Err(what)) = secret
        .as_ref()
        .map(|text| Signature::check_secret(&text.value))
    {
        table.mistake(table.span("secret").as_ref(), "secret", what);
    }
    let text = |key, default: &str| {
        let text = table.text(key);
        if let Some(text) = &text {
            table.parse(key, text, Signature::check_header);
        }
        text.map_or_else(|| default.to_owned(), |text| text.value)
    };
    let header = text("header", Signature::HEADER);
    let timestamp_header = text("timestamp_header", Signature::TIMESTAMP_HEADER);
    table.finish();
    Some(Signature {
        secret: secret?.value.into(),
        header,
        timestamp_header,
    })
}

fn read_answers(table: &Table<'_, '_, '_>) -> Answers {
    let mut answers = Answers::default();
    for (status, text) in table.pairs("answers") {
        let key = format!("answers.{status}");
        let meaning = table.parse(&key, &text, |word| {
            let words = http::Meaning::WORDS;
            let found = words.iter().find(|(known, _)| *known == word);
            let known = || super::words::OneOf(words.iter().map(|(word, _)| *word).collect());
            found
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| known().instead_of(word))
        });
        let add = |meaning: Meaning| answers.add(&status, meaning);
        if let Some(Err(what)) = meaning.map(add) {
            table.mistake(Some(&text.span), &key, format!("{status:?}: {what}"));
        }
    }
    answers
}
