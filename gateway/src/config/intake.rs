//! `[ingest]`: whether messages are kept as they came, and who needs it; when events are
//! late, and when the gateway's clock is believed.

use std::time::Duration;

use super::reader::Table;
use crate::{
    clock::Believed,
    forward, ingest,
    normalise::{Mapping, mapping::Keep},
};

/// Whether messages are kept where a mapping does not say, after how long events are late,
/// and after how long a clock is believed that nothing has set.
pub(super) fn read(table: &Table<'_, '_, '_>) -> (Keep, Duration, Duration) {
    let raw = table.word("raw", &Keep::WORDS, Keep::default());
    let late = Duration::from_millis(1)..=Duration::from_hours(24 * 365);
    let late_after = table.duration("late_after", late, ingest::Config::LATE_AFTER);
    let wait = Duration::ZERO..=Duration::from_hours(24 * 365);
    let clock_wait = table.duration("clock_wait", wait, Believed::WAIT);
    table.finish();
    (raw, late_after, clock_wait)
}

/// Who sends messages as they came needs all of them kept.
pub(super) fn check(
    root: &Table<'_, '_, '_>,
    mappings: &[Mapping],
    destinations: &[forward::Config],
) {
    if !destinations.iter().any(forward::Config::sends_originals) {
        return;
    }
    let Some(at) = mappings.iter().position(|m| m.raw != Keep::Always) else {
        return;
    };
    for table in root.tables("destination").unwrap_or_default() {
        let name = table.text("name").map(|text| text.value);
        let named = |d: &&forward::Config| Some(&*d.name) == name.as_deref();
        let sends = destinations.iter().find(named);
        if !sends.is_some_and(forward::Config::sends_originals) {
            continue;
        }
        let whose = match root.tables("mapping") {
            Some(_) => format!("mapping[{}].raw", at + 1),
            None => "ingest.raw".to_owned(),
        };
        let what = format!(
            "\"original\" sends messages as they came, and {whose} does not keep them; set \
             raw = \"always\" in [ingest] and in every [[mapping]] that says otherwise"
        );
        table.mistake(table.span("payload").as_ref(), "payload", what);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use crate::config::{Config, Mistakes};

    fn read(text: &str) -> Result<Config, Mistakes> {
        Config::from_text(text, Path::new(""), &|_| None)
    }

    fn mistakes(text: &str) -> String {
        read(text).expect_err("a mistake").to_string()
    }

    #[test]
    #[cfg(feature = "mqtt")]
    fn who_sends_messages_as_they_came_needs_them_kept() {
        let destination = "[[destination]]\nname = \"up\"\ntype = \"mqtt\"\nserver = \"mqtt://h\"\npayload = \"original\"\n";
        let said = mistakes(destination);
        assert!(
            said.contains("destination[1].payload") && said.contains("ingest.raw"),
            "{said}"
        );
        let mappings = "[[mapping]]\ntopic = \"a\"\nraw = \"always\"\n[[mapping]]\ntopic = \"b\"\n";
        let said = mistakes(&format!("{mappings}{destination}"));
        assert!(said.contains("mapping[2].raw"), "{said}");
        let fine = read(&format!(
            "[ingest]\nraw = \"always\"\n{mappings}{destination}"
        ))
        .unwrap();
        assert!(fine.destinations[0].sends_originals());
        // Delivered events stay where they can be made again, and only there.
        assert_eq!(fine.store.keep_delivered, fine.store.max_age);
        assert_eq!(read("").unwrap().store.keep_delivered, None);
        let own = "[ingest]\nraw = \"always\"\n[store]\nkeep_delivered = \"1h\"";
        let hour = Some(Duration::from_secs(3_600));
        assert_eq!(read(own).unwrap().store.keep_delivered, hour);
        let never = "[ingest]\nraw = \"always\"\n[store]\nkeep_delivered = \"never\"";
        assert_eq!(read(never).unwrap().store.keep_delivered, None);
    }
}
