//! The stream that keeps the events: found, or created if it is to be.

use std::time::Duration;

use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config as StreamConfig, StorageType, Stream},
};

use super::{Config, Error, Storage, subject::covers};

/// What must be known of a stream.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) stream: Stream,
    /// How long it remembers message ids.
    pub(super) duplicate_window: Duration,
}

/// Finds the stream, and checks that it takes our subjects.
pub(super) async fn look_at(
    context: &Context,
    config: &Config,
    pattern: String,
    resend_after_max: Duration,
) -> Result<Known, Error> {
    let stream = match context.get_stream(&config.stream).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if is_missing(&error) && config.create_stream => {
                return create(context, config, pattern).await;
            }
            GetStreamErrorKind::JetStream(error) => return Err(refused(&error)),
            _ => return Err(Error::unavailable(error.to_string())),
        },
    };
    let found = &stream.cached_info().config;
    if !found.subjects.iter().any(|filter| covers(filter, &pattern)) {
        return Err(Error::Misconfigured(format!(
            "stream `{}` takes {:?}, which does not cover `{pattern}`",
            config.stream, found.subjects
        )));
    }
    if found.duplicate_window < config.duplicate_window {
        tracing::warn!(
            stream = config.stream,
            window_secs = found.duplicate_window.as_secs(),
            configured_secs = config.duplicate_window.as_secs(),
            "the stream forgets message ids earlier than configured: \
             what is sent again later than that can be there twice"
        );
    }
    if found.duplicate_window / 2 < resend_after_max {
        tracing::warn!(
            stream = config.stream,
            window_secs = found.duplicate_window.as_secs(),
            resend_secs = resend_after_max.as_secs(),
            "the stream remembers message ids for less than twice as long as it can take until \
             a message goes again: resends have to ask what it has, and where several gateways \
             share a subject they can be there twice"
        );
    }
    Ok(Known {
        duplicate_window: found.duplicate_window,
        stream,
    })
}

async fn create(context: &Context, config: &Config, pattern: String) -> Result<Known, Error> {
    let wanted = StreamConfig {
        name: config.stream.clone(),
        subjects: vec![pattern],
        storage: match config.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: config.replicas,
        duplicate_window: config.duplicate_window,
        allow_direct: true,
        ..StreamConfig::default()
    };
    match context.create_stream(wanted).await {
        Ok(stream) => {
            tracing::info!(stream = config.stream, "stream created");
            Ok(Known {
                duplicate_window: config.duplicate_window,
                stream,
            })
        }
        Err(error) => Err(match error.kind() {
            CreateStreamErrorKind::JetStream(error) => refused(&error),
            _ => Error::unavailable(error.to_string()),
        }),
    }
}

fn is_missing(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::STREAM_NOT_FOUND
}

/// An answer of the server: errors of its own pass, others do not by themselves.
fn refused(error: &jetstream::Error) -> Error {
    if (500..600).contains(&error.code()) && error.error_code() != ErrorCode::JETSTREAM_NOT_ENABLED
    {
        Error::unavailable(error.to_string())
    } else {
        Error::Misconfigured(error.to_string())
    }
}
