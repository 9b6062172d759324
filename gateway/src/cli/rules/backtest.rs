//! `penstock rules backtest`: what rules would make of the events that the journal has.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::attempt::{alone, rules_of};
use crate::{
    admin,
    backtest::{Asked, Backtest, PATTERN, Report, Tally},
    boots::Boots,
    cli::{ConfigFile, offline, output},
    event::Timestamp,
    record::Position,
    rulebook,
};

/// Records that are read at a time.
const RECORDS: usize = 1_000;
/// Devices of a rule that are shown to a person: those with the most events.
const DEVICES_SHOWN: usize = 10;
/// Hours of a rule that are shown to a person: the latest.
const HOURS_SHOWN: usize = 24;

/// Which rules, and which events.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// What would change: rules that take the place of those of the same name, or come
    /// beside those in force; TOML with [[rule]], or one pattern as JSON. Without it the
    /// rules in force are told of
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// One pattern that would come beside the rules in force
    #[arg(long, value_name = "JSON", conflicts_with = "rules")]
    pattern: Option<String>,
    /// Tell only of the rule of this name
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Events received then or later, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Events received before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// Events of this device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    admin::parse_instant(text).ok_or("a time is written 2026-03-01T12:00:00Z")
}

/// Asks, and says what came of it.
///
/// # Errors
/// When rules or journal cannot be read.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let report = report(args)?;
    if args.json {
        output::line(serde_json::to_string(&report)?);
    } else {
        in_words(&report)
            .iter()
            .for_each(|line| output::line(output::tame(line)));
    }
    Ok(ExitCode::SUCCESS)
}

fn report(args: &Args) -> Result<Report> {
    let config = args.file.load()?;
    let put = rulebook::put_in(&config.data_dir, &config)?;
    let changes = match (&args.pattern, &args.rules) {
        (Some(text), _) => alone(PATTERN, text)?,
        (None, Some(path)) => rules_of(path)?,
        (None, None) => Vec::new(),
    };
    let listing = offline::listing(&config)?;
    let mut backtest = Backtest::new(Asked {
        destinations: crate::config::named(&config.destinations),
        in_force: config.rules.into_iter().chain(put).collect(),
        changes,
        only: args.rule.clone(),
    })?;
    let boots = Boots::of_dir(&config.data_dir);
    let until = listing.last_position()?;
    let received = args.from.unwrap_or(Timestamp::from_nanos(i64::MIN))
        ..args.to.unwrap_or(Timestamp::from_nanos(i64::MAX));
    let mut after = Position(0);
    loop {
        let page = listing.history(after, until, RECORDS, &received)?;
        backtest.damaged(page.damaged.len() as u64);
        for record in page.records {
            if args
                .device
                .as_deref()
                .is_none_or(|device| record.is_of(device))
            {
                backtest.ask(&boots.repaired(record));
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(backtest.report()),
        }
    }
}

fn in_words(report: &Report) -> Vec<String> {
    let span = match (&report.first, &report.last) {
        (Some(first), Some(last)) => format!(", received from {first} to {last}"),
        _ => String::new(),
    };
    let mut lines = vec![format!("{} events of the journal{span}", report.events)];
    if report.damaged > 0 {
        lines.push(format!(
            "{} rows of the journal cannot be read",
            report.damaged
        ));
    }
    for (count, when) in [
        (Some(report.too_much), "by the rules in force"),
        (report.too_much_then, "after the change"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            lines.push(format!(
                "{count} of them would be quarantined {when}: too much to compare"
            ));
        }
    }
    report
        .rules
        .iter()
        .for_each(|tally| of_rule(tally, &mut lines));
    for one in &report.destinations {
        lines.push(match one.then {
            None => format!("{} gets {}", one.name, one.in_force),
            Some(then) if then == one.in_force => {
                format!("{} gets {then}, as by the rules in force", one.name)
            }
            Some(then) => format!(
                "{} gets {then}; {} by the rules in force",
                one.name, one.in_force
            ),
        });
    }
    lines
}

fn of_rule(tally: &Tally, lines: &mut Vec<String>) {
    let mut line = format!("rule {} takes {}", tally.rule, tally.takes);
    if let (Some(in_force), Some(gained), Some(lost)) = (tally.in_force, tally.gained, tally.lost) {
        line += &format!("; the one in force takes {in_force}: {gained} more, {lost} no longer");
    }
    lines.push(line);
    let mut devices: Vec<_> = tally.devices.iter().collect();
    devices.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = devices.len().min(DEVICES_SHOWN);
    for (device, count) in &devices[..shown] {
        lines.push(format!("  device {device}: {count}"));
    }
    let rest = devices[shown..]
        .iter()
        .map(|(_, count)| **count)
        .sum::<u64>()
        + tally.other_devices;
    if rest > 0 {
        lines.push(format!("  other devices: {rest}"));
    }
    let before = tally.hours.len().saturating_sub(HOURS_SHOWN);
    let earlier: u64 = tally.hours.values().take(before).sum();
    if earlier + tally.other_hours > 0 {
        lines.push(format!("  other hours: {}", earlier + tally.other_hours));
    }
    for (hour, count) in tally.hours.iter().skip(before) {
        lines.push(format!("  hour from {hour}: {count}"));
    }
    for one in &tally.examples {
        let kind = match one.kind {
            "lost" => "no longer taken",
            "gained" => "taken only then",
            "both" => "taken as before",
            _ => "taken",
        };
        lines.push(format!(
            "  {kind}: {} of {}, at position {}",
            one.kind_of_event, one.device, one.position
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::{
        app,
        clock::{Clock, SystemClock},
        config::Config,
        event::{BOOT_TAG, Event, Marks, UPTIME_TAG},
        record::{DestinationId, Routes},
        rules::tests::event_of,
        store::{Entry, NewEvent, Store},
    };

    /// A configuration with a rule, and a journal with events.
    async fn place(dir: &std::path::Path) -> PathBuf {
        let events = [("b7", 90.0), ("b7", 85.0), ("b8", 20.0), ("b8", 90.0)];
        place_with(dir, events.map(|(device, t)| event_of(device, &[("t", t)]))).await
    }

    async fn place_with<const N: usize>(dir: &std::path::Path, events: [Event; N]) -> PathBuf {
        let file = dir.join("penstock.toml");
        let text = r#"
data_dir = "data"
[store]
age_max = "never"
[[destination]]
name = "lake"
type = "file"
path = "lake"
[[rule]]
name = "hot"
pattern = '{"values": {"t": [{"numeric": [">", 80]}]}}'
destinations = ["lake"]
"#;
        fs::write(&file, text).unwrap();
        let config = Config::load(Some(&file)).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, report) = Store::open(config.store, clock).unwrap();
        app::announce(&report);
        let store = store.run().unwrap();
        let entries = events.map(|event| {
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            Entry::Event(NewEvent {
                key: event.key,
                dedup: false,
                device: event.device,
                received: event.received,
                routes: Routes::NONE.with(DestinationId(0)),
                body: body.into(),
                original: None,
                shed: None,
            })
        });
        let receipt = store.handle().append(entries.into()).await.unwrap();
        receipt.await.unwrap();
        store.shutdown().await.unwrap();
        file
    }

    fn args(file: PathBuf) -> Args {
        Args {
            file: ConfigFile { config: Some(file) },
            rules: None,
            pattern: None,
            rule: None,
            from: None,
            to: None,
            device: None,
            json: false,
        }
    }

    #[tokio::test]
    async fn a_change_of_a_rule_is_tried_on_the_journal_before_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = place(dir.path()).await;
        let rules = dir.path().join("new.toml");
        let text = r#"
[[rule]]
name = "hot"
pattern = '{"device": ["b7"], "values": {"t": [{"numeric": [">", 86]}]}}'
destinations = ["lake"]
"#;
        fs::write(&rules, text).unwrap();
        let changed = Args {
            rules: Some(rules),
            ..args(file.clone())
        };
        let words = in_words(&report(&changed).unwrap()).join("\n");
        assert_eq!(
            words,
            "4 events of the journal, received from 2026-03-01T12:00:00Z to 2026-03-01T12:00:00Z
rule hot takes 1; the one in force takes 3: 0 more, 2 no longer
  device b7: 1
  hour from 2026-03-01T12:00:00Z: 1
  taken as before: telemetry of b7, at position 1
  no longer taken: telemetry of b7, at position 2
  no longer taken: telemetry of b8, at position 4
lake gets 1; 3 by the rules in force"
        );
        let in_force = report(&args(file.clone())).unwrap();
        assert_eq!((in_force.events, in_force.rules[0].takes), (4, 3));
        let of_one = Args {
            device: Some("b8".into()),
            ..args(file.clone())
        };
        let of_one = report(&of_one).unwrap();
        assert_eq!((of_one.events, of_one.rules[0].takes), (2, 1));
        let later = Args {
            from: admin::parse_instant("2026-03-01T12:00:01Z"),
            pattern: Some(r#"{"device": ["b7"]}"#.into()),
            ..args(file)
        };
        assert_eq!(report(&later).unwrap().events, 0);
    }

    #[tokio::test]
    async fn what_came_before_the_clock_was_set_has_the_time_at_which_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let early = Event {
            received: Timestamp::from_millis(30_000),
            marks: Marks::CLOCK_UNSET,
            tags: vec![
                (BOOT_TAG.into(), "this".into()),
                (UPTIME_TAG.into(), "60000".into()),
            ],
            ..event_of("b7", &[("t", 90.0)])
        };
        let file = place_with(dir.path(), [early]).await;
        let noon = Timestamp::from_millis(1_772_366_400_000).as_nanos();
        fs::write(
            dir.path().join("data/gateway.boot"),
            format!("this {noon}\n"),
        )
        .unwrap();
        let report = report(&args(file)).unwrap();
        assert_eq!(report.first.as_deref(), Some("2026-03-01T12:01:00Z"));
    }
}
