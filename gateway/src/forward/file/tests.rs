//! A directory as a crash leaves it, at any byte.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    event::Key,
    forward::{
        batch::Item,
        format::{Encoder, decoder},
        testing::{Model, batch, engine, record},
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

#[derive(Debug)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn config(dir: &TempDir) -> Config {
    Config::new(dir.path().join("events"))
}

fn write(config: &Config, batch: &Batch) -> Result<(), writer::Error> {
    Slot::default().write(&Arc::new(config.clone()), batch, NOW)
}

fn files(config: &Config) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(&config.path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| name::of(path).is_some())
        .collect();
    files.sort();
    files
}

/// What is in a file, compressed or not.
fn text_of(path: &Path) -> String {
    let (_, format) = name::of(path).unwrap();
    let mut text = String::new();
    let file = fs::File::open(path).unwrap();
    decoder(format, file).read_to_string(&mut text).unwrap();
    text
}

/// Positions of all lines of all files; each line must be whole.
fn positions(config: &Config) -> Vec<u64> {
    let mut positions = Vec::new();
    for path in files(config) {
        let text = text_of(&path);
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            positions.push(event["position"].as_str().unwrap().parse().unwrap());
        }
    }
    positions
}

fn newest(config: &Config) -> PathBuf {
    files(config).pop().unwrap()
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}

/// As [`batch`], but every third is a correction: its record's key is not its event's.
fn mixed(positions: impl IntoIterator<Item = u64>) -> Batch {
    let items = positions.into_iter().map(|position| {
        let mut record = record(position, 1);
        if position % 3 == 0 {
            let mut event = record.event().unwrap();
            event.corrected = Some(NOW);
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            record.key = event.attributes().delivery_key();
            record.body = body.into();
        }
        Item::check(record).unwrap()
    });
    Batch {
        items: items.collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A process that dies leaves a prefix of what it wrote. Whatever the
    /// journal then sends again, each record is there once, in order.
    #[test]
    fn a_crash_at_any_byte_leaves_each_record_once_and_in_order(
        batches in proptest::collection::vec(1u64..6, 1..12),
        crashes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..3), 1..4),
        rotate_size in prop_oneof![Just(1u64 << 20), Just(1_500), Just(700), Just(1)],
        format in proptest::sample::select(Format::WORDS.map(|(_, format)| format).to_vec()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { rotate_size, format, ..config(&dir) };
        let total: u64 = batches.iter().sum();
        for (cut, known) in crashes {
            let mut slot = Slot::default();
            let mut next = 1;
            let mut ends = Vec::new();
            for size in &batches {
                slot.write(&Arc::new(config.clone()), &mixed(next..next + size), NOW).unwrap();
                next += size;
                ends.push(next - 1);
            }
            drop(slot);
            prop_assert_eq!(positions(&config), (1..=total).collect::<Vec<_>>());
            // The newest file loses an end that was never acknowledged.
            let path = newest(&config);
            let length = fs::metadata(&path).unwrap().len();
            let keep = cut.index(usize::try_from(length).unwrap() + 1) as u64;
            OpenOptions::new().write(true).open(&path).unwrap().set_len(keep).unwrap();
            // Everything after some acknowledged batch comes again, cut otherwise.
            let acknowledged = ends.iter().rev().nth(known).copied().unwrap_or(0);
            let lost_from = positions_tolerant(&config).last().map_or(1, |last| last + 1);
            let from = acknowledged.min(lost_from - 1) + 1;
            if from <= total {
                write(&config, &mixed(from..=total)).unwrap();
            }
            prop_assert_eq!(positions(&config), (1..=total).collect::<Vec<_>>());
        }
    }
}

/// As [`positions`], but a torn line may end a file; one without its newline is torn,
/// also where all of its JSON is there.
fn positions_tolerant(config: &Config) -> Vec<u64> {
    let mut positions = Vec::new();
    for path in files(config) {
        let text = text_of(&path);
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            if let Ok(event) = serde_json::from_str::<serde_json::Value>(line) {
                positions.push(event["position"].as_str().unwrap().parse().unwrap());
            }
        }
    }
    positions
}

#[test]
fn files_are_rotated_by_size_and_their_names_sort() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        rotate_size: 4_000,
        ..config(&dir)
    };
    write(&config, &batch(1..=50)).unwrap();
    let files = files(&config);
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 4_000);
    }
    assert_eq!(positions(&config), (1..=50).collect::<Vec<_>>());
}

#[test]
fn files_are_rotated_by_age_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        rotate_age: Duration::from_secs(60),
        ..config(&dir)
    };
    let later = Timestamp::from_millis(NOW.as_millis() + 61_000);
    write(&config, &batch([1])).unwrap();
    write(&config, &batch([2])).unwrap();
    assert_eq!(files(&config).len(), 1);
    Slot::default()
        .write(&Arc::new(config.clone()), &batch([3]), later)
        .unwrap();
    assert_eq!(files(&config).len(), 2);
    assert_eq!(positions(&config), [1, 2, 3]);
}

#[test]
fn closed_files_are_compressed_and_the_newest_is_not() {
    for (suffix, format) in [("gz", Format::Gzip), ("zst", Format::Zstd)] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            rotate_size: 4_000,
            format,
            ..config(&dir)
        };
        write(&config, &batch(1..=50)).unwrap();
        let mut files = files(&config);
        assert!(files.len() > 5, "{files:?}");
        let newest = files.pop().unwrap();
        assert_eq!(newest.extension().unwrap(), "ndjson");
        for file in &files {
            assert_eq!(file.extension().unwrap(), suffix);
            assert!(fs::metadata(file).unwrap().len() < 2_000);
        }
        assert_eq!(positions(&config), (1..=50).collect::<Vec<_>>());
        // What comes again is known by the lines of compressed files too.
        write(&config, &batch(1..=51)).unwrap();
        assert_eq!(positions(&config), (1..=51).collect::<Vec<_>>());
    }
}

#[test]
fn a_crash_at_any_step_of_compressing_leaves_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Config {
        rotate_size: 4_000,
        ..config(&dir)
    };
    write(&plain, &batch(1..=20)).unwrap();
    let config = Config {
        format: Format::Gzip,
        ..plain
    };
    let closed = files(&config).into_iter().rev().nth(1).unwrap();
    let lines = fs::read(&closed).unwrap();
    let part = closed.with_extension("ndjson.gz.part");
    // Before it was whole.
    fs::write(&part, b"torn").unwrap();
    write(&config, &batch(1..=21)).unwrap();
    assert!(!part.try_exists().unwrap());
    assert!(!closed.try_exists().unwrap(), "it was compressed after all");
    // Before the plain one was deleted.
    fs::write(&closed, lines).unwrap();
    write(&config, &batch(1..=22)).unwrap();
    assert!(!closed.try_exists().unwrap());
    assert_eq!(positions(&config), (1..=22).collect::<Vec<_>>());
}

#[test]
fn a_plain_file_is_not_deleted_for_somebody_elses_copy_of_it() {
    for format in [Format::Plain, Format::Gzip] {
        let dir = tempfile::tempdir().unwrap();
        let plain = Config {
            rotate_size: 4_000,
            ..config(&dir)
        };
        write(&plain, &batch(1..=30)).unwrap();
        let config = Config { format, ..plain };
        // Somebody is compressing the oldest file at this moment.
        let oldest = files(&config).remove(0);
        let lines = fs::read(&oldest).unwrap();
        let mut begun = Encoder::new(Format::Gzip, Vec::new());
        begun.add(&lines[..lines.len() / 2]).unwrap();
        let begun = begun.finish().unwrap();
        fs::write(
            oldest.with_extension("ndjson.gz"),
            &begun[..begun.len() - 9],
        )
        .unwrap();
        write(&config, &batch([31])).unwrap();
        assert_eq!(fs::read(&oldest).unwrap(), lines);
    }
}

#[test]
fn what_could_not_be_compressed_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir
        .path()
        .join("events-20260102T030405Z-00000000000000000042.ndjson");
    fs::write(&plain, b"lines\n").unwrap();
    // The name that it would get is taken by a directory.
    fs::create_dir(plain.with_extension("ndjson.gz")).unwrap();
    assert!(packed::pack(&plain, Format::Gzip).is_err());
    assert!(plain.try_exists().unwrap());
    assert!(!plain.with_extension("ndjson.gz.part").try_exists().unwrap());
}

#[test]
fn nothing_is_deleted_unless_the_operator_says_how_many_files_to_keep() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        rotate_size: 1,
        ..config(&dir)
    };
    write(&config, &batch(1..=5)).unwrap();
    assert_eq!(files(&config).len(), 5);
    fs::write(config.path.join("notes.txt"), "mine").unwrap();
    let config = Config {
        files_max: 2,
        ..config
    };
    write(&config, &batch([6])).unwrap();
    assert_eq!(positions(&config), [5, 6]);
    assert!(config.path.join("notes.txt").try_exists().unwrap());
}

#[test]
fn a_fresh_journal_with_the_same_positions_is_written_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    write(&config, &batch(1..=3)).unwrap();
    let items = (1..=3).map(|position| {
        let mut fresh = record(position, 1);
        let mut event = fresh.event().unwrap();
        event.key = Key([0xff; 16]);
        fresh.key = event.key;
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        fresh.body = body.into();
        crate::forward::batch::Item::check(fresh).unwrap()
    });
    write(
        &config,
        &Batch {
            items: items.collect(),
        },
    )
    .unwrap();
    assert_eq!(positions(&config), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_redriven_record_is_written_though_later_ones_are_there_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    write(&config, &batch([1, 2, 4, 5])).unwrap();
    write(&config, &batch([3])).unwrap();
    // The gateway died before the journal knew, and both come again.
    write(&config, &batch([3])).unwrap();
    write(&config, &batch([5, 6])).unwrap();
    assert_eq!(positions(&config), [1, 2, 4, 5, 3, 6]);
}

#[test]
fn bytes_that_are_not_ours_are_set_aside_and_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    write(&config, &batch(1..=2)).unwrap();
    append(&newest(&config), b"\0\0\0\nnot ours\n");
    write(&config, &batch(3..=4)).unwrap();
    assert_eq!(positions(&config), [1, 2, 3, 4]);
    let aside = newest(&config).with_extension("ndjson.damaged-1");
    assert_eq!(fs::read(aside).unwrap(), b"\0\0\0\nnot ours\n");
}

#[test]
fn only_the_end_of_a_large_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let total = u64::try_from(tail::LINES).unwrap() + 5_000;
    write(&config, &batch(1..=total)).unwrap();
    let mut file = fs::File::open(newest(&config)).unwrap();
    let tail = tail::read(&mut file).unwrap();
    assert_eq!(tail.lines.last().unwrap().0.0, total);
    assert!(
        (tail::LINES..=tail::LINES + 1).contains(&tail.lines.len()),
        "{}",
        tail.lines.len()
    );
    assert_eq!(tail.end, tail.file_end);
}

#[test]
fn bytes_whose_sync_failed_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(config(&dir));
    let mut slot = Slot::default();
    slot.write(&config, &batch(1..=2), NOW).unwrap();
    let doubt = slot.writer.as_ref().unwrap().doubt();
    // Written to memory, and the sync failed: the line looks whole.
    slot.write(&config, &batch(3..=4), NOW).unwrap();
    slot.writer = None;
    slot.doubt = doubt;
    slot.write(&config, &batch(3..=4), NOW).unwrap();
    assert_eq!(positions(&config), [1, 2, 3, 4]);
}

#[test]
fn two_gateways_do_not_write_to_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(config(&dir));
    let mut first = Slot::default();
    first.write(&config, &batch([1]), NOW).unwrap();
    let error = write(&config, &batch([2])).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_unavailable_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    fs::write(&path, "in the way").unwrap();
    let file = File::new(Config::new(path.clone()), Arc::new(At(NOW)));
    let outcomes = file.send(batch([1])).await;
    let Err(Error::Unavailable { reason, .. }) = outcomes else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("events"), "{reason}");
    fs::remove_file(&path).unwrap();
    assert_eq!(file.send(batch([1])).await, Ok(vec![Outcome::Acknowledged]));
}

#[tokio::test]
async fn engines_that_die_at_any_moment_write_each_record_once_and_in_order() {
    const TOTAL: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        rotate_size: 1 << 20,
        ..config(&dir)
    };
    let model = Model::new();
    for position in 1..=TOTAL {
        model.append(record(position, u8::try_from(position % 9).unwrap()));
    }
    let mut millis = 0;
    while model.backlog() > 0 {
        let file = Arc::new(File::new(config.clone(), Arc::new(At(NOW))));
        let (engine, _) = engine(&model, file.clone(), 20);
        millis = millis % 100 + 7;
        let life = engine.run(CancellationToken::new());
        drop(tokio::time::timeout(Duration::from_millis(millis), life).await);
        // A process that is gone writes nothing more; here a thread may.
        let slot = file.slot.clone();
        drop(file);
        while Arc::strong_count(&slot) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(positions(&config), (1..=TOTAL).collect::<Vec<_>>());
}
