//! What an error means for the rows that were sent.
//!
//! | SQLSTATE | meaning |
//! |---|---|
//! | 21, 22, 23, 27, 38, 39, 44, 54, P0: data, constraints, limits, what a trigger raises | a row is to blame |
//! | 0A, 0L, 0P, 28, 3D, 3F, 42: no such table or column, no right, no login | needs a person |
//! | 57014: it took longer than `statement_timeout` | too many rows, or locks: fewer go at once |
//! | anything else: 08, 25006 (not the primary), 40, 53, 55, 57, 58, XX | away, or not yet |
//!
//! While connecting no row is to blame for anything.

use std::error::Error as _;

use tokio_postgres::{
    Error,
    error::{DbError, SqlState},
};

/// How much of a reason is kept.
const REASON_CHARS_MAX: usize = 500;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A row is to blame.
    Refused(String),
    /// A person must change something.
    Misconfigured(String),
    /// The server stopped the statement, which took too long.
    Slow(String),
    /// Nothing is known.
    Unavailable(String),
}

impl Verdict {
    /// Of a statement with rows.
    pub(super) fn of(error: &Error) -> Self {
        if let Some(answer) = error.as_db_error() {
            return of_answer(answer);
        }
        // The client's own: the connection, the login, TLS.
        let mut reason = error.to_string();
        let mut cause = error.source();
        let mut is_certificate = false;
        while let Some(inner) = cause {
            is_certificate |= needs_person(inner);
            reason = format!("{error}: {inner}");
            cause = inner.source();
        }
        let is_of_rows = ["error encoding message", "error serializing parameter"]
            .iter()
            .any(|word| reason.starts_with(word));
        if is_of_rows {
            return Self::Refused(cut(reason));
        }
        let is_ours = ["invalid configuration", "authentication error"]
            .iter()
            .any(|word| reason.starts_with(word));
        match is_ours || is_certificate || reason.contains("server does not support TLS") {
            true => Self::Misconfigured(reason),
            false => Self::Unavailable(reason),
        }
    }

    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Refused(reason)
            | Self::Misconfigured(reason)
            | Self::Slow(reason)
            | Self::Unavailable(reason) => reason,
        }
    }

    /// Of anything before rows are sent.
    pub(super) fn of_beginning(error: &Error) -> Self {
        match Self::of(error) {
            Self::Refused(reason) | Self::Slow(reason) => Self::Unavailable(reason),
            verdict => verdict,
        }
    }
}

fn of_answer(answer: &DbError) -> Verdict {
    let code = answer.code().code();
    let reason = format!("{} ({code})", cut(answer.message().to_owned()));
    if code == SqlState::QUERY_CANCELED.code() {
        return Verdict::Slow(reason);
    }
    let class = code.get(..2).unwrap_or_default();
    match class {
        "21" | "22" | "23" | "27" | "38" | "39" | "44" | "54" | "P0" => Verdict::Refused(reason),
        "0A" | "0L" | "0P" | "28" | "3D" | "3F" | "42" => Verdict::Misconfigured(reason),
        _ => Verdict::Unavailable(reason),
    }
}

/// What a trigger says may be of any length.
fn cut(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// Whether the two sides do not take each other's certificates, which stays so.
fn needs_person(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = match error.downcast_ref::<std::io::Error>() {
        // Its own words are those of what is in it.
        Some(outer) => outer
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        None => error.downcast_ref::<rustls::Error>(),
    };
    matches!(
        error,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
    )
}
