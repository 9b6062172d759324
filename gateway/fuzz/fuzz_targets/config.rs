//! Any text is a configuration or mistakes.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use penstock::config::Config;

fuzz_target!(|text: &str| {
    let env = |name: &str| (name == "SET").then(|| "hidden-value".to_owned());
    if let Err(mistakes) = Config::from_text(text, Path::new("/etc"), &env) {
        assert!(!mistakes.mistakes.is_empty());
        assert!(text.contains("hidden-value") || !mistakes.to_string().contains("hidden-value"));
    }
});
