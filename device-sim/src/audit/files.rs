//! Ack logs and arrived events in NDJSON files.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{arrival::Arrival, ledger::Ledger};
use crate::identity::Identity;

/// No line that we read is longer; a longer one is not read into memory.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum Line<'a> {
    Sent {
        id: &'a str,
        n: u64,
        malformed: bool,
    },
    Acked {
        id: &'a str,
    },
    Deferred {
        id: &'a str,
    },
    Refused {
        id: &'a str,
    },
}

/// Reads one ack log. A torn last line is what a killed simulator leaves, and passed over.
pub(super) fn read_ack_log(path: &Path, ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        if !line.whole {
            break;
        }
        let number = line.number;
        enter(line.bytes, ledger).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

fn enter(line: &[u8], ledger: &mut Ledger) -> anyhow::Result<()> {
    let identity = |id| {
        Identity::parse(id).with_context(|| format!("`{id}` is not an identity of the simulator"))
    };
    match serde_json::from_slice(line).context("not a line of an ack log")? {
        Line::Sent { id, n, malformed } => ledger.sent(identity(id)?, n, malformed),
        Line::Acked { id } => ledger.acked(identity(id)?),
        Line::Deferred { id } => ledger.deferred(identity(id)?),
        Line::Refused { id } => ledger.refused(identity(id)?),
    }
}

/// Reads the events in `path`: a file, or the `*.ndjson` files of a directory
/// in the order of their names. Only the very last line may be torn.
pub(super) fn read_arrived(path: &Path, ledger: &mut Ledger) -> anyhow::Result<()> {
    let files = files(path)?;
    for (index, file) in files.iter().enumerate() {
        let name = file.display();
        let is_last_file = index + 1 == files.len();
        let mut lines = Lines::open(file).with_context(|| format!("{name}"))?;
        while let Some(line) = lines.next().with_context(|| format!("{name}"))? {
            if !line.whole && is_last_file {
                break;
            }
            match serde_json::from_slice::<Arrival<'_>>(line.bytes) {
                Ok(arrival) if line.whole => {
                    if arrival.identity(|id| ledger.arrived(id)).is_none() {
                        ledger.unidentified();
                    }
                }
                Ok(_) => ledger.unreadable(|| {
                    format!("{name}:{}: torn in front of another file", line.number)
                }),
                Err(error) => ledger.unreadable(|| format!("{name}:{}: {error}", line.number)),
            }
        }
    }
    Ok(())
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "ndjson")
            && path.metadata()?.is_file()
        {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("there is no *.ndjson file in it");
    }
    Ok(files)
}

/// One line, without its line break.
struct RawLine<'a> {
    bytes: &'a [u8],
    number: u64,
    /// It ends with a line break.
    whole: bool,
}

/// Reads lines into one buffer. Empty lines are passed over.
struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            reader: BufReader::with_capacity(256 * 1024, file),
            buffer: Vec::new(),
            number: 0,
        })
    }

    fn next(&mut self) -> anyhow::Result<Option<RawLine<'_>>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let whole = self.buffer.ends_with(b"\n");
            if !whole && read as u64 == LINE_BYTES_MAX {
                bail!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let whole = self.buffer.ends_with(b"\n");
        let bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        Ok(Some(RawLine {
            bytes,
            number: self.number,
            whole,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::Verdict;

    const LOG: &str = concat!(
        r#"{"t":"sent","id":"sim-d-1-0","device":"d","n":0,"malformed":false}"#,
        "\n",
        r#"{"t":"sent","id":"sim-d-1-1","device":"d","n":1,"malformed":false}"#,
        "\n",
        r#"{"t":"acked","id":"sim-d-1-0"}"#,
        "\n",
        r#"{"t":"acked","id":"sim-d-1-1"}"#,
        "\n",
        r#"{"t":"sent","id":"sim-d-1-2","device":"d","n":2,"malformed":true}"#,
        "\n",
        r#"{"t":"deferred","id":"sim-d-1-2"}"#,
        "\n",
        r#"{"t":"refused","id":"sim-d-1-2","reason":135}"#,
        "\n",
    );

    fn event(seq: u64) -> String {
        format!("{{\"specversion\":\"1.0\",\"id\":\"sim-d-1-{seq}\"}}\n")
    }

    fn audit(log: &str, files: &[(&str, String)]) -> anyhow::Result<Verdict> {
        let dir = tempfile::tempdir()?;
        let log_path = dir.path().join("ack.log");
        fs::write(&log_path, log)?;
        let arrived = dir.path().join("events");
        fs::create_dir(&arrived)?;
        for (name, text) in files {
            fs::write(arrived.join(name), text)?;
        }
        let mut ledger = Ledger::default();
        read_ack_log(&log_path, &mut ledger)?;
        ledger.check_complete()?;
        read_arrived(&arrived, &mut ledger)?;
        Ok(ledger.verdict(false))
    }

    #[test]
    fn files_are_read_in_the_order_of_their_names() {
        let verdict = audit(
            LOG,
            &[
                ("b.ndjson", event(1)),
                ("a.ndjson", event(0)),
                ("notes.txt", "x".into()),
            ],
        )
        .unwrap();
        assert!(verdict.is_clean());
        assert_eq!(
            (verdict.arrived, verdict.refused, verdict.deferred),
            (2, 1, 1)
        );
        let verdict = audit(LOG, &[("a.ndjson", event(1)), ("b.ndjson", event(0))]).unwrap();
        assert_eq!(verdict.out_of_order.count(), 1);
    }

    #[test]
    fn only_the_very_last_line_may_be_torn() {
        let torn = event(1)[..20].to_owned();
        let verdict = audit(
            LOG,
            &[("a.ndjson", event(0)), ("b.ndjson", event(1) + &torn)],
        )
        .unwrap();
        assert!(verdict.is_clean());
        let verdict = audit(
            LOG,
            &[("a.ndjson", event(0) + &torn), ("b.ndjson", event(1))],
        )
        .unwrap();
        assert_eq!(verdict.unreadable.count(), 1);
        let verdict = audit(LOG, &[("a.ndjson", event(0) + &torn + "\n" + &event(1))]).unwrap();
        assert_eq!(verdict.unreadable.count(), 1);
        let unended = event(1).trim_end().to_owned();
        let verdict = audit(
            LOG,
            &[("a.ndjson", event(0) + &unended), ("b.ndjson", event(1))],
        )
        .unwrap();
        assert_eq!(verdict.unreadable.count(), 1);
    }

    #[test]
    fn a_torn_ack_log_is_read_as_far_as_it_goes() {
        let verdict = audit(&LOG[..LOG.len() - 5], &[("a.ndjson", event(0) + &event(1))]).unwrap();
        assert!(verdict.is_clean());
        assert_eq!(verdict.refused, 0);
    }

    #[test]
    fn an_ack_log_that_is_none_is_refused_with_its_line() {
        for log in ["{}\n", "x\n", "{\"t\":\"acked\",\"id\":\"other\"}\n"] {
            let error = format!(
                "{:#}",
                audit(&(LOG.to_owned() + log), &[("a.ndjson", event(0))]).unwrap_err()
            );
            assert!(error.contains("line 8"), "{error}");
        }
    }

    #[test]
    fn a_directory_without_events_is_an_error_and_not_a_loss() {
        assert!(audit(LOG, &[]).is_err());
    }
}
