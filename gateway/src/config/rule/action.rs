//! What a rule does beside sending: `topic`, `[rule.transform]`, `[rule.alarm]`,
//! `[rule.command]`, `[rule.window]`.

use std::{path::Path, sync::Arc, time::Duration};

use super::command;
use crate::{
    config::{
        Seen, Stamp, read_text,
        reader::{Table, Text},
        unit::parse_duration,
    },
    rules::{
        Actions, Pattern,
        action::{Alarm, Bounds, Measure, Severity, Throttle, Topic, Window},
        transform::Transform,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const DAYS_MAX: Duration = Duration::from_hours(31 * 24);

/// Keys of which one is enough for a rule without destinations.
const ANY: [&str; 3] = ["topic", "alarm", "command"];

/// Whether the rule says that it does something beside sending, right or wrong.
pub(super) fn is_any(table: &Table<'_, '_, '_>) -> bool {
    ANY.iter().any(|key| table.span(key).is_some())
}

/// Reads it; files are relative to `dir`, and no command has more time than `deadline_max`.
pub(super) fn read(
    table: &Table<'_, '_, '_>,
    dir: &Path,
    files: &mut Seen,
    deadline_max: Duration,
) -> Actions {
    let retain = table.boolean("retain", false);
    let topic = table.parsed("topic", |text| Topic::parse(text, retain));
    if table.span("retain").is_some() && table.span("topic").is_none() {
        let what = "is for the message of topic, and there is none";
        table.mistake(table.span("retain").as_ref(), "retain", what);
    }
    let transform = transform(&table.table("transform"), dir, files);
    if transform.is_some() && table.span("topic").is_none() {
        let what = "is for the message of topic, and there is none";
        table.mistake(table.span("transform").as_ref(), "transform", what);
    }
    Actions {
        priority: priority(table),
        topic,
        transform: transform.map(Arc::new),
        alarm: alarm(&table.table("alarm")).map(Arc::new),
        command: command::read(&table.table("command"), deadline_max).map(Arc::new),
        window: window(table).map(Arc::new),
        throttle: throttle(table),
    }
}

/// How often it is done.
fn throttle(table: &Table<'_, '_, '_>) -> Option<Throttle> {
    const EXAMPLE: &str = "a throttle is written as \"1 per 10m\"";
    const TIMES_MAX: u32 = 1_000;
    let read = table.parsed("throttle", |text| {
        let (times, per) = text.split_once(" per ").ok_or_else(|| EXAMPLE.to_owned())?;
        let times = times.trim().parse().map_err(|_| EXAMPLE.to_owned())?;
        let per = parse_duration(per.trim()).map_err(|error| error.to_string())?;
        if !(1..=TIMES_MAX).contains(&times) {
            return Err(format!("{times} is not between 1 and {TIMES_MAX}"));
        }
        if !(SECOND..=DAYS_MAX).contains(&per) {
            return Err("its time is from 1s to 31d".to_owned());
        }
        let text = text.into();
        Ok(Throttle { times, per, text })
    });
    if table.span("throttle").is_some() && !is_any(table) {
        let what = "is for a topic, an alarm or a command, and there is none; what a rule sends to destinations is never throttled";
        table.mistake(table.span("throttle").as_ref(), "throttle", what);
    }
    read
}

/// The window.
fn window(rule: &Table<'_, '_, '_>) -> Option<Window> {
    let table = rule.table("window");
    if !table.is_present() {
        return None;
    }
    if !is_any(rule) && rule.span("destinations").is_none() {
        let what = "does nothing when it begins to hold; give the rule destinations, a topic, an alarm or a command";
        rule.mistake(rule.span("window").as_ref(), "window", what);
    }
    let absent = table.span("absent");
    let lasts = table.duration("absent", SECOND..=DAYS_MAX, SECOND);
    let over = table.span("over");
    let length = table.duration("over", SECOND..=DAYS_MAX, SECOND);
    let of: Option<Arc<str>> = table.text("of").map(|text| text.value.into());
    let samples_min = table.number("samples_min", 1..=1_000_000, 1);
    let mut asked = Vec::new();
    for key in ["count", "rate", "min", "max", "mean"] {
        if let Some(bounds) = table.parsed(key, Bounds::parse) {
            asked.push((key, bounds));
        }
    }
    let written = ["count", "rate", "min", "max", "mean"];
    let written: Vec<&str> = written
        .into_iter()
        .filter(|key| table.span(key).is_some())
        .collect();
    table.finish();
    let mistake = |key: &str, what: &str| {
        table.mistake(table.span(key).as_ref(), key, what);
        None
    };
    if absent.is_some() {
        let others = ["over", "of", "samples_min"].into_iter();
        let mut others = others
            .chain(written)
            .filter(|key| table.span(key).is_some());
        return match others.next() {
            Some(key) => mistake(key, "says nothing where absent does"),
            None => Some(Window::Absent(lasts)),
        };
    }
    let [(key, bounds)] = asked[..] else {
        return match written[..] {
            [] => mistake("", "needs one of absent, count, rate, min, max and mean"),
            [_] => None,
            [_, second, ..] => mistake(second, "one window asks for one thing; write another rule"),
        };
    };
    if over.is_none() {
        return mistake("over", "is missing; for example over = \"5m\"");
    }
    let what = match (key, of) {
        ("count", None) => Measure::Count,
        ("rate", None) => Measure::Rate,
        ("count" | "rate", Some(_)) => {
            return mistake("of", "is for min, max and mean; events are counted whole");
        }
        (_, None) => return mistake("of", "is missing; for example of = \"temperature\""),
        ("min", Some(of)) => Measure::Min(of),
        ("max", Some(of)) => Measure::Max(of),
        (_, Some(of)) => Measure::Mean(of),
    };
    Some(Window::Over {
        over: length,
        what,
        bounds,
        samples_min,
    })
}

/// The alarm.
fn alarm(table: &Table<'_, '_, '_>) -> Option<Alarm> {
    if !table.is_present() {
        return None;
    }
    let severity = table.word("severity", &Severity::WORDS, Severity::Warning);
    let paths = table.pairs("paths");
    let paths = paths.iter().map(|(name, path)| (&**name, &*path.value));
    let text = table.parsed("text", |text| Transform::new(paths, text));
    let clear = table.text("clear").and_then(|text| {
        let mistake = |error| table.mistake(Some(&text.span), "clear", error);
        Pattern::parse(&text.value).map_err(mistake).ok()
    });
    table.finish();
    Some(Alarm {
        severity,
        text,
        clear,
    })
}

fn priority(table: &Table<'_, '_, '_>) -> i32 {
    table.number("priority", 0..=1_000, 0)
}

/// The input transformer.
fn transform(table: &Table<'_, '_, '_>, dir: &Path, files: &mut Seen) -> Option<Transform> {
    if !table.is_present() {
        return None;
    }
    let paths = table.pairs("paths");
    let template = template(table, dir, files);
    table.finish();
    let (span, template) = template?;
    let paths = paths.iter().map(|(name, path)| (&**name, &*path.value));
    let read = Transform::new(paths, &template);
    let mistake = |error| table.mistake(Some(&span.span), "template", error);
    read.map_err(mistake).ok()
}

/// The template, here or in a file, and where it is said.
fn template(table: &Table<'_, '_, '_>, dir: &Path, files: &mut Seen) -> Option<(Text, String)> {
    let (inline, file) = (table.text("template"), table.text("template_file"));
    match (inline, file) {
        (Some(text), None) => {
            let template = text.value.clone();
            Some((text, template))
        }
        (None, Some(file)) if table.reader.is_foreign() => {
            let what = "a rule that is sent has its template in it";
            table.mistake(Some(&file.span), "template_file", what);
            None
        }
        (None, Some(file)) => {
            let path = dir.join(&file.value);
            files.insert(path.clone(), Stamp::of(&path));
            let mistake = |what| {
                let what = format!("{:?}: {what}", file.written);
                table.mistake(Some(&file.span), "template_file", what);
            };
            let text = read_text(&path).map_err(mistake).ok()?;
            Some((file, text))
        }
        (Some(_), Some(file)) => {
            let what = "either template or template_file";
            table.mistake(Some(&file.span), "template_file", what);
            None
        }
        (None, None) => {
            if table.span("template").is_none() && table.span("template_file").is_none() {
                let what = "is missing; for example template = '{\"text\": \"<device> is hot\"}'";
                table.mistake(None, "template", what);
            }
            None
        }
    }
}
