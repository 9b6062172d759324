//! Commands from a NATS JetStream stream.
//!
//! Messages are taken one after the other, in the order of the stream, and acknowledged
//! there once they are settled here.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, pull},
    },
};
use futures_util::StreamExt as _;
use penstock_broker::Publish;

use super::{Fault, Upstream};
use crate::{
    forward::nats::{self, Login},
    tls::Files,
};

/// Messages that the server sends before the first of them is acknowledged.
const IN_FLIGHT: i64 = 256;
/// After so long without an acknowledgement the server sends a message again.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// What stands for the device in a subject.
const DEVICE: &str = "{device}";

/// Where such commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Server addresses, such as `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The stream that has them.
    pub stream: String,
    /// Their subjects; with `{device}` as one token of it.
    pub subject: String,
    /// The name of our consumer there: what it was given is ours. Without one it has the
    /// name of this gateway, so that two of them do not share.
    pub consumer: Option<String>,
    /// Who we are.
    pub login: Login,
    /// Certificates; they count where a server's address begins with `tls://`.
    pub tls: Files,
}

/// What is wrong with a subject, if something is.
pub(crate) fn subject_objection(subject: &str) -> Option<&'static str> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let is_fine = tokens.iter().filter(|token| **token == DEVICE).count() == 1
        && tokens.iter().all(|token| {
            *token == DEVICE
                || !token.is_empty()
                    && !token.contains(['*', '>', '{', '}'])
                    && !token.contains(char::is_whitespace)
        });
    (!is_fine).then_some(
        "a subject of commands has {device} as one of its tokens, as \"orders.{device}\" has, \
         and no wildcards",
    )
}

/// Takes commands until something is wrong.
pub(super) async fn take_all(
    upstream: &Upstream,
    config: &Config,
    taken: &mut u64,
) -> Result<(), Fault> {
    let is_tls = config
        .servers
        .iter()
        .any(|server| server.starts_with("tls://"));
    let options = nats::options(&config.login, is_tls.then_some(&config.tls))?;
    let client = options.connect(&config.servers[..]).await?;
    let stream = jetstream::new(client).get_stream(&config.stream).await?;
    // A stream that is made anew counts from the beginning.
    let made = stream.cached_info().created.unix_timestamp();
    let filter = config.subject.replace(DEVICE, "*");
    let name = upstream.ours(config.consumer.as_deref());
    let ours = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: filter.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: IN_FLIGHT,
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer(&name, ours).await?;
    let theirs = &consumer.cached_info().config;
    if theirs.filter_subject != filter || theirs.ack_policy != AckPolicy::Explicit {
        let what = format!(
            "the consumer {name} is another one: its filter is {:?}; give ours another name, or \
             remove that one",
            theirs.filter_subject
        );
        return Err(what.into());
    }
    tracing::info!(upstream = %upstream.name, stream = %config.stream, "commands may come");
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let sequence = message.info()?.stream_sequence;
        let place = format!("{}:{made}:{sequence}", upstream.name);
        upstream
            .settle(publish(upstream, config, &message, place))
            .await?;
        message.ack().await?;
        *taken += 1;
    }
    Ok(())
}

/// `place` is its key, where nobody gave it one.
fn publish(
    upstream: &Upstream,
    config: &Config,
    message: &jetstream::Message,
    place: String,
) -> Publish {
    let mut subject = message.subject.split('.');
    let token = config.subject.split('.').position(|token| token == DEVICE);
    let device = token.and_then(|at| subject.nth(at)).unwrap_or_default();
    let said = message.headers.as_ref().and_then(said_key);
    upstream.order(device, message.payload.clone(), said, place)
}

/// The key that the sender of a message gave it.
fn said_key(headers: &HeaderMap) -> Option<String> {
    let said = ["Idempotency-Key", "Nats-Msg-Id"];
    let said = said.iter().find_map(|name| headers.get(*name))?;
    Some(said.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_the_device_as_a_token() {
        for (subject, fine) in [
            ("orders.{device}", true),
            ("site.{device}.orders", true),
            ("{device}", true),
            ("orders", false),
            ("orders.*", false),
            ("orders.x{device}", false),
            ("orders.{device}.>", false),
            ("orders..{device}", false),
            ("{device}.{device}", false),
        ] {
            assert_eq!(subject_objection(subject).is_none(), fine, "{subject}");
        }
    }
}
