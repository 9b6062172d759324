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
    // Level by level, as far as they agree: a client chose one of them.
    let (mut wide, mut narrow) = (least(wide).split('/'), least(narrow).split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            // Also the topic that ends before it.
            (Some("#"), _) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(wide), Some(narrow)) => {
                let fits = wide == narrow || wide == "+" && narrow != "#";
                if !fits {
                    return false;
                }
            }
        }
    }
}

/// Whether there is a topic that both filters take. Both are valid filters.
pub(super) fn overlaps(one: &str, other: &str) -> bool {
    let hidden = |dollar: &str, wild: &str| dollar.starts_with('$') && wild.starts_with(['+', '#']);
    if hidden(one, other) || hidden(other, one) {
        return false;
    }
    let (one, other) = (least(one), least(other));
    // A topic of one level is not empty.
    let has_one_level = |filter: &str| !filter.contains('/');
    let is_empty_there = |filter: &str| filter.is_empty() || filter.starts_with('/');
    if (has_one_level(one) || has_one_level(other))
        && (is_empty_there(one) || is_empty_there(other))
    {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(one), Some(other)) => {
                if one != other && one != "+" && other != "+" {
                    return false;
                }
            }
        }
    }
}

/// A topic has at least one level, and one of one level is not empty: `#` takes nothing
/// shorter than `+/#`, and `/#` nothing shorter than `/+/#`.
fn least(filter: &str) -> &str {
    match filter {
        "#" => "+/#",
        "/#" => "/+/#",
        _ => filter,
    }
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
            ("/+/#", "/#", true),
            ("/#", "/+/#", true),
            ("/a", "/#", false),
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
