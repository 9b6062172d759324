//! Indices of OpenSearch, and of Elasticsearch, which has the same `_bulk`.
//!
//! Everything on the way there is the HTTP destination's, in its form for `_bulk`
//! ([`http::Bulk`]); this adds the address, and an index template, so that what an index
//! makes of a field does not hang on the first value that it sees.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::{Method, StatusCode, Url};
use serde_json::json;

use super::{
    batch::Batch,
    destination::{Destination, Error, Limits, Outcomes},
    http::{self, Bulk, Form, Http, Index},
};
use crate::clock::Clock;

/// Of an answer only this is asked for.
const FILTER: &str = "errors,items.*.status,items.*.error";
/// Before templates that others make for all that begins the same.
const PRIORITY: u32 = 100;
/// Longer texts are kept and not searched.
const KEYWORD_CHARS_MAX: u32 = 1_024;

/// Names of measurements that an index may have, about.
const FIELDS_MAX: u32 = 5_000;

/// How documents are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The way there: `url` is the cluster's, and `form` is not looked at.
    pub http: http::Config,
    /// Where documents go.
    pub index: Index,
    /// `index` is a data stream.
    pub data_stream: bool,
    /// Makes an index template where there is none.
    pub create_template: bool,
}

impl Config {
    /// The configured defaults for a cluster at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            http: Self::http(url),
            index: Index::parse("telemetry-{yyyy.MM.dd}").expect("a name of an index"),
            data_stream: false,
            create_template: true,
        }
    }

    /// The configured defaults of the way there.
    pub fn http(url: impl Into<String>) -> http::Config {
        http::Config {
            batch_records: 1_000,
            ..http::Config::new(url)
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        if self.data_stream && self.index.has_places() {
            let what = "index: a data stream has one name for all days";
            return Err(super::Error::Config(what.to_owned()));
        }
        self.bulk()?.check()
    }

    /// The same as a destination of HTTP.
    fn bulk(&self) -> Result<http::Config, super::Error> {
        let mut url = self.below(&["_bulk"])?;
        url.query_pairs_mut().append_pair("filter_path", FILTER);
        Ok(http::Config {
            url: url.into(),
            form: Form::Bulk(Box::new(Bulk {
                index: self.index.clone(),
            })),
            ..self.http.clone()
        })
    }

    /// An address of the cluster's.
    fn below(&self, path: &[&str]) -> Result<Url, super::Error> {
        let wrong = |what: &str| super::Error::Config(format!("url `{}`: {what}", self.http.url));
        let mut url = Url::parse(&self.http.url).map_err(|error| wrong(&error.to_string()))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("the address of a cluster has no \"?\" and no \"#\""));
        }
        url.path_segments_mut()
            .map_err(|()| wrong("must begin with http:// or https://"))?
            .pop_if_empty()
            .extend(path);
        Ok(url)
    }

    /// What an index template is called: another index is another template.
    fn template_name(&self) -> String {
        let kind = if self.data_stream { "-stream" } else { "" };
        format!("penstock-{}{kind}", self.index.name())
    }

    /// The template: numbers of any kind are doubles, texts are words to look for as they
    /// are, and none is taken for a date.
    fn template(&self) -> String {
        let number = |kind: &str| {
            json!({
                "path_match": "values.*",
                "match_mapping_type": kind,
                "mapping": {"type": "double"},
            })
        };
        let word = json!({
            "match_mapping_type": "string",
            "mapping": {"type": "keyword", "ignore_above": KEYWORD_CHARS_MAX},
        });
        let date = json!({"type": "date"});
        // Kept, and not looked for: fields are few.
        let kept = json!({"type": "object", "enabled": false});
        let mut template = json!({
            "index_patterns": [self.index.pattern()],
            "priority": PRIORITY,
            "template": {"settings": {"index.mapping.total_fields.limit": FIELDS_MAX}, "mappings": {
                "date_detection": false,
                "dynamic_templates": [
                    {"integers": number("long")},
                    {"numbers": number("double")},
                    {"words": word},
                ],
                "properties": {
                    "@timestamp": date, "time": date, "recordedtime": date, "correctedtime": date,
                    "units": kept, "qualities": kept, "times": kept,
                },
            }},
        });
        if self.data_stream {
            template["data_stream"] = json!({});
        }
        template.to_string()
    }
}

/// The OpenSearch destination.
#[derive(Debug)]
pub(super) struct OpenSearch {
    config: Config,
    http: Http,
    template: Url,
    has_template: AtomicBool,
}

impl OpenSearch {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self {
            http: Http::new(config.bulk()?, clock)?,
            template: config.below(&["_index_template", &config.template_name()])?,
            has_template: AtomicBool::new(!config.create_template),
            config,
        })
    }

    async fn deliver(&self, batch: Batch) -> Outcomes {
        // Before the first document: an index keeps what it made of a field.
        if !self.has_template.load(Ordering::Relaxed) {
            self.make_template().await?;
            self.has_template.store(true, Ordering::Relaxed);
        }
        self.http.send(batch).await
    }

    /// Makes the template, unless there is one of that name: somebody may have changed it.
    async fn make_template(&self) -> Result<(), Error> {
        let ask = |method, body| self.http.ask(method, self.template.clone(), body);
        let (status, said) = ask(Method::GET, None).await?;
        if status.is_success() {
            return Ok(());
        }
        if status != StatusCode::NOT_FOUND {
            return Err(failed(status, said));
        }
        let (status, said) = ask(Method::PUT, Some(self.config.template())).await?;
        match status.is_success() {
            true => Ok(()),
            false => Err(failed(status, said)),
        }
    }
}

fn failed(status: StatusCode, said: String) -> Error {
    let reason = format!("index template: {said}");
    match status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
        true => Error::unavailable(reason),
        false => Error::Misconfigured(reason),
    }
}

impl Destination for OpenSearch {
    fn limits(&self) -> Limits {
        self.http.limits()
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }
}

#[cfg(test)]
mod tests;
