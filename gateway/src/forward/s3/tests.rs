//! The destination against a bucket in this process.

mod place;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::place::{Mood, Place};
use super::*;
use crate::{
    forward::{
        aws::Keys,
        batch::Item,
        testing::{Model, TestClock, batch, engine, record},
    },
    record::Position,
};

fn config(url: &str, dir: &TempDir) -> Config {
    let mut config = Config::new("lake", dir.path().join("plans"));
    config.account = Account {
        region: Some("eu-central-1".to_owned()),
        endpoint: Some(url.to_owned()),
        keys: Some(Keys {
            id: "AKIA".to_owned(),
            secret: "secret".into(),
            token: None,
        }),
        timeout: Duration::from_secs(5),
        ..Account::default()
    };
    config.path_style = true;
    config.linger = Duration::from_millis(2);
    config
}

fn s3(config: Config) -> S3 {
    S3::new(config, Arc::new(TestClock(Instant::now()))).unwrap()
}

const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

#[tokio::test]
async fn an_object_has_the_lines_of_its_events_in_every_format_and_says_when_and_where_it_begins() {
    for (suffix, format) in Format::WORDS {
        let (place, dir) = (Place::default(), TempDir::new().unwrap());
        let server = place.serve([]).await;
        let mut config = config(&server.url, &dir);
        config.format = format;
        config.headers = vec![("x-amz-storage-class".to_owned(), "STANDARD_IA".into())];
        let outcomes = s3(config).send(batch(1..=3)).await.unwrap();
        assert_eq!(outcomes, vec![ACKNOWLEDGED; 3]);
        let [name] = &place.names()[..] else {
            panic!("one object");
        };
        let begins = "telemetry/2023/11/14/22/00000000000000000001-20231114T221320Z-";
        assert!(name.starts_with(begins), "{name}");
        assert!(name.ends_with(&format!(".{suffix}")), "{name}");
        assert_eq!(place.positions(), [1, 2, 3]);
        let event = &place.events_of(name)[0];
        assert_eq!(event["eventkey"], record(1, 1).key.to_string());
        assert_eq!(place.last_headers()["x-amz-storage-class"], "STANDARD_IA");
    }
}

#[tokio::test]
async fn a_batch_is_an_object_for_each_prefix_and_taken_as_a_whole() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let server = place
        .serve([Mood::Fine, Mood::Answers(500, "InternalError")])
        .await;
    let mut config = config(&server.url, &dir);
    config.prefix = Prefix::parse("{device}/").unwrap();
    config.in_flight = 1;
    let s3 = s3(config);
    let of_devices = [(1, 1), (2, 2), (3, 1)];
    let batch = Batch {
        items: of_devices
            .map(|(n, device)| Item::check(record(n, device)).unwrap())
            .into(),
    };
    let outcomes = s3.send(batch.clone()).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    let outcomes = s3.send(batch).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 3]);
    assert_eq!(place.positions(), [1, 3, 2]);
    // What was there already was not put again.
    assert_eq!(place.puts().len(), 3);
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_object() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let server = place.serve([Mood::DropsTheConnection]).await;
    let s3 = s3(config(&server.url, &dir));
    let outcomes = s3.send(batch(1..=3)).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    s3.send(batch(1..=3)).await.unwrap();
    // It is there, so it is not announced a second time.
    assert_eq!(place.puts().len(), 1);
    assert_eq!(place.names().len(), 1);
}

/// Puts a batch that ends without an answer, as a crash would end it.
async fn put_without_answer(
    place: &Place,
    dir: &TempDir,
    positions: std::ops::RangeInclusive<u64>,
    mood: Mood,
) {
    let server = place.serve([mood]).await;
    let outcomes = s3(config(&server.url, dir)).send(batch(positions)).await;
    assert!(outcomes.is_err(), "{outcomes:?}");
}

#[tokio::test]
async fn a_larger_batch_after_a_crash_makes_the_object_of_before_again_and_another_of_the_rest() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    put_without_answer(&place, &dir, 1..=3, Mood::DropsTheConnection).await;
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    assert_eq!(s3.send(batch(1..=6)).await.unwrap(), vec![ACKNOWLEDGED; 6]);
    assert_eq!(place.names().len(), 2);
    assert_eq!(place.positions(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((place.heads().len(), place.puts().len()), (1, 2));
}

#[tokio::test]
async fn objects_of_before_are_there_before_those_of_after_are_put() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let failed = Mood::Answers(500, "InternalError");
    put_without_answer(&place, &dir, 1..=3, failed).await;
    let server = place.serve([Mood::Answers(503, "SlowDown")]).await;
    let s3 = s3(config(&server.url, &dir));
    let outcomes = s3.send(batch(1..=6)).await;
    assert!(outcomes.is_err(), "{outcomes:?}");
    assert!(place.names().is_empty(), "{:?}", place.names());
    assert_eq!(s3.send(batch(1..=6)).await.unwrap(), vec![ACKNOWLEDGED; 6]);
    assert_eq!(place.positions(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_answer_about_a_clock_says_nothing_of_an_object() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    put_without_answer(&place, &dir, 1..=4, Mood::DropsTheConnection).await;
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    place.says_of_asking(Some("RequestTimeTooSkewed"));
    let outcomes = s3.send(batch(1..=2)).await;
    assert!(
        matches!(outcomes, Err(Error::Misconfigured(_))),
        "{outcomes:?}"
    );
    place.says_of_asking(None);
    assert_eq!(s3.send(batch(1..=2)).await.unwrap(), vec![ACKNOWLEDGED; 2]);
    assert_eq!(place.puts().len(), 1);
    assert_eq!(place.positions(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn what_was_planned_is_known_however_late_it_comes() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    put_without_answer(&place, &dir, 1..=4, Mood::DropsTheConnection).await;
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    for positions in [vec![1, 2, 4], vec![5, 6], vec![3, 7]] {
        let count = positions.len();
        assert_eq!(
            s3.send(batch(positions)).await.unwrap(),
            vec![ACKNOWLEDGED; count]
        );
    }
    assert_eq!(place.positions(), [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_smaller_batch_after_a_crash_asks_whether_the_object_is_there() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    put_without_answer(&place, &dir, 1..=4, Mood::DropsTheConnection).await;
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    assert_eq!(s3.send(batch(1..=2)).await.unwrap(), vec![ACKNOWLEDGED; 2]);
    assert_eq!(s3.send(batch(3..=5)).await.unwrap(), vec![ACKNOWLEDGED; 3]);
    assert_eq!(place.positions(), [1, 2, 3, 4, 5]);
    assert_eq!(place.puts().len(), 1 + 1);
}

#[tokio::test]
async fn an_object_that_was_planned_and_never_put_is_made_of_what_comes_again() {
    for may_ask in [true, false] {
        let (place, dir) = (Place::default(), TempDir::new().unwrap());
        let failed = Mood::Answers(500, "InternalError");
        put_without_answer(&place, &dir, 1..=4, failed).await;
        if !may_ask {
            place.says_of_asking(Some("AccessDenied"));
        }
        let server = place.serve([]).await;
        let s3 = s3(config(&server.url, &dir));
        // Two of the four are no longer in the journal.
        assert_eq!(s3.send(batch([2, 4])).await.unwrap(), vec![ACKNOWLEDGED; 2]);
        assert_eq!(place.positions(), [2, 4]);
    }
}

#[tokio::test]
async fn a_plan_that_a_crash_left_unfinished_is_cut_off() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    put_without_answer(&place, &dir, 1..=3, Mood::DropsTheConnection).await;
    let plans = dir.path().join("plans");
    let [file] = &std::fs::read_dir(&plans)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>()[..]
    else {
        panic!("one file");
    };
    let whole = std::fs::read(file).unwrap();
    let torn = [&whole[..], &whole[..whole.len() / 2]].concat();
    std::fs::write(file, torn).unwrap();
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    s3.send(batch(1..=5)).await.unwrap();
    assert_eq!(place.positions(), [1, 2, 3, 4, 5]);
    let again = std::fs::read(file).unwrap();
    assert!(again.starts_with(&whole));
    assert_eq!(place.names().len(), 2);
}

#[tokio::test]
async fn plans_do_not_grow_without_end() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let server = place.serve([]).await;
    let s3 = s3(config(&server.url, &dir));
    for n in 0..12 {
        let positions = n * 10_000 + 1..=(n + 1) * 10_000;
        s3.send(batch(positions)).await.unwrap();
    }
    let files: Vec<u64> = std::fs::read_dir(dir.path().join("plans"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().sum::<u64>() < 2_500_000, "{files:?}");
}

#[tokio::test]
async fn what_a_person_must_put_right_and_what_passes_are_told_apart() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let server = place
        .serve([
            Mood::Answers(403, "AccessDenied"),
            Mood::Answers(503, "SlowDown"),
        ])
        .await;
    let s3 = s3(config(&server.url, &dir));
    let outcomes = s3.send(batch([1])).await;
    let denied = "403 AccessDenied: scripted".to_owned();
    assert_eq!(outcomes, Err(Error::Misconfigured(denied)));
    let outcomes = s3.send(batch([1])).await;
    assert!(
        matches!(
            outcomes,
            Err(Error::Unavailable {
                retry_after: Some(_),
                ..
            })
        ),
        "{outcomes:?}"
    );
    assert_eq!(s3.send(batch([1])).await.unwrap(), [ACKNOWLEDGED]);
}

#[tokio::test]
async fn an_event_whose_object_could_have_no_name_is_a_dead_letter() {
    let (place, dir) = (Place::default(), TempDir::new().unwrap());
    let server = place.serve([]).await;
    let mut config = config(&server.url, &dir);
    config.prefix = Prefix::parse("{device}/").unwrap();
    let mut named = record(2, 2).event().unwrap();
    named.device = "d".repeat(1_000).into();
    let mut body = Vec::new();
    named.to_cbor(&mut body);
    let long = crate::record::Record {
        body: body.into(),
        ..record(2, 2)
    };
    let items = [record(1, 1), long, record(3, 3)].map(|one| Item::check(one).unwrap());
    let batch = Batch {
        items: items.into(),
    };
    let outcomes = s3(config).send(batch).await.unwrap();
    assert!(matches!(outcomes[1], Outcome::Permanent(_)), "{outcomes:?}");
    assert_eq!((&outcomes[0], &outcomes[2]), (&ACKNOWLEDGED, &ACKNOWLEDGED));
    assert_eq!(place.positions(), [1, 3]);
}

/// A life of the gateway: how many events it takes at once, what puts meet, and whether the
/// last of them is kept before it dies.
type Life = (usize, Vec<Mood>, bool);

fn life() -> impl Strategy<Value = Life> {
    let mood = prop_oneof![
        5 => Just(Mood::Fine),
        2 => Just(Mood::DropsTheConnection),
        1 => Just(Mood::Answers(503, "SlowDown")),
        2 => Just(Mood::Answers(500, "InternalError")),
    ];
    (
        1usize..40,
        proptest::collection::vec(mood, 0..6),
        any::<bool>(),
    )
}

/// Delivers until all is there, or the server stops; then everything dies.
fn live(place: &Place, model: &Model, dir: &TempDir, life: Option<&Life>) {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (servers, gateways) = (runtime(), runtime());
    let moods = life.map_or_else(Vec::new, |(_, moods, keeps)| {
        let last = [Mood::Stops(*keeps)];
        moods.iter().copied().chain(last).collect()
    });
    let mut server = servers.block_on(place.serve(moods));
    let mut config = config(&server.url, dir);
    config.batch_records = life.map_or(30, |(batch_records, ..)| *batch_records);
    config.prefix = Prefix::parse("x/").unwrap();
    gateways.block_on(async {
        let (engine, _) = engine(model, Arc::new(s3(config)), 1_000);
        let task = tokio::spawn(engine.run(CancellationToken::new()));
        let over = async {
            while model.backlog() > 0 && !*server.stopped.borrow_and_update() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), over)
            .await
            .unwrap();
        task.abort();
    });
    gateways.shutdown_timeout(Duration::from_secs(10));
    servers.shutdown_timeout(Duration::from_secs(10));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_event_is_in_one_object_whenever_the_gateway_dies_and_however_it_cuts_batches(
        count in 1u64..120,
        lives in proptest::collection::vec(life(), 0..6),
    ) {
        let (place, dir, model) = (Place::default(), TempDir::new().unwrap(), Model::new());
        for n in 1..=count {
            model.append(record(n, u8::try_from(n % 3).unwrap()));
        }
        for life in &lives {
            live(&place, &model, &dir, Some(life));
        }
        live(&place, &model, &dir, None);
        let mut positions = place.positions();
        prop_assert_eq!(model.disk.lock().unwrap().cursor, Position(count));
        positions.sort_unstable();
        prop_assert_eq!(positions, (1..=count).collect::<Vec<_>>());
    }
}
