//! Saying aloud that a test could not run.

use std::{env, io, io::Write as _, thread};

/// Says that the running test cannot run for want of a program. Where programs are
/// required (`PENSTOCK_REQUIRE_TOOLS=1`), that is a failure.
///
/// # Panics
/// Where programs are required.
pub fn missing_program(program: &str) {
    let required = env::var_os("PENSTOCK_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{program} is required here, and missing");
    say(&format!("{program} is missing; `cargo xtask test` gets it"));
}

/// Says that the running test cannot run because the machine does not allow what it does.
pub fn not_permitted(what: &str) {
    say(&format!("not permitted here: {what}"));
}

/// Past libtest's capture, so that it is seen although the test passes.
fn say(why: &str) {
    let test = thread::current().name().unwrap_or("?").to_owned();
    writeln!(io::stderr(), "SKIPPED: {test}: {why}").expect("standard error takes a line");
}
