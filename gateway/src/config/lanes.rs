//! `[[destination]]`: its lanes.

use std::time::Duration;

use super::{reader::Table, words::OneOf};
use crate::{
    class::{Class, Classes},
    forward::{self, Kind, Live},
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The classes that go by a lane of their own.
pub(super) fn urgent(table: &Table<'_, '_, '_>) -> Classes {
    if table.texts("urgent").is_some_and(|texts| texts.is_empty()) {
        let what = "names no class, so there is no lane; name one, or leave the key away";
        table.mistake(table.span("urgent").as_ref(), "urgent", what);
    }
    let classes =
        table
            .texts("urgent")
            .unwrap_or_default()
            .iter()
            .fold(Classes::NONE, |classes, text| {
                let class = table.parse("urgent", text, |text| {
                    let found = Class::WORDS.iter().find(|(word, _)| *word == text);
                    let words = || OneOf(Class::WORDS.iter().map(|(word, _)| *word).collect());
                    found
                        .map(|(_, class)| *class)
                        .ok_or_else(|| words().instead_of(text))
                });
                class.map_or(classes, |class| classes.with(class))
            });
    if classes.is_all() {
        let what = "with all classes nothing would be left that waits; leave the key away, and \
                    budget and windows too";
        table.mistake(table.span("urgent").as_ref(), "urgent", what);
    }
    classes
}

/// Whether what comes has a lane while the rest is behind, and which share of it all. Where
/// batches wait for `linger` to fill, nobody is behind for that.
pub(super) fn live(table: &Table<'_, '_, '_>, linger: Duration) -> Option<Live> {
    let share = table.parsed("live", |text| {
        let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
        let number = number.filter(|number| (1..=99).contains(number));
        number.ok_or("should be a part of what goes out, from \"1%\" to \"99%\"")
    });
    let least = 2 * linger;
    let after = table.duration("live_after", SECOND..=DAY, Live::AFTER.max(least));
    if after < least {
        let what = format!("should be at least {least:?}, which is twice linger");
        table.mistake(table.span("live_after").as_ref(), "live_after", what);
    }
    if table.span("live_after").is_some() && table.span("live").is_none() {
        let what = "is for a lane of what comes; for example live = \"25%\"";
        table.mistake(table.span("live_after").as_ref(), "live_after", what);
    }
    share.map(|share| Live { share, after })
}

/// Why a destination cannot have the lanes that it has keys for.
pub(super) fn mistakes(config: &forward::Config) -> Vec<(&'static str, &'static str)> {
    let keys = [
        ("urgent", config.urgent != Classes::NONE),
        ("live", config.live.is_some()),
    ];
    let asked = keys.into_iter().filter(|(_, is_asked)| *is_asked);
    asked
        .filter_map(|(key, _)| Some((key, no_lane(config, key)?)))
        .collect()
}

fn no_lane(config: &forward::Config, key: &str) -> Option<&'static str> {
    match &config.kind {
        Kind::File(_) if key == "live" => {
            Some("a directory has one writer, which is never behind for long")
        }
        Kind::File(_) => Some("a directory has one writer, and no link that is shut"),
        #[cfg(feature = "mqtt")]
        Kind::Mqtt(mqtt) if mqtt.server.client_id.is_some() => Some(
            "is sent by a second connection, which cannot have the same client_id; leave \
             client_id away",
        ),
        _ if config.sends_originals() && key == "urgent" => Some(
            "events have a class, and this destination gets messages as they came; leave \
             payload = \"original\" away",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    #[cfg(feature = "http")]
    use std::time::Duration;

    use crate::config::Config;
    #[cfg(feature = "http")]
    use crate::{
        config::named,
        forward::{self, Way},
    };

    fn read(keys: &str) -> Result<Config, String> {
        let text = format!("data_dir = \"/data\"\n[[destination]]\nname = \"lake\"\n{keys}");
        Config::from_text(&text, Path::new("/"), &|_| None).map_err(|said| said.to_string())
    }

    #[cfg(feature = "http")]
    #[test]
    fn what_is_urgent_has_a_lane_for_which_neither_budget_nor_hours_count() {
        let http = "type = \"http\"\nurl = \"https://lake.example/\"\n";
        let metered = "budget = \"1MiB\"\nrate_records = 5\nstart = \"oldest\"\n";
        let window = "[[destination.window]]\nopens = \"0 22 * * *\"\nlength = \"4h\"\n";
        let urgent = "urgent = [\"critical\", \"high\"]\n";
        let config = read(&format!("{http}{metered}{urgent}{window}")).unwrap();
        let [lake, lane] = &config.destinations[..] else {
            panic!("{:?}", config.destinations)
        };
        assert_eq!((&*lake.name, &*lane.name), ("lake", "lake.urgent"));
        assert_eq!(lane.lane_of.as_deref(), Some("lake"));
        assert_eq!(
            (lake.pacing.windows.len(), lane.pacing.windows.len()),
            (1, 0)
        );
        assert_eq!(lane.pacing.budget.unwrap().bytes, u64::MAX);
        assert_eq!(lane.pacing.records_per_sec, Some(5));
        assert_eq!(lane.start, lake.start);
        // The journal keeps a place for both, and rules speak of one.
        assert_eq!(config.store.destinations.len(), 3);
        assert_eq!(config.store.from_kept, ["lake".into()]);
        assert_eq!(named(&config.destinations), ["lake".into()]);
        let rule = "[[rule]]\nname = \"r\"\npattern = '{\"device\":[\"x\"]}'\n\
                    destinations = [\"lake.urgent\"]\n";
        let said = read(&format!("{http}{urgent}{rule}")).unwrap_err();
        assert!(said.contains("should be one of lake"), "{said}");
    }

    #[cfg(feature = "http")]
    #[test]
    fn what_comes_has_a_lane_with_the_budget_and_the_hours_of_the_rest() {
        let http = "type = \"http\"\nurl = \"https://lake.example/\"\n";
        let metered = "budget = \"1MiB\"\nstart = \"oldest\"\n";
        let window = "[[destination.window]]\nopens = \"0 22 * * *\"\nlength = \"4h\"\n";
        let both = "live = \"25%\"\nlive_after = \"2m\"\nurgent = [\"critical\"]\n";
        let config = read(&format!("{http}{metered}{both}{window}")).unwrap();
        let [lake, urgent, live] = &config.destinations[..] else {
            panic!("{:?}", config.destinations)
        };
        assert_eq!(
            (&*urgent.name, &*live.name),
            ("lake.urgent", "lake.live"),
            "three at one place"
        );
        let ways = [lake, urgent, live].map(forward::Config::way);
        assert_eq!(ways, [Way::Rest, Way::Urgent, Way::Live]);
        let asked = forward::Live {
            share: 25,
            after: Duration::from_secs(120),
        };
        assert_eq!(live.live, Some(asked));
        assert_eq!(live.pacing.windows.len(), 1);
        assert_eq!(live.pacing.budget.unwrap().bytes, 1 << 20);
        assert_eq!(named(&config.destinations), ["lake".into()]);
        assert_eq!(config.store.from_kept, ["lake".into()]);
        let after = |keys: &str| {
            let config = read(&format!("{http}live = \"1%\"\n{keys}"));
            config.map(|config| config.destinations[0].live.unwrap().after)
        };
        assert_eq!(after(""), Ok(forward::Live::AFTER));
        // What waits for its batch to fill is not behind for that.
        let lingering = "linger = \"1m\"\n";
        assert_eq!(after(lingering), Ok(Duration::from_secs(120)));
        let short = after(&format!("{lingering}live_after = \"119s\"\n")).unwrap_err();
        let what = "destination[1].live_after: should be at least 120s, which is twice linger";
        assert!(short.contains(what), "{short}");
    }

    #[test]
    fn what_cannot_have_a_lane_says_why() {
        let check = |keys: &str, part: &str| {
            let said = read(keys).unwrap_err();
            assert!(said.contains(part), "{said}");
        };
        let file = "type = \"file\"\npath = \"lake\"\n";
        check(
            &format!("{file}urgent = [\"critical\"]\n"),
            "destination[1].urgent: a directory has one writer",
        );
        check(
            &format!("{file}urgent = []\n"),
            "destination[1].urgent: names no class",
        );
        check(
            &format!("{file}urgent = [\"urgent\"]\n"),
            "should be one of low, normal, high, critical",
        );
        check(
            &format!("{file}urgent = [\"low\", \"normal\", \"high\", \"critical\"]\n"),
            "nothing would be left that waits",
        );
        check(
            &format!("{file}live = \"25%\"\n"),
            "destination[1].live: a directory has one writer",
        );
        for part in ["25", "0%", "100%", "a%", ""] {
            check(
                &format!("{file}live = \"{part}\"\n"),
                "should be a part of what goes out, from \"1%\" to \"99%\"",
            );
        }
        check(
            &format!("{file}live_after = \"1m\"\n"),
            "destination[1].live_after: is for a lane of what comes",
        );
    }
}
