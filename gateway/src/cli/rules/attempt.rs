//! `penstock rules test` and `explain`: what rules make of one event.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    admin,
    cli::{ConfigFile, offline, output},
    clock::{Clock as _, SystemClock},
    config::Config,
    event::Timestamp,
    record::Position,
    rulebook,
    rules::{
        Matcher, NotMatched, Pattern, Rule, Scratch,
        explain::{Clause, Explained, explain},
        seen,
    },
};

/// Events and patterns are not longer than this.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Which rules, and which event.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The rules of this file instead of the configured ones: TOML with [[rule]], or
    /// one pattern as JSON
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// One pattern instead of the configured rules
    #[arg(long, value_name = "JSON", conflicts_with = "rules")]
    pattern: Option<String>,
    /// Only the rule of this name
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// The event at this position of the journal
    #[arg(long, value_name = "N", conflicts_with = "event")]
    position: Option<u64>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// A file with the event as a destination receives it; - is standard input
    #[arg(value_name = "EVENT", required_unless_present = "position")]
    event: Option<PathBuf>,
}

/// A rule and what it makes of the event.
#[derive(Debug, Serialize)]
struct Tried {
    rule: Arc<str>,
    destinations: Vec<Arc<str>>,
    /// Where the rule has a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Hour>,
    /// How often it does something for a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle: Option<Arc<str>>,
    #[serde(flatten)]
    explained: Explained,
}

/// What the hour at which an event was received is to the schedule of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Hour {
    /// It is in force then.
    Inside,
    /// It takes nothing then.
    Outside,
    /// Its window is followed then, and begins nothing.
    BeginsNothing,
    /// It sends, because the clock was not set; it does nothing else.
    Unknown,
}

impl Hour {
    fn of(rule: &Rule, received: Timestamp) -> Option<Self> {
        let schedule = rule.schedule.as_ref()?;
        Some(if schedule.is_open(received) {
            Self::Inside
        } else if rule.actions.window.is_some() {
            Self::BeginsNothing
        } else if schedule.is_closed(received) {
            Self::Outside
        } else {
            Self::Unknown
        })
    }
}

/// What rules make of the event.
#[derive(Debug, Serialize)]
struct Outcome {
    rules: Vec<Tried>,
    /// All of them together have too much to compare, if not one of them alone.
    too_much: bool,
}

/// What the gateway does where there is too much to compare.
const QUARANTINED: &str =
    "too much to compare, so the gateway quarantines the message (class limit)";

/// Says which rules take the event; fails where none does.
///
/// # Errors
/// When rules or event cannot be read.
pub(super) fn test(args: &Args) -> Result<ExitCode> {
    let outcome = outcome(args)?;
    if args.json {
        let rules = outcome.rules.iter().map(|one| {
            serde_json::json!({
                "rule": one.rule,
                "destinations": one.destinations,
                "fits": one.explained.fits,
                "schedule": one.schedule,
                "throttle": one.throttle,
            })
        });
        let rules: Vec<_> = rules.collect();
        let too_much = outcome.too_much;
        output::line(serde_json::json!({ "rules": rules, "too_much": too_much }));
    } else {
        outcome.say(verdict);
    }
    Ok(outcome.code())
}

/// Says the same clause by clause.
///
/// # Errors
/// When rules or event cannot be read.
pub(super) fn explained(args: &Args) -> Result<ExitCode> {
    let outcome = outcome(args)?;
    if args.json {
        output::line(serde_json::to_string(&outcome)?);
    } else {
        outcome.say(in_words);
    }
    Ok(outcome.code())
}

impl Tried {
    fn takes(&self) -> bool {
        self.explained.fits && self.schedule != Some(Hour::Outside)
    }
}

impl Outcome {
    fn say(&self, of_rule: fn(&Tried) -> String) {
        self.rules.iter().for_each(|one| output::line(of_rule(one)));
        if self.too_much {
            output::line(format_args!("all of them together: {QUARANTINED}"));
        }
    }

    fn code(&self) -> ExitCode {
        if !self.too_much && self.rules.iter().any(Tried::takes) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Whether the gateway would have too much to compare with all of some rules.
fn is_too_much(rules: &[Rule], event: &str) -> bool {
    let mut matcher = Matcher::default();
    (0..)
        .zip(rules)
        .for_each(|(n, rule)| matcher.add(n, &rule.pattern));
    let asked = matcher.each_of_json(event, &mut Scratch::default(), |_| {});
    matches!(asked, Err(NotMatched::TooMuch(_)))
}

fn outcome(args: &Args) -> Result<Outcome> {
    let event = event(args)?;
    let mut rules = rules(args)?;
    if let Some(name) = &args.rule {
        rules.retain(|rule| *rule.name == **name);
        anyhow::ensure!(!rules.is_empty(), "there is no rule {name:?}");
    }
    anyhow::ensure!(!rules.is_empty(), "there are no rules to ask");
    let received = received(&event);
    let one = |rule: Rule| {
        let explained = explain(&rule.pattern, &event);
        Ok(Tried {
            explained: explained.with_context(|| format!("rule {}: the event", rule.name))?,
            schedule: Hour::of(&rule, received),
            throttle: rule.actions.throttle.map(|throttle| throttle.text),
            rule: rule.name,
            destinations: rule.destinations,
        })
    };
    Ok(Outcome {
        too_much: is_too_much(&rules, &event),
        rules: rules.into_iter().map(one).collect::<Result<_>>()?,
    })
}

/// When an event says that it was received; one that does not say it might come now.
fn received(event: &str) -> Timestamp {
    #[derive(serde::Deserialize)]
    struct Said {
        recordedtime: Option<serde_json::Value>,
    }
    let said = serde_json::from_str::<Said>(event).ok();
    let said = said.and_then(|said| said.recordedtime);
    let said = said.as_ref().and_then(serde_json::Value::as_str);
    said.and_then(admin::parse_instant)
        .unwrap_or_else(|| SystemClock.now())
}

fn rules(args: &Args) -> Result<Vec<Rule>> {
    match (&args.pattern, &args.rules) {
        (Some(text), _) => alone("pattern", text),
        (None, Some(path)) => rules_of(path),
        (None, None) => {
            let config = args.file.load()?;
            let put = rulebook::put_in(&config.data_dir, &config)?;
            Ok(config.rules.into_iter().chain(put).collect())
        }
    }
}

/// A rule that is one pattern and sends nothing anywhere.
///
/// # Errors
/// When the text is no pattern.
pub(super) fn alone(name: &str, text: &str) -> Result<Vec<Rule>> {
    let pattern = Pattern::parse(text).with_context(|| format!("{name} is no pattern"))?;
    Ok(vec![Rule::to(name, pattern, Vec::new())])
}

/// The rules of a file: TOML with `[[rule]]`, or one pattern as JSON.
///
/// # Errors
/// When they cannot be read.
pub(super) fn rules_of(path: &Path) -> Result<Vec<Rule>> {
    let text = read(path)?;
    if text.trim_start().starts_with('{') {
        // No rule has a name like that, so that it takes no rule's place.
        alone(&format!("file {}", path.display()), &text)
    } else {
        Ok(Config::rules_of(path)?)
    }
}

/// The event's text as patterns see it.
fn event(args: &Args) -> Result<String> {
    if let Some(position) = args.position {
        let listing = offline::listing(&args.file.load()?)?;
        let record = listing.record(Position(position))?.with_context(|| {
            format!("the journal has no event at position {position}, or has it no more")
        })?;
        return Ok(seen::of_event(&record.event()?));
    }
    let path = args.event.as_deref().unwrap_or_else(|| Path::new("-"));
    seen::of_text(&read(path)?).with_context(|| format!("{} is no event", path.display()))
}

/// A file, or standard input.
fn read(path: &Path) -> Result<String> {
    let cannot = || format!("failed to read {}", path.display());
    let mut text = String::new();
    if path == Path::new("-") {
        let mut input = io::stdin().lock().take(TEXT_BYTES_MAX);
        input.read_to_string(&mut text).with_context(cannot)?;
    } else {
        let mut file = fs::File::open(path)
            .with_context(cannot)?
            .take(TEXT_BYTES_MAX);
        file.read_to_string(&mut text).with_context(cannot)?;
    }
    Ok(text)
}

fn verdict(one: &Tried) -> String {
    let takes = match (one.explained.fits, one.explained.too_much) {
        (_, true) => QUARANTINED,
        (true, false) if !one.takes() => "would take it, but it came outside its schedule",
        (true, false) => "takes it",
        (false, false) => "does not take it",
    };
    let mut line = format!("{}: {takes}", one.rule);
    if !one.takes() {
        return line;
    }
    if !one.destinations.is_empty() {
        line.push_str(", for ");
        line.push_str(&one.destinations.join(", "));
    }
    line.push_str(match one.schedule {
        Some(Hour::BeginsNothing) => "; outside its schedule its window begins nothing",
        Some(Hour::Unknown) => {
            "; the clock was not set, so that it sends only, whatever its schedule"
        }
        _ => "",
    });
    if let Some(throttle) = &one.throttle {
        let _fine = write!(line, "; it acts {throttle} for each device");
    }
    line
}

fn in_words(one: &Tried) -> String {
    let mut out = verdict(one);
    let ways = &one.explained.alternatives;
    for (n, way) in (1..).zip(ways) {
        let mut indent = "  ";
        if ways.len() > 1 {
            let fits = if way.fits { "fits" } else { "does not fit" };
            // Writing to a string cannot fail.
            let _fine = write!(out, "\n  way {n} of {}: {fits}", ways.len());
            indent = "    ";
        }
        for clause in &way.clauses {
            let _fine = write!(
                out,
                "\n{indent}{} {}: {}{}",
                output::tame(&clause.path),
                output::tame(&clause.clause),
                clause.verdict.words(),
                values(clause)
            );
        }
    }
    out
}

/// What is there, on the same line.
fn values(clause: &Clause) -> String {
    const SHOWN: usize = 5;
    let shown = clause.values.iter().take(SHOWN).map(|seen| {
        let at: String = seen.elements.iter().map(|n| format!("[{n}]")).collect();
        let space = if at.is_empty() { "" } else { " " };
        let mark = if seen.fits { "" } else { " (not)" };
        format!("{at}{space}{}{mark}", output::tame(&seen.value))
    });
    let shown: Vec<String> = shown.collect();
    match clause.count {
        0 => String::new(),
        count if count > shown.len() => {
            format!(
                "; there: {}, {} more",
                shown.join(", "),
                count - shown.len()
            )
        }
        _ => format!("; there: {}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rules: Option<&Path>, event: &Path) -> Args {
        Args {
            file: ConfigFile { config: None },
            rules: rules.map(Path::to_path_buf),
            pattern: None,
            rule: None,
            position: None,
            json: false,
            event: Some(event.to_path_buf()),
        }
    }

    #[test]
    fn rules_of_a_file_are_tried_without_a_configuration_and_explained_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, event) = (dir.path().join("rules.toml"), dir.path().join("event.json"));
        let text = r#"
            [[rule]]
            name = "hot"
            pattern = '{"device": ["b7"], "values": {"t": [{"numeric": [">", 80]}]}}'
            destinations = ["nowhere-yet"]
            [[rule]]
            name = "cold"
            pattern = '{"$or": [{"values": {"t": [{"numeric": ["<", 0]}]}}, {"site": ["x"]}]}'
            destinations = ["lake"]
        "#;
        fs::write(&rules, text).unwrap();
        let text = r#"{"device":"b7","data":{"m":[{"n":"t","v":90},{"n":"u","v":1}]}}"#;
        fs::write(&event, text).unwrap();
        let tried = outcome(&args(Some(&rules), &event)).unwrap().rules;
        let words: Vec<String> = tried.iter().map(in_words).collect();
        assert_eq!(
            words.join("\n"),
            r#"hot: takes it, for nowhere-yet
  device ["b7"]: fits; there: "b7"
  values.t [{"numeric":[">",80]}]: fits; there: 90
cold: does not take it
  way 1 of 2: does not fit
    values.t [{"numeric":["<",0]}]: no value fits; there: 90 (not)
  way 2 of 2: does not fit
    site ["x"]: the field is not there"#
        );
        let json = serde_json::to_value(&tried[1]).unwrap();
        assert_eq!(json["fits"], false);
        assert_eq!(json["alternatives"][1]["clauses"][0]["verdict"], "missing");
    }

    #[test]
    fn what_came_outside_the_schedule_of_a_rule_is_not_taken_and_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, event) = (dir.path().join("rules.toml"), dir.path().join("event.json"));
        let rule = r#"
            [[rule]]
            name = "night"
            pattern = '{"device": ["b7"]}'
            destinations = ["lake"]
            topic = "t"
            [rule.schedule]
            window = [{ opens = "0 22 * * *", length = "8h" }]
        "#;
        let rule = &rule.replace("topic =", "throttle = \"1 per 10m\"\n topic =");
        let windowed = rule.replace("night", "often").replace("throttle", "#")
            + "[rule.window]\nover = \"1m\"\ncount = \"> 5\"";
        fs::write(&rules, format!("{rule}{windowed}")).unwrap();
        let said = |received: &str| {
            let text = format!(r#"{{"device":"b7","recordedtime":"{received}"}}"#);
            fs::write(&event, text).unwrap();
            let outcome = outcome(&args(Some(&rules), &event)).unwrap();
            let said: Vec<String> = outcome.rules.iter().map(verdict).collect();
            (said.join("\n"), outcome.rules[0].takes())
        };
        let inside = "night: takes it, for lake; it acts 1 per 10m for each device\n\
            often: takes it, for lake";
        assert_eq!(said("2026-03-01T23:00:00Z"), (inside.to_owned(), true));
        let outside = "night: would take it, but it came outside its schedule\n\
            often: takes it, for lake; outside its schedule its window begins nothing";
        assert_eq!(said("2026-03-01T12:00:00Z"), (outside.to_owned(), false));
        let (unset, takes) = said("1970-01-01T00:05:00Z");
        assert!(
            takes && unset.contains("night: takes it, for lake; the clock was not set"),
            "{unset}"
        );
    }

    #[test]
    fn the_documentation_shows_what_explain_says() {
        let text = include_str!("../../../../docs/rules.md");
        let between = |from: &str, to: &str| {
            let (_, after) = text.split_once(from).unwrap();
            after.split_once(to).unwrap().0
        };
        let dir = tempfile::tempdir().unwrap();
        let event = dir.path().join("event.json");
        fs::write(&event, between("```json event\n", "\n```")).unwrap();
        let pattern = between("rules explain --pattern '", "' event.json\n");
        let args = Args {
            pattern: Some(pattern.to_owned()),
            ..args(None, &event)
        };
        let said = in_words(&outcome(&args).unwrap().rules[0]);
        let shown = between(&format!("{pattern}' event.json\n"), "\n```");
        assert_eq!(said, shown);
    }

    #[test]
    fn what_the_gateway_would_quarantine_is_said_and_no_rule_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, event) = (dir.path().join("rules.toml"), dir.path().join("event.json"));
        let rule = |name: &str, pattern: &str| {
            format!("[[rule]]\nname = \"{name}\"\npattern = '{pattern}'\ndestinations = [\"d\"]\n")
        };
        let text = rule("plain", r#"{"device": ["b7"]}"#)
            + &rule(
                "huge",
                r#"{"a": {"x": [1], "y": [{"exists": false}], "z": [{"anything-but": 2}]}}"#,
            );
        fs::write(&rules, text).unwrap();
        let elements = vec![r#"{"x":1,"z":1}"#; 2_000].join(",");
        let text = format!(r#"{{"device":"b7","a":[{elements}],"a":[{elements}]}}"#);
        fs::write(&event, text).unwrap();
        let outcome = outcome(&args(Some(&rules), &event)).unwrap();
        assert_eq!(in_words(&outcome.rules[1]), format!("huge: {QUARANTINED}"));
        assert!(outcome.rules[0].explained.fits && outcome.too_much);
        let code = |code: ExitCode| format!("{code:?}");
        assert_eq!(code(outcome.code()), code(ExitCode::FAILURE));
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(json["rules"][1]["too_much"], true);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, event) = (dir.path().join("rules.toml"), dir.path().join("event.json"));
        fs::write(&event, "{}").unwrap();
        for (text, part) in [
            ("", "rules.toml: rule: is missing"),
            ("[[rule]]\nname = \"a\"\n", "rule[1].pattern: is missing"),
            ("{\"a\": 5}", "rules.toml is no pattern"),
            ("= x", "rules.toml: not TOML"),
        ] {
            fs::write(&rules, text).unwrap();
            let error = outcome(&args(Some(&rules), &event)).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
        let error = outcome(&args(Some(&rules), &dir.path().join("none"))).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
