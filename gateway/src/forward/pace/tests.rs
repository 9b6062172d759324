use proptest::prelude::*;

use super::*;
use crate::hours::Cron;

fn at(text: &str) -> Timestamp {
    crate::admin::parse_instant(text).expect("an instant")
}

fn pace(config: Config, now: Instant) -> Pace {
    spent(config, Spent::default(), now)
}

fn spent(config: Config, spent: Spent, now: Instant) -> Pace {
    lane(&Arc::default(), Way::Rest, config, spent, now)
}

fn lane(place: &Arc<Place>, way: Way, config: Config, spent: Spent, now: Instant) -> Pace {
    place.allowance().join(way, &config, spent, now);
    Pace::new(config, place.clone(), way)
}

proptest! {
    #[test]
    fn over_time_no_more_goes_than_the_rate_and_a_second_and_what_went_last(
        rate in 1u64..2_000,
        sizes in proptest::collection::vec((1usize..3_000, 0u64..3_000), 1..60),
    ) {
        let start = Instant::now();
        let config = Config { bytes_per_sec: Some(rate), ..Config::default() };
        let mut pace = pace(config, start);
        let (mut now, mut sent, mut last) = (start, 0u64, 0u64);
        for (size, pause) in sizes {
            now += Duration::from_millis(pause);
            while let Err(closed) = pace.check(now, at("2026-03-01T00:00:00Z")) {
                let Closed::Rate(until) = closed else { panic!("{closed:?}") };
                prop_assert!(until > now, "it waits for something");
                now = until;
            }
            let allowed = u128::from(rate) * (now - start + Duration::from_secs(1)).as_nanos();
            prop_assert!(u128::from(sent - last) * 1_000_000_000 <= allowed + 1_000_000_000);
            pace.took(1, size, true);
            last = size as u64;
            sent += last;
        }
    }
}

#[test]
fn a_budget_is_for_a_day_or_a_month_of_its_time_zone_and_nothing_is_given_twice() {
    let berlin = TimeZone::get("Europe/Berlin").expect("bundled");
    let now = Instant::now();
    let with = |period| Config {
        budget: Some(Budget {
            bytes: 1_000,
            period,
        }),
        time_zone: berlin.clone(),
        ..Config::default()
    };
    let mut day = pace(with(Period::Day), now);
    let mut check = |wall: &str| day.check(now, at(wall));
    assert_eq!(check("2026-03-28T12:00:00Z"), Ok(()));
    day.took(1, 600, true);
    assert_eq!(day.batch_max().1, 400);
    assert_eq!(day.check(now, at("2026-03-28T12:00:01Z")), Ok(()));
    day.took(1, 600, true);
    // Berlin's midnight, and the day after has 23 hours.
    let closed = |until| Err(Closed::Budget(at(until)));
    assert_eq!(
        day.check(now, at("2026-03-28T22:59:59Z")),
        closed("2026-03-28T23:00:00Z")
    );
    assert_eq!(day.take_spent().map(|spent| spent.bytes), Some(1_200));
    assert_eq!(day.take_spent(), None);
    assert_eq!(day.check(now, at("2026-03-28T23:00:00Z")), Ok(()));
    day.took(1, 1_000, true);
    assert_eq!(
        day.check(now, at("2026-03-29T21:59:00Z")),
        closed("2026-03-29T22:00:00Z")
    );
    // A clock that is set back, or is not set at all, does not begin another day.
    assert!(day.check(now, at("2026-03-28T12:00:00Z")).is_err());
    assert!(day.check(now, at("1970-01-01T00:10:00Z")).is_err());

    // A clock that was years ahead for a moment shuts nothing for years.
    assert_eq!(day.check(now, at("2036-01-01T12:00:00Z")), Ok(()));
    day.took(1, 1_000, true);
    assert_eq!(
        day.check(now, at("2026-03-30T12:00:00Z")),
        closed("2026-03-30T22:00:00Z")
    );
    assert_eq!(day.check(now, at("2026-03-30T22:00:00Z")), Ok(()));

    // What was spent before a restart counts.
    let before = Spent {
        since: at("2026-02-28T23:00:00Z"),
        bytes: 1_000,
    };
    let mut month = spent(with(Period::Month), before, now);
    assert_eq!(
        month.check(now, at("2026-03-31T21:59:59Z")),
        closed("2026-03-31T22:00:00Z")
    );
    assert_eq!(month.check(now, at("2026-03-31T22:00:00Z")), Ok(()));
}

#[test]
fn windows_open_by_their_pattern_and_time_zone_for_their_length() {
    let window = |text: &str, hours: u64| Window {
        opens: Cron::parse(text).expect("a pattern"),
        length: Duration::from_secs(hours * 3600),
    };
    let now = Instant::now();
    let mut pace = pace(
        Config {
            windows: vec![window("0 22 * * *", 4), window("30 12 * * SAT,SUN", 1)],
            time_zone: TimeZone::get("Europe/Berlin").expect("bundled"),
            ..Config::default()
        },
        now,
    );
    let closed = |until| Err(Closed::Window(at(until)));
    // 2026-01-02 is a Friday; Berlin is an hour ahead.
    for (wall, expect) in [
        ("2026-01-02T20:59:59Z", closed("2026-01-02T21:00:00Z")),
        ("2026-01-02T21:00:00Z", Ok(())),
        ("2026-01-03T00:59:59Z", Ok(())),
        ("2026-01-03T01:00:00Z", closed("2026-01-03T11:30:00Z")),
        ("2026-01-03T11:30:00Z", Ok(())),
        ("2026-01-03T12:30:00Z", closed("2026-01-03T21:00:00Z")),
        // A clock that is set back is believed.
        ("2026-01-02T21:00:00Z", Ok(())),
    ] {
        assert_eq!(pace.check(now, at(wall)), expect, "{wall}");
    }
}

#[test]
fn lanes_share_what_a_place_may_be_sent_and_only_what_is_urgent_is_counted_by_itself() {
    let (now, wall) = (Instant::now(), at("2026-03-01T12:00:00Z"));
    let metered = Config {
        bytes_per_sec: Some(100),
        budget: Some(Budget {
            bytes: 1_000,
            period: Period::Month,
        }),
        ..Config::default()
    };
    let place = Arc::default();
    let of_live = Spent {
        since: at("2026-03-01T00:00:00Z"),
        bytes: 300,
    };
    let rest = Spent::default();
    let mut urgent = lane(&place, Way::Urgent, metered.without_hours(), rest, now);
    let mut live = lane(&place, Way::Live, metered.clone(), of_live, now);
    let mut rest = lane(&place, Way::Rest, metered, rest, now);
    assert_eq!(rest.check(now, wall), Ok(()));
    // What one lane takes of a second's worth is taken from all.
    urgent.took(1, 200, true);
    let later = now + Duration::from_secs(1);
    for pace in [&mut rest, &mut live, &mut urgent] {
        assert_eq!(pace.check(now, wall), Err(Closed::Rate(later)));
        assert_eq!(pace.check(later, wall), Ok(()));
    }
    assert_eq!(rest.batch_max().1, 100);
    // And of a month's: what the journal has of each is their sum.
    rest.took(1, 700, true);
    let done = later + Duration::from_secs(60);
    let closed = Err(Closed::Budget(at("2026-04-01T00:00:00Z")));
    assert_eq!(rest.check(done, wall), closed);
    assert_eq!(live.check(done, wall), closed);
    assert_eq!(urgent.check(done, wall), Ok(()));
    assert_eq!(rest.take_spent().map(|spent| spent.bytes), Some(700));
    assert_eq!(live.take_spent(), None);
    assert_eq!(urgent.take_spent().map(|spent| spent.bytes), Some(200));
    assert_eq!(live.check(done, at("2026-04-01T00:00:00Z")), Ok(()));
}
