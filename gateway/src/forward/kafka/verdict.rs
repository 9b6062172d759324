//! What an answer means for a record.
//!
//! | answer | meaning |
//! |---|---|
//! | an offset; a sequence that the broker has already | kept |
//! | too large, an invalid record | one record of its batch is to blame |
//! | no right, no such topic, no login, another setting of the topic, an invalid timestamp | needs a person |
//! | fenced, a producer that ended or that nobody knows | this session is over: not known |
//! | anything else | not known, or not yet |

use krafka::{KrafkaError, error::ErrorCode, producer::RecordMetadata};

use crate::forward::destination::Outcome;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All replicas in sync have it.
    Kept,
    /// This record is to blame, or another one of its batch.
    Blame(String),
    /// No request can hold it: it was not sent.
    TooLarge(String),
    /// A person must change something.
    Misconfigured(String),
    /// Not known, and the producer can do nothing more.
    Lost(String),
    /// Not known, or not sent.
    Open(String),
}

impl Verdict {
    pub(super) fn of_answer(answer: &krafka::Result<RecordMetadata>) -> Self {
        match answer {
            Ok(_) => Self::Kept,
            Err(error) => Self::of(error),
        }
    }

    pub(super) fn of(error: &KrafkaError) -> Self {
        let reason = error.to_string();
        match error {
            KrafkaError::Broker { code, .. } => of_code(*code, reason),
            KrafkaError::TransactionAbortable { message } => match named_in(message) {
                Some(code) => of_code(code, reason),
                None => Self::Open(reason),
            },
            KrafkaError::Serialization { .. } | KrafkaError::Compression { .. } => {
                Self::Blame(reason)
            }
            KrafkaError::Auth { .. }
            | KrafkaError::Config { .. }
            | KrafkaError::UnknownTopic { .. } => Self::Misconfigured(reason),
            KrafkaError::Fenced { .. }
            | KrafkaError::Closed { .. }
            | KrafkaError::IllegalState { .. } => Self::Lost(reason),
            _ => Self::Open(reason),
        }
    }

    pub(super) const fn is_blame(&self) -> bool {
        matches!(self, Self::Blame(_))
    }

    /// Whether the record is settled.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::Kept | Self::Blame(_) | Self::TooLarge(_))
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Kept => "kept",
            Self::Blame(reason)
            | Self::TooLarge(reason)
            | Self::Misconfigured(reason)
            | Self::Lost(reason)
            | Self::Open(reason) => reason,
        }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        match self {
            Self::Kept => Outcome::Acknowledged,
            Self::Blame(reason) | Self::TooLarge(reason) => Outcome::Permanent(reason),
            Self::Misconfigured(reason) | Self::Lost(reason) | Self::Open(reason) => {
                Outcome::Unknown(reason)
            }
        }
    }
}

/// Whether no broker knows the topic, which those that have just started do not either.
pub(super) const fn is_unknown_topic(error: &KrafkaError) -> bool {
    matches!(
        error,
        KrafkaError::UnknownTopic { .. }
            | KrafkaError::Broker {
                code: ErrorCode::UnknownTopicOrPartition,
                ..
            }
    )
}

/// Answers that end a transaction and say more than that.
const ENDING: [ErrorCode; 10] = [
    ErrorCode::MessageTooLarge,
    ErrorCode::RecordListTooLarge,
    ErrorCode::InvalidRecord,
    ErrorCode::InvalidTimestamp,
    ErrorCode::TopicAuthorizationFailed,
    ErrorCode::ClusterAuthorizationFailed,
    ErrorCode::UnsupportedCompressionType,
    ErrorCode::PolicyViolation,
    ErrorCode::InvalidTopic,
    ErrorCode::InvalidRequiredAcks,
];

/// The code of an answer that ended a transaction: the client keeps it in words only.
fn named_in(message: &str) -> Option<ErrorCode> {
    let (_, rest) = message.rsplit_once("failed with ")?;
    let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let is_it = |code: &ErrorCode| format!("{code:?}") == name;
    ENDING.into_iter().find(is_it)
}

fn of_code(code: ErrorCode, reason: String) -> Verdict {
    match code {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidRecord => {
            Verdict::Blame(reason)
        }
        // The time of a record is that of its sending, whatever the event says.
        ErrorCode::InvalidTimestamp => Verdict::Misconfigured(format!(
            "{reason}: is the clock of this machine right, and the broker's?"
        )),
        ErrorCode::ClusterAuthorizationFailed
        | ErrorCode::TopicAuthorizationFailed
        | ErrorCode::TransactionalIdAuthorizationFailed
        | ErrorCode::InvalidTransactionTimeout
        | ErrorCode::SaslAuthenticationFailed
        | ErrorCode::UnsupportedCompressionType
        | ErrorCode::UnsupportedVersion
        | ErrorCode::PolicyViolation
        | ErrorCode::InvalidTopic
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::InvalidRequiredAcks => Verdict::Misconfigured(reason),
        ErrorCode::ProducerFenced
        | ErrorCode::InvalidProducerEpoch
        | ErrorCode::InvalidProducerIdMapping => Verdict::Lost(reason),
        _ => Verdict::Open(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_who_has_to_do_something() {
        let code = |code| Verdict::of(&KrafkaError::broker(code, "because"));
        let check = |verdict: Verdict, expect: fn(String) -> Verdict| {
            let told = verdict.reason().to_owned();
            assert_eq!(verdict, expect(told));
        };
        check(code(ErrorCode::MessageTooLarge), Verdict::Blame);
        check(code(ErrorCode::InvalidRecord), Verdict::Blame);
        check(
            code(ErrorCode::TopicAuthorizationFailed),
            Verdict::Misconfigured,
        );
        check(
            code(ErrorCode::UnsupportedCompressionType),
            Verdict::Misconfigured,
        );
        check(code(ErrorCode::NotEnoughReplicas), Verdict::Open);
        check(code(ErrorCode::ProducerFenced), Verdict::Lost);
        let ends = KrafkaError::TransactionAbortable {
            message: "a send failed (produce to t-0 failed with InvalidRecord); abort".to_owned(),
        };
        check(Verdict::of(&ends), Verdict::Blame);
        check(
            code(ErrorCode::UnknownTopicOrPartition),
            Verdict::Misconfigured,
        );
        check(
            Verdict::of(&KrafkaError::unknown_topic("t")),
            Verdict::Misconfigured,
        );
        check(Verdict::of(&KrafkaError::closed("over")), Verdict::Lost);
        check(
            Verdict::of(&KrafkaError::delivery_timeout(true, "")),
            Verdict::Open,
        );
    }
}
