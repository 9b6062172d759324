//! `[[destination]]` with `type = "opensearch"`.

use std::path::Path;

use super::{reader::Table, to_http::read_connection};
use crate::forward::{Kind, http::Index, opensearch::Config};

/// Reads a destination. Files are relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    let default = Config::new(String::new());
    let index = match table.text("index") {
        Some(text) => table.parse("index", &text, Index::parse),
        None => Some(default.index),
    };
    let data_stream = table.boolean("data_stream", default.data_stream);
    if data_stream && index.as_ref().is_some_and(Index::has_places) {
        let key = match table.span("index") {
            Some(_) => "index",
            None => "data_stream",
        };
        let what =
            "a data stream has one name for all days; for example index = \"telemetry-plant\"";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    let create_template = table.boolean("create_template", default.create_template);
    let http = Config::http(String::new());
    let http = read_connection(table, dir, "\"https://search.example:9200\"", http);
    let config = Config {
        index: index?,
        data_stream,
        create_template,
        http: http?,
    };
    Some(Kind::OpenSearch(Box::new(config)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use insta::assert_snapshot;

    use super::*;
    use crate::{
        config::{Config as Whole, Mistakes},
        forward::http::Auth,
    };

    fn read(text: &str) -> Result<Whole, Mistakes> {
        let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
        Whole::from_text(text, Path::new("/etc/penstock"), &env)
    }

    fn opensearch(keys: &str) -> Config {
        let text = format!("[[destination]]\nname = \"s\"\ntype = \"opensearch\"\n{keys}");
        let config = read(&text).unwrap();
        let Kind::OpenSearch(config) = &config.destinations[0].kind else {
            panic!("another kind");
        };
        (**config).clone()
    }

    #[test]
    fn an_address_is_enough() {
        let config = opensearch("url = \"http://h:9200\"");
        assert_eq!(config, Config::new("http://h:9200"));
    }

    #[test]
    fn every_key_that_differs_from_the_default_is_taken() {
        let config = opensearch(
            r#"
url = "https://h:9200"
index = "plant"
data_stream = true
create_template = false
user = "u"
password = "${WORD}"
ca = "ca.pem"
timeout = "3s"
batch_records = 7
"#,
        );
        let mut expect = Config {
            index: Index::parse("plant").unwrap(),
            data_stream: true,
            create_template: false,
            ..Config::new("https://h:9200")
        };
        expect.http.auth = Auth::Basic {
            user: "u".to_owned(),
            password: "sesame-open".into(),
        };
        expect.http.tls.ca = Some("/etc/penstock/ca.pem".into());
        expect.http.timeout = Duration::from_secs(3);
        expect.http.batch_records = 7;
        assert_eq!(config, expect);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        let text = r#"
[[destination]]
name = "a"
type = "opensearch"
url = "h:9200"
index = "Telemetry"
form = "ndjson"
[[destination]]
name = "b"
type = "opensearch"
data_stream = true
[[destination]]
name = "c"
type = "opensearch"
url = "http://h"
index = "telemetry-{YYYY}"
"#;
        let mistakes = read(text).expect_err("it has mistakes").to_string();
        assert_snapshot!(mistakes, @r#"
        configuration:5: destination[1].url: "h:9200": a URL begins with http:// or https://
        configuration:6: destination[1].index: "Telemetry": an index has lower-case letters and digits, "-", "_" and ".", and begins with a letter or digit, such as "telemetry-{yyyy.MM.dd}"
        configuration:7: destination[1].form: is not a key; known here are attempts_max, batch_bytes, batch_records, budget, budget_period, ca, certificate, connect_timeout, create_template, data_stream, gzip, headers, index, key, latency_max, linger, live, live_after, name, oauth2, password, proxy, rate_bytes, rate_records, retry_first, retry_max, start, time_zone, timeout, token, type, urgent, url, user, window
        configuration:8: destination[2].url: is missing; for example url = "https://search.example:9200"
        configuration:11: destination[2].data_stream: a data stream has one name for all days; for example index = "telemetry-plant"
        configuration:16: destination[3].index: "telemetry-{YYYY}": in braces are yyyy, MM, dd and HH, such as {yyyy.MM.dd}
        "#);
    }
}
