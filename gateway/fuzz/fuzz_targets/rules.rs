//! Any pattern and any event: never a panic, a mistake lies within the text, and a
//! pattern among others fits exactly what it fits alone.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::rules::{Matcher, Pattern, Scratch};

/// Patterns that the one from outside stands among.
const OTHERS: [&str; 6] = [
    r#"{"a":["x",1,null]}"#,
    r#"{"a":[{"prefix":"x"}],"b":[{"exists":false}]}"#,
    r#"{"a":{"b":[{"numeric":[">",0]}],"c":[{"anything-but":"x"}]}}"#,
    r#"{"$or":[{"a":["10.0.0.1"]},{"b":[true,{"wildcard":"x*"}]}]}"#,
    r#"{"b":[{"exists":false}]}"#,
    r#"{"a.b":[1],"":["x"]}"#,
];

fuzz_target!(|input: (&str, &str)| {
    let (pattern, event) = input;
    let pattern = match Pattern::parse(pattern) {
        Ok(pattern) => pattern,
        Err(error) => {
            let line = pattern
                .split('\n')
                .nth(error.line - 1)
                .expect("a line of it");
            assert!(error.column >= 1 && error.column <= line.chars().count() + 1);
            return;
        }
    };
    let found = |matcher: &Matcher, wanted: u32| {
        let mut found = 0;
        let mut count = |rule| found += u32::from(rule == wanted);
        let done = matcher.each_of_json(event, &mut Scratch::default(), &mut count);
        done.map(|()| found)
    };
    let mut alone = Matcher::default();
    alone.add(0, &pattern);
    let fits = found(&alone, 0);
    let mut among = Matcher::default();
    for (n, other) in (1..).zip(OTHERS) {
        among.add(n, &Pattern::parse(other).expect("it is well-formed"));
        if n == 3 {
            among.add(0, &pattern);
        }
    }
    // Together they may come to too much where one does not.
    if let (Ok(fits), Ok(among)) = (&fits, found(&among, 0)) {
        assert!(*fits <= 1);
        assert_eq!(*fits, among);
    }
});
