//! What commands print: to standard output, quiet when nobody reads any more.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use serde_json::Value;

/// Prints a line. A closed pipe ends the command as other tools do.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        // 141 is what a shell reports for a tool that SIGPIPE ended.
        std::process::exit(if error.kind() == io::ErrorKind::BrokenPipe {
            141
        } else {
            1
        });
    }
}

/// A number of bytes, for a person.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn bytes(value: &Value) -> String {
    let mut amount = value.as_u64().unwrap_or_default() as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < 1024.0 {
            return format!("{amount:.1} {unit}");
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} TiB")
}

/// An instant of an answer, for a person.
pub(crate) fn instant(value: &Value) -> String {
    // The gateway's clock was not set then.
    value
        .as_str()
        .map_or_else(|| "not known yet".to_owned(), tame)
}

/// Text from outside on one line, without control characters.
pub(crate) fn tame(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Writes over the last line of a terminal.
#[cfg(feature = "demo")]
pub(crate) fn renew(text: &str) {
    let mut out = io::stdout().lock();
    // Back to the first column, erase to the end of the line.
    if write!(out, "\r\x1b[K{text}")
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}
