//! Reads what `cargo test` prints and keeps the count.
//!
//! A test that cannot run here says so on a line of its own, `SKIPPED: <test>: <why>`,
//! and then passes as far as libtest knows; the tally takes it out of the passed ones.
//! Output of passing tests is requested from libtest only to find such lines, and is not
//! shown.

/// The sums over all test programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    /// Tests that libtest counted as failed.
    pub(crate) failed: usize,
    ignored: usize,
    /// What follows `SKIPPED: `.
    pub(crate) skipped: Vec<String>,
    hiding: bool,
}

impl Tally {
    /// Takes one line; says whether people should see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(what) = line.trim_start().strip_prefix("SKIPPED: ") {
            self.skipped.push(what.to_owned());
            return true;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.hiding = false;
            self.passed += count(result, " passed");
            self.failed += count(result, " failed");
            self.ignored += count(result, " ignored");
            return true;
        }
        match line {
            "successes:" => self.hiding = true,
            "failures:" => self.hiding = false,
            _ => {}
        }
        !self.hiding
    }

    /// Tests that ran to their end without a failure.
    pub(crate) fn passed(&self) -> usize {
        self.passed.saturating_sub(self.skipped.len())
    }

    /// Tests that did not run: those that said so, and those marked `#[ignore]`.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped.len() + self.ignored
    }
}

/// The number before `word` in `ok. 5 passed; 0 failed; ...`.
fn count(result: &str, word: &str) -> usize {
    result
        .split(word)
        .next()
        .filter(|before| before.len() < result.len())
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> (Tally, Vec<&str>) {
        let mut tally = Tally::default();
        let shown = lines.lines().filter(|line| tally.line(line)).collect();
        (tally, shown)
    }

    #[test]
    fn sums_run_over_every_test_program() {
        let (tally, _) = read(
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
             test result: FAILED. 7 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 3s",
        );
        assert_eq!((tally.passed(), tally.failed, tally.skipped()), (12, 1, 2));
    }

    #[test]
    fn a_test_that_said_it_was_skipped_is_not_counted_as_passed() {
        let (tally, shown) = read(
            "test a ... ok\nSKIPPED: a: no nats-server\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s",
        );
        assert_eq!((tally.passed(), tally.skipped()), (1, 1));
        assert_eq!(tally.skipped, ["a: no nats-server"]);
        assert_eq!(shown.len(), 3);
    }

    #[test]
    fn output_of_passing_tests_is_hidden_and_of_failing_ones_shown() {
        let (tally, shown) = read(
            "\nsuccesses:\n\n---- a stdout ----\nchatter\nSKIPPED: a: why\n\nsuccesses:\n    a\n\n\
             failures:\n\n---- b stdout ----\npanicked\n\nfailures:\n    b\n",
        );
        assert_eq!(tally.skipped, ["a: why"]);
        assert!(!shown.contains(&"chatter"));
        assert!(shown.contains(&"panicked") && shown.contains(&"SKIPPED: a: why"));
    }

    #[test]
    fn a_line_without_the_word_counts_nothing() {
        assert_eq!(count("ok. 5 passed; 0 failed", " ignored"), 0);
        assert_eq!(count("ok. 5 passed; 0 failed", " passed"), 5);
    }
}
