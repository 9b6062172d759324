//! How topic filters relate: whether one takes every topic that another takes,
//! and whether there is a topic that both take.
//!
//! A subscription is allowed only if a permission covers it, so a mistake here
//! is a hole. Property tests compare both answers with a search over topics.

/// Whether `wide` takes every topic that `narrow` takes. Both are valid filters.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    // No wildcard in the first level takes a topic that begins with `$`.
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let (wide, wide_is_open) = levels(wide);
    let (narrow, narrow_is_open) = levels(narrow);
    // A topic has at least one level, so `#` takes nothing shorter than `+/#`.
    let (wide, narrow) = (least(&wide), least(&narrow));
    let fits = if wide_is_open {
        wide.len() <= narrow.len()
    } else {
        !narrow_is_open && wide.len() == narrow.len()
    };
    fits && wide
        .iter()
        .zip(narrow)
        .all(|(wide, narrow)| *wide == "+" || wide == narrow)
}

/// Whether there is a topic that both filters take. Both are valid filters.
pub(super) fn overlaps(one: &str, other: &str) -> bool {
    let hidden = |dollar: &str, wild: &str| dollar.starts_with('$') && wild.starts_with(['+', '#']);
    if hidden(one, other) || hidden(other, one) {
        return false;
    }
    let (one, one_is_open) = levels(one);
    let (other, other_is_open) = levels(other);
    let (one, other) = (least(&one), least(&other));
    // A topic of one level is not empty.
    let has_one_level = !one_is_open && one.len() == 1 || !other_is_open && other.len() == 1;
    if has_one_level && (one.first() == Some(&"") || other.first() == Some(&"")) {
        return false;
    }
    let fits = match (one_is_open, other_is_open) {
        (true, true) => true,
        (true, false) => one.len() <= other.len(),
        (false, true) => other.len() <= one.len(),
        (false, false) => one.len() == other.len(),
    };
    fits && one
        .iter()
        .zip(other)
        .all(|(one, other)| *one == "+" || *other == "+" || one == other)
}

/// The levels before a final `#`, and whether there is one.
fn levels(filter: &str) -> (Vec<&str>, bool) {
    let mut levels: Vec<&str> = filter.split('/').collect();
    let is_open = levels.last() == Some(&"#");
    if is_open {
        levels.pop();
    }
    (levels, is_open)
}

/// The levels that the shortest topic has to have.
fn least<'l, 'f>(levels: &'l [&'f str]) -> &'l [&'f str] {
    if levels.is_empty() { &["+"] } else { levels }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::{check_filter, matches};

    #[test]
    fn a_permission_covers_what_is_not_wider() {
        for (wide, narrow, expect) in [
            ("#", "#", true),
            ("#", "a/+/c", true),
            ("+/#", "#", true),
            ("#", "+/#", true),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/broker/+", true),
            ("$SYS/#", "#", false),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/+/#", "a/#", false),
            ("a/+/#", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b", true),
            ("a/+", "a/+/b", false),
            ("a/b", "a/+", false),
            ("a/b/#", "a/+/#", false),
            ("devices/d1/#", "devices/#", false),
            ("devices/d1/#", "devices/+/x", false),
            ("a/", "a", false),
            ("a/+", "a/", true),
            ("/+", "/a", true),
            ("/+", "+/a", false),
        ] {
            assert_eq!(covers(wide, narrow), expect, "{wide} covers {narrow}");
        }
    }

    #[test]
    fn filters_overlap_when_a_topic_fits_both() {
        for (one, other, expect) in [
            ("#", "a", true),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/#", "+", true),
            ("a/b/#", "a", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("+/#", "#", true),
        ] {
            assert_eq!(overlaps(one, other), expect, "{one} and {other}");
            assert_eq!(overlaps(other, one), expect, "{other} and {one}");
        }
    }

    /// Every topic of up to four levels from words that filters use and one that
    /// none does. Longer ones tell nothing new about filters of three.
    fn topics() -> Vec<String> {
        let words = ["a", "b", "", "$s", "other"];
        let mut all: Vec<String> = Vec::new();
        let mut last: Vec<String> = words.map(str::to_owned).to_vec();
        for _ in 0..4 {
            all.extend(last.iter().filter(|topic| !topic.is_empty()).cloned());
            last = last
                .iter()
                .flat_map(|topic| words.iter().map(move |word| format!("{topic}/{word}")))
                .collect();
        }
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![
            Just("a"),
            Just("b"),
            Just(""),
            Just("$s"),
            Just("+"),
            Just("#")
        ];
        proptest::collection::vec(level, 1..=3)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a valid filter", |filter| check_filter(filter).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn covering_and_overlapping_are_what_a_search_over_topics_says(
            one in filter(),
            other in filter(),
        ) {
            let topics = topics();
            let other_topics = || topics.iter().filter(|topic| matches(topic, &other));
            let covered = other_topics().all(|topic| matches(topic, &one));
            prop_assert_eq!(covers(&one, &other), covered, "{} covers {}", one, other);
            let common = other_topics().any(|topic| matches(topic, &one));
            prop_assert_eq!(overlaps(&one, &other), common, "{} and {}", one, other);
        }
    }
}
