//! What an acknowledgement, or its absence, means.

use std::error::Error as _;

use async_nats::jetstream::{
    self, ErrorCode,
    context::{PublishAckFuture, PublishError, PublishErrorKind},
};

use super::{Outcome, Session};

/// What became of a published message.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Of this message alone.
    Outcome(Outcome),
    /// No stream answers for the subject.
    NoStream(String),
    /// No answer in time, or the connection is gone: it may have been kept.
    Silent(String),
    /// Needs a person.
    Misconfigured(String),
}

impl Verdict {
    /// What it means for the message.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Outcome(outcome) => outcome.clone(),
            Self::NoStream(reason) | Self::Silent(reason) | Self::Misconfigured(reason) => {
                Outcome::Unknown(reason.clone())
            }
        }
    }
}

impl Verdict {
    /// Whether the server said that it did not take the message, which goes again.
    pub(super) const fn is_refusal(&self) -> bool {
        use Outcome::{Acknowledged, Permanent};
        !matches!(
            self,
            Self::Outcome(Acknowledged | Permanent(_)) | Self::Silent(_)
        )
    }
}

/// Waits for the stream to answer, as long as the connection is good.
pub(super) async fn wait(ack: PublishAckFuture, session: &Session) -> Verdict {
    tokio::select! {
        biased;
        // A duplicate is as good: the stream has it.
        answer = ack.into_future() => match answer {
            Ok(_) => Verdict::Outcome(Outcome::Acknowledged),
            Err(error) => of_error(&error),
        },
        () = session.closed() => Verdict::Silent(session.reason()),
    }
}

fn of_error(error: &PublishError) -> Verdict {
    if let Some(refused) = error.source().and_then(|source| source.downcast_ref()) {
        return of_refusal(refused);
    }
    match error.kind() {
        PublishErrorKind::StreamNotFound => Verdict::NoStream(error.to_string()),
        _ => Verdict::Silent(error.to_string()),
    }
}

/// An outcome of a message that could not even be published; `None` if the
/// connection is to blame.
pub(super) fn of_publish(error: &PublishError) -> Option<Outcome> {
    matches!(error.kind(), PublishErrorKind::MaxPayloadExceeded)
        .then(|| Outcome::Permanent(error.to_string()))
}

/// What the stream said against a message.
fn of_refusal(error: &jetstream::Error) -> Verdict {
    let reason = error.to_string();
    match error.error_code() {
        // Full, or short of memory, disk or time.
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => {
            Verdict::Outcome(Outcome::Throttled { retry_after: None })
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            Verdict::Outcome(Outcome::Permanent(reason))
        }
        ErrorCode::STREAM_NOT_MATCH
        | ErrorCode::STREAM_SEALED
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => Verdict::Misconfigured(reason),
        ErrorCode::STREAM_NOT_FOUND => Verdict::NoStream(reason),
        // The same id is on its way already, or the server has trouble of its own.
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => Verdict::Outcome(Outcome::Unknown(reason)),
        _ if (500..600).contains(&error.code()) => Verdict::Outcome(Outcome::Unknown(reason)),
        _ => Verdict::Outcome(Outcome::Transient(reason)),
    }
}
