//! `penstock dictionary`: what small events are compressed with.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{ConfigFile, offline, output};
use crate::{
    config::{Config, parse_size},
    dictionary::{self, Dictionary, Packer},
    event::{Timestamp, View},
    record::{Position, Record},
};

/// Events that are learned from, at most.
const EVENTS_MAX: usize = 20_000;
/// Bytes of events that are learned from, at most.
const EVENTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Of so many events one is kept back, to measure by.
const KEPT_BACK: usize = 10;
/// Records that are read at a time.
const RECORDS: usize = 1_000;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a dictionary from the newest events of the journal, or from files of events
    Train(Train),
    /// Show the number of a dictionary
    Show {
        /// The dictionary
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Where from, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct Train {
    /// The file to write; it must not be there yet
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Files with an event a line, as the destination `file` writes them, instead of the
    /// journal
    #[arg(value_name = "NDJSON")]
    events: Vec<PathBuf>,
    /// How large it may be
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = size)]
    size: usize,
    #[command(flatten)]
    file: ConfigFile,
}

fn size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    let most = dictionary::BYTES_MAX;
    let size = usize::try_from(size).ok();
    size.filter(|size| (1024..=most).contains(size))
        .ok_or_else(|| "a dictionary has 1KiB to 1MiB".to_owned())
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Train(args) => args.run()?,
        Command::Show { file } => {
            let dictionary = read(&file)?;
            let bytes = dictionary.bytes().len();
            output::line(format_args!(
                "dictionary {}, {bytes} bytes",
                dictionary.id()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Dictionary> {
    Dictionary::read(path).map_err(|what| anyhow::anyhow!("{}: {what}", path.display()))
}

impl Train {
    fn run(&self) -> Result<()> {
        let events = match &*self.events {
            [] => of_journal(&self.file.load_without_dictionaries()?)?,
            files => of_files(files)?,
        };
        let (mut learned, mut kept_back) = (Vec::new(), Vec::new());
        for (n, event) in events.into_iter().enumerate() {
            match n % KEPT_BACK {
                0 => kept_back.push(event),
                _ => learned.push(event),
            }
        }
        let made = Dictionary::train(&learned, self.size);
        let made = made.map_err(|what| anyhow::anyhow!("{what}"))?;
        write(&self.out, made.bytes())
            .with_context(|| format!("cannot write {}", self.out.display()))?;
        output::line(format_args!(
            "{}: dictionary {}, {} bytes, from {} events",
            self.out.display(),
            made.id(),
            made.bytes().len(),
            learned.len()
        ));
        output::line(measured(&made, &kept_back)?);
        Ok(())
    }
}

/// Writes a new file, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _half = fs::remove_file(path);
        return Err(error.into());
    }
    Ok(())
}

/// What it is worth, by events that it has not seen.
fn measured(dictionary: &Dictionary, events: &[Vec<u8>]) -> Result<String> {
    let packer = Packer::new(dictionary).map_err(|what| anyhow::anyhow!("{what}"))?;
    let alone = |event: &Vec<u8>| {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(event.len()));
        let size = zstd_safe::compress(&mut frame, event, dictionary::LEVEL);
        size.unwrap_or(event.len()).min(event.len())
    };
    let packed = |event: &Vec<u8>| packer.pack(event).map_or(event.len(), |frame| frame.len());
    let mean = |sizes: usize| sizes / events.len().max(1);
    Ok(format!(
        "{} others have {} bytes each, {} with Zstandard alone, {} with the dictionary",
        events.len(),
        mean(events.iter().map(Vec::len).sum()),
        mean(events.iter().map(alone).sum()),
        mean(events.iter().map(packed).sum()),
    ))
}

/// The newest events of the journal, as destinations get them.
fn of_journal(config: &Config) -> Result<Vec<Vec<u8>>> {
    let listing = offline::listing(config)?;
    let until = listing.last_position()?;
    let all = Timestamp::from_nanos(i64::MIN)..Timestamp::from_nanos(i64::MAX);
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut after = Position(until.0.saturating_sub(EVENTS_MAX as u64));
    loop {
        let page = listing.history(after, until, RECORDS, &all)?;
        for event in page.records.iter().filter_map(as_sent) {
            bytes += event.len();
            if bytes <= EVENTS_BYTES_MAX {
                events.push(event);
            }
        }
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    ensure!(
        !events.is_empty(),
        "the journal has no events: name files of events, or keep delivered ones with `keep_delivered` in [store]"
    );
    Ok(events)
}

fn as_sent(record: &Record) -> Option<Vec<u8>> {
    let mut event = Vec::new();
    View::parse(&record.body).ok()?.to_json(None, &mut event);
    Some(event)
}

/// The first events of each file, a fair share of each.
fn of_files(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let (count, share) = (EVENTS_MAX / files.len(), EVENTS_BYTES_MAX / files.len());
    let mut events = Vec::new();
    for path in files {
        let in_words = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(in_words)?;
        for line in BufReader::new(file.take(share as u64))
            .split(b'\n')
            .take(count)
        {
            let line = line.with_context(in_words)?;
            // The last line may be cut by the share.
            match serde_json::from_slice::<serde_json::Value>(&line) {
                Ok(serde_json::Value::Object(_)) => events.push(line),
                _ if events.is_empty() => bail!("{}: not an event a line", path.display()),
                _ => {}
            }
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::tests::samples;

    fn train(out: &Path, events: &[PathBuf]) -> Result<()> {
        let train = Train {
            out: out.to_owned(),
            events: events.to_vec(),
            size: 8 * 1024,
            file: ConfigFile { config: None },
        };
        train.run()
    }

    #[test]
    fn a_dictionary_is_learned_from_files_of_events_and_never_written_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (events, out) = (dir.path().join("events.ndjson"), dir.path().join("a.zdict"));
        fs::write(&events, samples(3_000).join(&b'\n')).unwrap();
        train(&out, std::slice::from_ref(&events)).unwrap();
        let made = read(&out).unwrap();
        assert!(made.bytes().len() <= 8 * 1024);
        let said = measured(&made, &samples(10)).unwrap();
        assert!(said.starts_with("10 others have "), "{said}");
        let again = train(&out, &[events]).unwrap_err();
        assert!(
            format!("{again:#}").contains("a.zdict: File exists"),
            "{again:#}"
        );
        assert_eq!(read(&out).unwrap(), made);
    }

    #[cfg(feature = "nats")]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_dictionary_is_learned_although_the_configuration_names_it_already() {
        use crate::{
            clock::{Clock, SystemClock},
            record::Routes,
            rules::tests::event_of,
            store::{Entry, NewEvent, Store},
        };

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("penstock.toml");
        let text = "data_dir = \"data\"\n[store]\nreserve = \"1MiB\"\n\
            keep_delivered = \"1d\"\n[[mapping]]\ntopic = \"#\"\ndevice = \"x\"\n\
            dictionaries = [\"a.zdict\"]\n[[destination]]\nname = \"away\"\ntype = \"nats\"\n\
            servers = [\"nats://h\"]\nstream = \"S\"\nsubject = \"s\"\ndictionary = \"a.zdict\"\n";
        fs::write(&file, text).unwrap();
        let missing = Config::load(Some(&file)).unwrap_err().to_string();
        assert_eq!(missing.matches("a.zdict").count(), 2, "{missing}");
        let config = ConfigFile {
            config: Some(file.clone()),
        };
        let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(SystemClock);
        let now = clock.now();
        let store = config.load_without_dictionaries().unwrap().store;
        let running = Store::open(store, clock).unwrap().0.run().unwrap();
        let entries = (0..2_000_u32).map(|n| {
            let mut event = event_of("b7", &[("temperature", f64::from(n))]);
            event.key.0[..4].copy_from_slice(&n.to_be_bytes());
            event.received = now;
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            Entry::Event(NewEvent {
                key: event.key,
                dedup: true,
                device: event.device,
                received: event.received,
                routes: Routes(1),
                body: body.into(),
                original: None,
                shed: None,
            })
        });
        let handle = running.handle();
        handle
            .append(entries.collect())
            .await
            .unwrap()
            .await
            .unwrap();
        running.shutdown().await.unwrap();
        let train = Train {
            out: dir.path().join("a.zdict"),
            events: Vec::new(),
            size: 8 * 1024,
            file: config,
        };
        train.run().unwrap();
        Config::load(Some(&file)).unwrap();
    }

    #[test]
    fn what_is_no_file_of_events_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (events, out) = (dir.path().join("events.txt"), dir.path().join("a.zdict"));
        for (text, expect) in [
            ("hello\n", "events.txt: not an event a line"),
            ("{}\n{}\n", "1 events are too few"),
        ] {
            fs::write(&events, text).unwrap();
            let error = train(&out, std::slice::from_ref(&events)).unwrap_err();
            assert!(format!("{error:#}").contains(expect), "{error:#}");
            assert!(!out.try_exists().unwrap());
        }
        assert!(size("1MiB").is_ok() && size("2MiB").is_err() && size("12B").is_err());
    }
}
