//! `rulebook.json`: the rules that were put, and which were taken away, once more. What
//! they narrow must not be open because one file is damaged.
//!
//! The first line is the CRC-32 of the rest, which is JSON. The file is replaced as a whole
//! after each change; a crash in between leaves it one change behind until the next start.

use std::{fs, io, io::Write as _, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Version;
use crate::event::Timestamp;

/// The file's name in the data directory.
pub(super) const FILE: &str = "rulebook.json";

/// A rule that was put, with its name.
pub(super) type Named = (Arc<str>, Version);

/// What a data directory has of it.
#[derive(Debug)]
pub(super) enum Copy {
    /// There is none.
    None,
    /// It cannot be read. That it is there says that there may have been rules.
    Damaged,
    /// The latest version of each, also of those that were taken away.
    Whole(Vec<Named>),
}

#[derive(Serialize, Deserialize)]
struct Line {
    name: String,
    version: u64,
    /// Nanoseconds since 1970.
    at: i64,
    actor: String,
    /// None where it was taken away, as a version has it.
    rule: Option<String>,
}

/// Rules that were taken away, and are in it, at most: the latest.
const GONE_MAX: usize = 10_000;

/// Writes it, unless it is the same already.
///
/// # Errors
/// When the file system says no; then the file is as it was.
pub(super) fn keep(dir: &Path, mut rules: Vec<Named>) -> io::Result<()> {
    let is_gone = |(_, version): &Named| version.text.is_none();
    let gone = rules.iter().filter(|rule| is_gone(rule));
    let mut times: Vec<Timestamp> = gone.map(|(_, version)| version.at).collect();
    if times.len() > GONE_MAX {
        times.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = times[GONE_MAX - 1];
        rules.retain(|rule| !is_gone(rule) || rule.1.at >= oldest);
    }
    let lines: Vec<Line> = rules
        .into_iter()
        .map(|(name, version)| Line {
            name: name.to_string(),
            version: version.number,
            at: version.at.as_nanos(),
            actor: version.actor,
            rule: version.text,
        })
        .collect();
    let json = serde_json::to_string(&lines)?;
    let text = format!("{}\n{json}\n", crc32fast::hash(json.as_bytes()));
    let path = dir.join(FILE);
    if fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    let beside = dir.join(format!("{FILE}.new"));
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    fs::File::open(dir)?.sync_all()
}

/// Empties it: one that is behind the rules would be believed, and where there is none
/// there were no rules. That needs no room on the disk.
///
/// # Errors
/// When the file system says no.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    fs::File::create(dir.join(FILE))?.sync_all()?;
    fs::File::open(dir)?.sync_all()
}

/// What it has.
///
/// # Errors
/// When it may not be read.
pub(super) fn read(dir: &Path) -> io::Result<Copy> {
    match fs::read(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Copy::None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // The disk cannot read it.
        Err(_) => Ok(Copy::Damaged),
        Ok(text) => Ok(parse(&text).map_or(Copy::Damaged, Copy::Whole)),
    }
}

fn parse(text: &[u8]) -> Option<Vec<Named>> {
    let (checksum, json) = std::str::from_utf8(text).ok()?.split_once('\n')?;
    let json = json.strip_suffix('\n')?;
    if checksum != crc32fast::hash(json.as_bytes()).to_string() {
        return None;
    }
    let lines: Vec<Line> = serde_json::from_str(json).ok()?;
    let named = lines.into_iter().map(|line| {
        let version = Version {
            number: line.version,
            at: Timestamp::from_nanos(line.at),
            actor: line.actor,
            text: line.rule,
        };
        (line.name.into(), version)
    });
    Some(named.collect())
}
