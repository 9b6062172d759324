//! Rows that SQLite calls sound, with columns of another type.

use super::*;

#[tokio::test]
async fn a_column_of_another_type_is_damage_of_its_row_only() {
    for (column, value) in [("received", "0.5"), ("routes", "'x'"), ("frame", "1")] {
        let mut place = filled().await;
        flip_type(
            &place,
            "events",
            column,
            &format!("{value} WHERE position = 300"),
        );
        place.config.max_age = Some(Duration::from_secs(60));
        let running = place.run();
        let handle = running.handle();
        let records = read_all(&handle, 0, 0);
        assert_eq!(records.len() as u64, EVENTS - 1, "{column}");
        place.advance(Duration::from_secs(3_600));
        let status = until(&handle, |s| s.buffered == 0).await;
        assert_eq!(status.destinations[0].backlog, 0, "{column}: {status:?}");
        running.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_read_do_not_keep_the_gateway_from_starting() {
    let place = filled().await;
    flip_type(&place, "commits", "checksum", "'x' WHERE sequence < 5");
    let running = place.run();
    let again = append(&running.handle(), vec![event(EVENTS, to(&[0]))]).await;
    assert_eq!(again, [Appended::Duplicate], "the others are remembered");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn salvage_passes_rows_with_columns_of_another_type() {
    let place = filled().await;
    flip_type(&place, "events", "received", "0.5 WHERE position = 200");
    flip_type(&place, "commits", "checksum", "'x' WHERE sequence < 5");
    destroy_page(&place, page_with(&place, b"event 300"));
    let (report, _, records) = survives(&place).await;
    assert!(report.salvaged.is_some() && records.len() as u64 > EVENTS - 150);
}

/// With sealed values.
mod sealed {
    use super::sealed_too;

    #[test]
    fn a_column_of_another_type_is_damage_of_its_row_only() {
        sealed_too(super::a_column_of_another_type_is_damage_of_its_row_only);
    }

    #[test]
    fn keys_that_cannot_be_read_do_not_keep_the_gateway_from_starting() {
        sealed_too(super::keys_that_cannot_be_read_do_not_keep_the_gateway_from_starting);
    }

    #[test]
    fn salvage_passes_rows_with_columns_of_another_type() {
        sealed_too(super::salvage_passes_rows_with_columns_of_another_type);
    }
}
