//! Any template against any topic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::normalise::topic::Template;

fuzz_target!(|input: (&str, &str)| {
    let (template, topic) = input;
    match Template::parse(template) {
        Ok(template) => {
            if let Some(captures) = template.captures(topic) {
                assert_eq!(captures.len(), template.names().len());
            }
        }
        Err(error) => assert!(error.at >= 1 && error.at <= template.chars().count() + 1),
    }
});
