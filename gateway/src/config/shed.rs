//! `[[store.shed]]`: what is given up by class while room is short.

use std::time::Duration;

use super::{parse_duration, reader::Table};
use crate::{
    class::Class,
    store::{Keep, Shed},
};

/// Tables of one configuration, at most.
const TABLES_MAX: usize = 12;
/// Hundredths of the room from which something may be given up: below, what everybody has
/// takes the room, and gives way by itself; above, it would come too late.
const ABOVE: std::ops::RangeInclusive<u64> = 55..=90;
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the tables of `[store]`.
pub(super) fn read(store: &Table<'_, '_, '_>) -> Vec<Shed> {
    let tables = store.tables("shed").unwrap_or_default();
    if tables.len() > TABLES_MAX {
        let what = format!("{} tables; there can be {TABLES_MAX}", tables.len());
        store.mistake(store.span("shed").as_ref(), "shed", what);
    }
    let mut read: Vec<Shed> = Vec::new();
    for table in &tables {
        let class = table.required("class", "\"low\"");
        let class = class.and_then(|text| table.parse("class", &text, class_of));
        let above = table.required("above", "\"80%\"");
        let above = above.and_then(|text| table.parse("above", &text, percent));
        let keep = table.required("keep", "\"none\"");
        let keep = keep.and_then(|text| table.parse("keep", &text, keep_of));
        table.finish();
        let (Some(class), Some(above), Some(keep)) = (class, above, keep) else {
            continue;
        };
        if read
            .iter()
            .any(|one| one.class == class && one.above == above)
        {
            let what = format!(
                "another table has {:?} above {above}%; one of both is enough",
                class.as_str()
            );
            table.mistake(table.span("above").as_ref(), "above", what);
        }
        read.push(Shed { class, above, keep });
    }
    read
}

fn class_of(text: &str) -> Result<Class, &'static str> {
    match text {
        "critical" => Err("is never given up; classes that may be are low, normal and high"),
        text => {
            let mut words = Class::WORDS.iter();
            let found = words.find(|(word, _)| *word == text);
            found
                .map(|(_, class)| *class)
                .ok_or("should be one of low, normal, high")
        }
    }
}

fn percent(text: &str) -> Result<u64, &'static str> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    let number = number.filter(|number| ABOVE.contains(number));
    number.ok_or("should be a part of size_max between \"55%\" and \"90%\"")
}

fn keep_of(text: &str) -> Result<Keep, String> {
    const WHAT: &str = "should be \"none\", \"1 of 10\" or \"1 per 10s\"";
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["none"] => Ok(Keep::None),
        ["1", "of", count] => match count.parse() {
            Ok(count @ 2..=1_000_000) => Ok(Keep::OneOf(count)),
            _ => Err("should be 1 of 2 to 1 of 1000000".to_owned()),
        },
        ["1", "per", time] => match parse_duration(time) {
            Ok(time) if !time.is_zero() && time <= DAY => Ok(Keep::OnePer(time)),
            Ok(_) => Err("should be 1 per 1ms to 1 per 1d".to_owned()),
            Err(error) => Err(format!("{error}; {WHAT}")),
        },
        _ => Err(WHAT.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn read(tables: &str) -> Result<Vec<Shed>, String> {
        let config = Config::from_text(tables, Path::new("/"), &|_| None);
        config
            .map(|config| config.store.shed)
            .map_err(|mistakes| mistakes.to_string())
    }

    fn table(class: &str, above: &str, keep: &str) -> String {
        format!("[[store.shed]]\nclass = \"{class}\"\nabove = \"{above}\"\nkeep = \"{keep}\"\n")
    }

    #[test]
    fn what_is_given_up_is_read_with_its_mark_and_what_is_kept() {
        assert_eq!(read("").unwrap(), []);
        let text = table("low", "60%", "1 of 10")
            + &table("low", "80%", "none")
            + &table("normal", "90%", "1 per 10s");
        let shed = |class, above, keep| Shed { class, above, keep };
        assert_eq!(
            read(&text).unwrap(),
            [
                shed(Class::Low, 60, Keep::OneOf(10)),
                shed(Class::Low, 80, Keep::None),
                shed(Class::Normal, 90, Keep::OnePer(Duration::from_secs(10))),
            ]
        );
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (class, above, keep, part) in [
            (
                "critical",
                "80%",
                "none",
                "shed[1].class: \"critical\": is never given up",
            ),
            ("lwo", "80%", "none", "should be one of low, normal, high"),
            ("low", "80", "none", "between \"55%\" and \"90%\""),
            ("low", "95%", "none", "between \"55%\" and \"90%\""),
            ("low", "80%", "1 of 1", "1 of 2 to 1 of 1000000"),
            ("low", "80%", "1 per hour", "\"1 per 10s\""),
            (
                "low",
                "80%",
                "some",
                "should be \"none\", \"1 of 10\" or \"1 per 10s\"",
            ),
        ] {
            let said = read(&table(class, above, keep)).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let twice = table("low", "80%", "none") + &table("low", "80%", "1 of 2");
        let said = read(&twice).unwrap_err();
        assert!(
            said.contains("shed[2].above: another table has \"low\" above 80%"),
            "{said}"
        );
        let said = read("[[store.shed]]\nclass = \"low\"\n").unwrap_err();
        assert!(said.contains("above") && said.contains("keep"), "{said}");
    }
}
