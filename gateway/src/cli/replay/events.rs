//! `penstock replay --events`: events that the journal has, sent again.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Args;
use crate::{
    admin,
    archive::{Choice, Chosen, Identity, Replay, Selection},
    boots::Boots,
    cli::{offline, output},
    clock::{Clock as _, SystemClock},
    config::Config,
    event::percent_encode,
    rulebook,
    running::Running,
};

/// Events that are asked for at a time.
const PAGE: u32 = 1_000;
/// How long to wait where the destination has to take some first: twice as long each time.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Devices that a dry run tells apart.
const DEVICES_MAX: usize = 10_000;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.file.load()?;
    let chooses = [
        &args.from,
        &args.to,
        &args.device,
        &args.rule,
        &args.to_destination,
    ];
    if args.resume.is_some() && (args.dry_run || chooses.into_iter().any(Option::is_some)) {
        bail!("--resume goes on with what that replay chose: give nothing else but --rate");
    }
    if args.dry_run {
        return dry_run(args, config);
    }
    let running = Running::find(&config.data_dir)?
        .context("no gateway runs that could send them; --dry-run works without one")?;
    let begun = match &args.resume {
        Some(at) => json!({ "at": at }),
        None => running.request("POST", &format!("/api/v1/replays?{}", query(args)?))?,
    };
    let at = begun["at"].as_str().context("when it began")?.to_owned();
    if args.json {
        output::line(&begun);
    } else {
        output::line(format_args!(
            "replay {at}; should it be interrupted, --events --resume {at} goes on"
        ));
    }
    let mut next = String::from("/api/v1/replays/");
    percent_encode(&at, &mut next);
    let limit = args.rate.map_or(PAGE, |rate| rate.clamp(1, PAGE));
    next += &format!("/next?limit={limit}");
    let (mut copied, mut waits, mut pause) = (begun["copied"].as_u64(), false, PAUSE);
    loop {
        let done = running.request("POST", &next)?;
        let now = done["copied"].as_u64().unwrap_or(0);
        if done["done"] == true {
            sum_up(args, &done);
            return Ok(ExitCode::SUCCESS);
        }
        let of_page = now.saturating_sub(copied.unwrap_or(now));
        copied = Some(now);
        if done["page"] == "copied" {
            (waits, pause) = (false, PAUSE);
            if let Some(rate) = args.rate {
                std::thread::sleep(Duration::from_secs(of_page) / rate.max(1));
            }
            continue;
        }
        if !waits && !args.json {
            output::line(match done["page"].as_str() {
                Some("full") => "waiting for room to spare in the journal",
                _ => "waiting for the destination to take what is on its way",
            });
        }
        waits = true;
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn query(args: &Args) -> Result<String> {
    let Some(destination) = &args.to_destination else {
        bail!("say where to send them: --to-destination NAME");
    };
    let identity = serde_json::to_value(args.identity)?;
    let mut query = String::from("identity=");
    query += identity.as_str().unwrap_or_default();
    for (name, text) in [
        ("destination", Some(destination)),
        ("from", args.from.as_ref()),
        ("to", args.to.as_ref()),
        ("device", args.device.as_ref()),
        ("rule", args.rule.as_ref()),
    ] {
        if let Some(text) = text {
            query.push('&');
            query.push_str(name);
            query.push('=');
            percent_encode(text, &mut query);
        }
    }
    Ok(query)
}

fn sum_up(args: &Args, done: &Value) {
    if args.json {
        output::line(done);
        return;
    }
    let destination = output::tame(done["destination"].as_str().unwrap_or_default());
    output::line(format_args!(
        "{} events sent again to {destination}, behind what it was to get before them",
        done["copied"]
    ));
    if done["waiting"] != 0 {
        output::line(format_args!(
            "{} were on their way there for the first time, and were left at that",
            done["waiting"]
        ));
    }
    if done["damaged"] != 0 {
        output::line(format_args!(
            "{} rows of the journal cannot be read",
            done["damaged"]
        ));
    }
    if done["too_much"] != 0 {
        output::line(format_args!(
            "{} were left out: the rule has too much to compare in them",
            done["too_much"]
        ));
    }
    if done["gone"] == true {
        output::line(
            "some left the journal before they could be sent: they were kept for long enough, or more than half of size_max is used",
        );
    }
}

/// What would be sent, by reading the journal.
fn dry_run(args: &Args, config: Config) -> Result<ExitCode> {
    let instant = |text: &Option<String>| {
        let at = text.as_deref().and_then(admin::parse_instant);
        at.map(crate::event::Timestamp::as_nanos)
    };
    let choice = Choice {
        from: instant(&args.from),
        to: instant(&args.to),
        device: args.device.clone(),
        rule: args.rule.clone(),
        destination: args.to_destination.clone().unwrap_or_default(),
        identity: args.identity,
    };
    let listing = offline::listing(&config)?;
    let boots = Boots::of_dir(&config.data_dir);
    let put = rulebook::put_in(&config.data_dir, &config)?;
    let mut selection = Selection::new(&choice, |name| {
        let mut rules = config.rules.iter().chain(&put);
        let rule = rules.find(|rule| *rule.name == *name);
        rule.map(|rule| rule.pattern.clone())
    })?;
    let until = listing.last_position()?;
    let mut replay = Replay::new(SystemClock.now(), choice, until);
    let mut devices: BTreeMap<String, u64> = BTreeMap::new();
    let (mut events, mut others) = (0_u64, 0_u64);
    loop {
        let chosen = Chosen::read(&listing, &replay, PAGE as usize, &mut selection)?;
        replay.damaged += chosen.damaged;
        for record in chosen.records {
            let event = boots.repaired(record).event()?;
            events += 1;
            if let Some(count) = devices.get_mut(&*event.device) {
                *count += 1;
            } else if devices.len() < DEVICES_MAX {
                devices.insert(event.device.as_ref().to_owned(), 1);
            } else {
                others += 1;
            }
        }
        match chosen.next {
            Some(next) => replay.after = next.0,
            None => break,
        }
    }
    if args.json {
        output::line(json!({
            "events": events,
            "devices": devices,
            "other_devices": others,
            "damaged": replay.damaged,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let as_what = match args.identity {
        Identity::Same => "under the keys that they have",
        Identity::New => "as new events",
    };
    output::line(format_args!(
        "{events} events would be sent again, {as_what}"
    ));
    for (device, count) in &devices {
        output::line(format_args!("  device {}: {count}", output::tame(device)));
    }
    if others > 0 {
        output::line(format_args!("  other devices: {others}"));
    }
    if replay.damaged > 0 {
        output::line(format_args!(
            "{} rows of the journal cannot be read",
            replay.damaged
        ));
    }
    Ok(ExitCode::SUCCESS)
}
