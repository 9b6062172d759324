//! The first command of the README keeps its word.

use std::{fs, process::Command};

use penstock_tests::{Sandbox, programs};

#[test]
fn the_demo_ends_by_itself_with_a_balanced_ledger_and_events_in_a_file() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path("demo");
    let output = Command::new(programs::penstock())
        .args(["demo", "--for", "10s", "--dir"])
        .arg(&dir)
        // The demo finds the simulator next to itself, or where it is told.
        .current_dir(sandbox.dir())
        .output()
        .expect("the gateway's program runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(
        said.contains("http://127.0.0.1:"),
        "the page's address is missing: {said}"
    );
    for word in [
        "accepted",
        "stored",
        "duplicate",
        "quarantined",
        "delivered",
        "lost",
    ] {
        assert!(
            said.contains(word),
            "the ledger does not say {word:?}: {said}"
        );
    }
    assert!(
        events_below(&dir) > 0,
        "no event arrived in a file below {}",
        dir.display()
    );
}

fn events_below(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).expect("the demo's directory is there");
    entries
        .map(|entry| entry.expect("it can be read").path())
        .map(|path| {
            if path.is_dir() {
                events_below(&path)
            } else if path
                .extension()
                .is_some_and(|extension| extension == "ndjson")
            {
                fs::read_to_string(&path)
                    .expect("events are text")
                    .lines()
                    .count()
            } else {
                0
            }
        })
        .sum()
}
