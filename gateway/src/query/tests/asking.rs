//! Who asks, and waits, and leaves; what is ordered; what the journal keeps meanwhile.

use super::*;
use crate::query::{Error, State, schema};

fn all() -> Last {
    Last {
        limit: 1_000,
        ..Last::default()
    }
}

#[tokio::test]
async fn after_it_was_begun_anew_nothing_from_before_a_position_is_an_answer_for_it() {
    let place = Place::new();
    place.append(numbered(1, 50)).await;
    let dir = place.dir.path();
    place.feed(dir).catch_up().unwrap();
    let mut feed = place.feed(dir);
    let handle = feed.handle();
    // As if it had been at 50, and something is to be built anew.
    feed.said.send_modify(|said| said.position = Position(50));
    let last = |reader: &mut Reader| reader.last(&all());
    assert!(handle.ask_from(Position(50), last).await.is_ok());
    feed.begin_anew().unwrap();
    assert_eq!((handle.status().position, handle.status().lag), (0, 50));
    // A new file, that has come to 30 when the question is asked.
    let mut reader = place.handle().reader().unwrap();
    let page = reader.accounts(Position(0), 0, 30, 1 << 20).unwrap();
    let mut connection = schema::open(dir).unwrap();
    let limits = place.config.limits();
    crate::query::apply::apply(&mut connection, Position(0), &page, &limits).unwrap();
    let answer = handle.ask(move |reader| {
        reader.least(Position(50));
        reader.last(&all())
    });
    match answer.await {
        Err(Error::Behind { at, position }) => assert_eq!((at.0, position.0), (30, 50)),
        answer => panic!("{answer:?}"),
    }
    assert!(handle.ask(last).await.is_ok());
    // The same beside a running gateway.
    let mut reader = place.reader(dir);
    reader.wait_for(Position(30)).unwrap();
    assert!(reader.last(&all()).is_ok());
    reader.least(Position(31));
    assert!(matches!(reader.last(&all()), Err(Error::Behind { .. })));
}

#[tokio::test]
async fn questions_that_nobody_waits_for_end_and_make_room_for_others() {
    let place = Place::new();
    place.append(numbered(1, 3)).await;
    let mut following = Following::start(&place);
    // Nothing ends them but that nobody waits.
    following.handle.answer_time_max = Duration::from_hours(1);
    following.until(|status| status.position == 3).await;
    for _ in 0..20 {
        let endless = following.handle.ask(|reader| -> Result<(), Error> {
            loop {
                reader.last(&all())?;
            }
        });
        let begun = tokio::time::timeout(Duration::from_millis(1), endless);
        assert!(begun.await.is_err());
    }
    let counted = tokio::time::timeout(LONG, count(&following, "device:b7")).await;
    assert_eq!(counted.expect("there is room for another"), 3);
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_position_that_is_far_away_takes_nothing_from_its_rests() {
    let place = Place::new();
    let feed = place.feed(place.dir.path());
    let handle = feed.handle();
    let mut committed = place.handle().committed();
    let rest = Duration::from_millis(250);
    let began = tokio::time::Instant::now();
    // The clock goes on only where everybody waits.
    tokio::select! {
        biased;
        waited = handle.wait_for(Position(99)) => panic!("{waited:?}"),
        () = feed.wait(rest, true, &mut committed) => {}
    }
    assert!(began.elapsed() >= rest);
}

#[tokio::test]
async fn a_rebuild_that_nobody_waits_for_any_more_does_not_begin() {
    let place = Place::new();
    place.append(numbered(1, 3)).await;
    let feed = place.feed(place.dir.path());
    let handle = feed.handle();
    // It does not run yet.
    let asked = tokio::time::timeout(Duration::from_millis(1), handle.rebuild());
    assert!(asked.await.is_err());
    let following = Following::of(feed);
    following
        .until(|status| status.state == State::Following && status.position == 3)
        .await;
    assert_eq!(following.handle.status().rebuilt, 0);
    following.end().await;
}

#[tokio::test]
async fn a_rebuild_is_refused_while_it_waits_and_does_not_come_later() {
    // No disk has this much.
    let place = Place::of_size(1 << 60);
    let following = Following::start(&place);
    following
        .until(|status| matches!(status.state, State::Paused(_)))
        .await;
    let refused = following.handle.rebuild().await;
    match refused {
        Err(Error::Waits(why)) => assert!(why.contains("the disk has"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(following.handle.status().rebuilt, 0);
    following.end().await;
}

#[tokio::test]
async fn what_it_has_not_read_stays_for_it_unless_there_is_no_room() {
    let place = Place::new();
    place.handle().hold().set(Position(0));
    // Not what is meant to be there; and that is not for want of room.
    let file = place.dir.path().join(schema::FILE);
    std::fs::create_dir(&file).unwrap();
    let following = Following::start(&place);
    let status = following
        .until(|status| matches!(status.state, State::Paused(_)))
        .await;
    assert!(status.held, "{status:?}");
    place.append(numbered(1, 10)).await;
    place.settle(0, 10, 10, vec![]).await;
    std::fs::remove_dir(&file).unwrap();
    following.until(|status| status.position == 10).await;
    assert_eq!(following.handle.status().missed, 0);
    assert_eq!(count(&following, "device:b7").await, 10);
    following.end().await;

    let place = Place::of_size(1 << 60);
    place.handle().hold().set(Position(0));
    let following = Following::start(&place);
    let status = following
        .until(|status| matches!(status.state, State::Paused(_)))
        .await;
    assert!(!status.held, "{status:?}");
    following.end().await;
}
