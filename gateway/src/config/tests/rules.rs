//! Rules, and the files that their patterns are in.

use super::*;

#[test]
fn mistakes_in_rules_are_said_with_their_place_in_the_pattern() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.json"), r#"{"device": ["b7"]}"#).unwrap();
    fs::write(dir.path().join("bad.json"), "{\n  \"device\": \"b7\"\n}").unwrap();
    let text = r#"
[[destination]]
name = "lake"
type = "file"
path = "lake"
[[rule]]
name = "good"
pattern_file = "good.json"
destinations = ["lake"]
[[rule]]
name = "good"
pattern = '{"device": [{"prefx": "b"}]}'
destinations = ["lak"]
[[rule]]
name = "Bad name"
pattern_file = "bad.json"
destinations = []
[[rule]]
pattern = """
{"a": [1],
 "b": []}"""
pattern_file = "good.json"
destination = "lake"
[[rule]]
name = "file"
pattern_file = "missing.json"
destinations = ["lake", "lake"]
[[rule]]
name = "neither"
pattern = """
{"a": [1],
 "b": []}"""
destinations = ["lake"]
[[rule]]
name = "none"
destinations = ["lake"]
"#;
    let mistakes = Config::from_text(text, dir.path(), &env).unwrap_err();
    assert_snapshot!(mistakes.to_string(), @r#"
    configuration:11: rule[2].name: rule[1] is named "good" as well
    configuration:12: rule[2].pattern: line 1, column 14: "prefx" is no operator; known are exists, prefix, suffix, equals-ignore-case, wildcard, numeric, cidr, anything-but and exactly
    configuration:13: rule[2].destinations: "lak" should be one of lake; did you mean "lake"?
    configuration:15: rule[3].name: "Bad name": a name has 1 to 64 lower-case letters, digits, "-" and "_"
    configuration:16: rule[3].pattern_file: "bad.json": line 2, column 13: "device" should be an object or an array of values, not a text
    configuration:17: rule[3].destinations: a rule names at least one destination
    configuration:18: rule[4].name: is missing; for example name = "hot"
    configuration:18: rule[4].destinations: is missing; for example destinations = ["events"], or topic = "hot/{device}"
    configuration:22: rule[4].pattern_file: either pattern or pattern_file
    configuration:23: rule[4].destination: is not a key; did you mean "destinations"?
    configuration:26: rule[5].pattern_file: "missing.json": cannot be read: No such file or directory (os error 2)
    configuration:27: rule[5].destinations: "lake" is named twice
    configuration:30: rule[6].pattern: line 2, column 7: an empty array fits nothing; for a field that is not there write [{"exists": false}]
    configuration:34: rule[7].pattern: is missing; for example pattern = '{"device": ["b7"]}', or pattern_file = "hot.json"
    "#);
}

#[test]
fn rules_come_with_their_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hot.json"), r#"{"device": ["b7"]}"#).unwrap();
    let text = r#"
rule = [
    { name = "hot", pattern_file = "hot.json", destinations = ["events"] },
    { name = "or", pattern = '{"$or": [{"a": [1]}, {"b": [2]}]}', destinations = ["events"] },
]
"#;
    let config = Config::from_text(text, dir.path(), &env).unwrap();
    assert!(config.read_from.contains_key(&dir.path().join("hot.json")));
    let pattern = crate::rules::Pattern::parse(r#"{"device": ["b7"]}"#).unwrap();
    assert_eq!(
        (&*config.rules[0].name, &config.rules[0].pattern),
        ("hot", &pattern)
    );
    assert_eq!(config.rules[1].destinations, ["events".into()]);
}

#[test]
fn a_schedule_has_the_hours_of_a_destination_and_says_its_mistakes_with_their_lines() {
    let good = r#"
[[rule]]
name = "night"
pattern = '{"device": ["b7"]}'
destinations = ["events"]
[rule.schedule]
time_zone = "Europe/Berlin"
window = [{ opens = "0 22 * * MON-FRI", length = "8h" }]
"#;
    let config = Config::from_text(good, Path::new("."), &env).unwrap();
    let schedule = config.rules[0].schedule.as_deref().unwrap();
    let is_open = |at: &str| schedule.is_open(crate::admin::parse_instant(at).unwrap());
    assert!(is_open("2026-03-02T21:00:00Z") && !is_open("2026-03-01T21:00:00Z"));
    // The same as it is put over the API.
    let json = r#"{"name": "night", "pattern": {"device": ["b7"]}, "destinations": ["events"],
        "schedule": {"time_zone": "Europe/Berlin",
                     "window": [{"opens": "0 22 * * MON-FRI", "length": "8h"}]}}"#;
    let put = Config::rule_of_json(json, &["events".into()]).unwrap();
    assert_eq!(put, config.rules[0]);

    let rule = "[[rule]]\nname = \"NAME\"\npattern = '{\"device\": [\"b7\"]}'\ntopic = \"t\"\n";
    let text = [
        "[rule.schedule]\ntime_zone = \"Mars\"\n",
        "[rule.schedule]\nwindow = []\n",
        "throttle = \"often\"\n",
        "throttle = \"0 per 10m\"\n",
        "throttle = \"1 per 10\"\n",
        "throttle = \"1 per 60d\"\n",
        "[[rule.schedule.window]]\nopens = \"0 25 * * *\"\n",
        // Never: day and month are exchanged, say.
        "[rule.schedule]\nwindow = [{ opens = \"0 8 30 2 *\", length = \"1h\" }]\n",
        "[rule.schedule]\nwindows = 5\nwindow = [{ opens = \"0 8 * * *\", length = \"1h\" }]\n\
         [rule.window]\nabsent = \"1h\"\n",
    ];
    let sends = "[[rule]]\nname = \"sends\"\npattern = '{\"device\": [\"b7\"]}'\ndestinations = [\"events\"]\nthrottle = \"1 per 1m\"\n";
    let text: String = (0..).zip(text).fold(String::new(), |all, (n, one)| {
        all + &rule.replace("NAME", &format!("r{n}")) + one
    }) + sends;
    let mistakes = Config::from_text(&text, Path::new("."), &env).unwrap_err();
    assert_snapshot!(mistakes.to_string(), @r#"
    configuration:5: rule[1].schedule.window: is missing; for example window = [{ opens = "0 22 * * *", length = "8h" }]
    configuration:6: rule[1].schedule.time_zone: "Mars": not a time zone; for example "+01:00", "UTC" or "Europe/Berlin"
    configuration:11: rule[2].schedule.window: names at least one; for example window = [{ opens = "0 22 * * *", length = "8h" }]
    configuration:17: rule[3].throttle: "often": a throttle is written as "1 per 10m"
    configuration:22: rule[4].throttle: "0 per 10m": 0 is not between 1 and 1000
    configuration:27: rule[5].throttle: "1 per 10": a duration is a number and a unit: 500ms, 30s, 5m, 24h or 7d
    configuration:32: rule[6].throttle: "1 per 60d": its time is from 1s to 31d
    configuration:37: rule[7].schedule.window[1].length: is missing; for example length = "4h"
    configuration:38: rule[7].schedule.window[1].opens: "0 25 * * *": "25" is no number from 0 to 23; five fields say minute, hour, day of the month, month and day of the week, such as "0 22 * * *" for ten every night
    configuration:44: rule[8].schedule.window[1].opens: "0 8 30 2 *": names no day that there is; five fields say minute, hour, day of the month, month and day of the week, such as "0 22 * * *" for ten every night
    configuration:50: rule[9].schedule.windows: is not a key; did you mean "window"?
    configuration:53: rule[9].window.absent: is not shorter than every window of the rule's schedule, so that it might never be told; silence counts from when one opens
    configuration:58: rule[10].throttle: is for a topic, an alarm or a command, and there is none; what a rule sends to destinations is never throttled
    "#);
}
