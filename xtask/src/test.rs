//! `cargo xtask test`: tools, then programs, then every test, then the count.

use std::{
    env, io,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};

use crate::{step, tally::Tally, tools::Tools};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the end-to-end tests
    #[arg(long)]
    quick: bool,
    /// Run the end-to-end tests against release builds instead of checked ones
    #[arg(long)]
    release: bool,
    /// The seed of every random choice in the end-to-end tests; a failing test prints its own
    #[arg(long)]
    seed: Option<u64>,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Whether a machine asked: then a test that cannot run is a failure.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// Runs the chore. `Ok(false)` when a test failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let started = Instant::now();
    let repository = crate::repository()?;
    step("tools");
    let tools = Tools::get(&repository);
    let missing = tools.missing();

    step("build");
    let mut environment = environment(&tools);
    if !args.quick {
        let binaries = build(&repository, args)?;
        environment.push(("PENSTOCK_BIN", binaries.join("penstock")));
        environment.push(("DEVICE_SIM_BIN", binaries.join("device-sim")));
    }

    step("test");
    let mut command = crate::cargo()?;
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if args.quick {
        command.args(["--exclude", "penstock-tests"]);
    }
    command
        .args(args.filter.as_slice())
        .args(["--", "--show-output"]);
    command.envs(environment);
    if let Some(seed) = args.seed {
        command.env("PENSTOCK_TEST_SEED", seed.to_string());
    }
    let (status, tally) = watch(command)?;
    Ok(conclude(status, &tally, &missing, args, started))
}

fn environment(tools: &Tools) -> Vec<(&'static str, PathBuf)> {
    let mut environment = Vec::new();
    if let Some(program) = &tools.nats_server {
        environment.push(("PENSTOCK_NATS_SERVER", program.clone()));
    }
    if in_ci() {
        environment.push(("PENSTOCK_REQUIRE_TOOLS", PathBuf::from("1")));
    }
    environment
}

/// Builds everything that the tests need, once, and says where the programs are.
fn build(repository: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    // With programs and tests in one build, features are resolved once and nothing is
    // compiled twice.
    let status = crate::cargo()?
        .args(["build", "--workspace", "--locked", "--bins", "--tests"])
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "the build failed");
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository.join("target"), |dir| repository.join(dir));
    if !args.release {
        return Ok(target.join("debug"));
    }
    let status = crate::cargo()?
        .args(["build", "--release", "--locked", "--package", "penstock"])
        .args(["--package", "device-sim", "--bins"])
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "the release build failed");
    Ok(target.join("release"))
}

/// Runs the tests, passing on what they print and counting.
fn watch(mut command: Command) -> anyhow::Result<(ExitStatus, Tally)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let stderr = child.stderr.take().context("cargo's errors")?;
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        scope.spawn(|| follow(stdout, |line| lock(&tally).line(line), &mut io::stdout()));
        scope.spawn(|| {
            follow(
                stderr,
                |line| {
                    if line.starts_with("SKIPPED: ") {
                        lock(&tally).line(line);
                    }
                    true
                },
                &mut io::stderr(),
            );
        });
    });
    let status = child.wait().context("wait for cargo test")?;
    Ok((
        status,
        tally.into_inner().unwrap_or_else(PoisonError::into_inner),
    ))
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies a stream line by line, leaving out the lines that `show` does not want.
fn follow(from: impl Read, show: impl Fn(&str) -> bool, to: &mut impl io::Write) {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    // A line need not be UTF-8: tests print what they were given.
    while matches!(lines.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        let text = String::from_utf8_lossy(&line);
        if show(text.trim_end_matches(['\r', '\n'])) {
            // Nobody reads along any more; the count still matters.
            to.write_all(&line).ok();
        }
        line.clear();
    }
}

/// Prints the closing lines and decides.
fn conclude(
    status: ExitStatus,
    tally: &Tally,
    missing: &[&str],
    args: &Args,
    started: Instant,
) -> bool {
    // A test program that died, or did not compile, has no result line of its own.
    let failed = if status.success() {
        tally.failed
    } else {
        tally.failed.max(1)
    };
    let mut good = failed == 0;
    if failed > tally.failed {
        println!("FAILED: a test program ended without its result ({status})");
    }
    if tally.passed() + failed + tally.skipped() == 0 && args.filter.is_none() {
        println!("FAILED: no test ran");
        good = false;
    }
    if !tally.skipped.is_empty() || !missing.is_empty() {
        println!(
            "\n################ {} SKIPPED ################",
            tally.skipped.len()
        );
        for what in &tally.skipped {
            println!("SKIPPED: {what}");
        }
        for tool in missing {
            println!("MISSING: {tool}");
        }
        println!("What these tests show was NOT shown by this run.");
        if in_ci() {
            println!("FAILED: under CI=true every tool has to be there and every test has to run");
            good = false;
        }
    }
    println!("\nfinished in {} s", started.elapsed().as_secs());
    println!(
        "{} passed, {failed} failed, {} skipped",
        tally.passed(),
        tally.skipped()
    );
    io::stdout().flush().ok();
    good
}
