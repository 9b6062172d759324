//! Live figures on a terminal, a log line every ten seconds elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::stats::Stats;

const ON_TERMINAL: Duration = Duration::from_millis(250);
const IN_LOG: Duration = Duration::from_secs(10);
/// How often the end of the run is looked for where nothing is shown.
const UNSEEN: Duration = Duration::from_millis(50);

/// Shows how a run is going.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    shown: Instant,
    sent: u64,
    acked: u64,
}

impl Progress {
    /// On standard error.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        });
        Self {
            bar,
            shown: Instant::now(),
            sent: 0,
            acked: 0,
        }
    }

    /// How long to wait before showing again.
    pub(crate) const fn interval(&self) -> Duration {
        UNSEEN
    }

    /// Shows, if it is time to.
    pub(crate) fn show(&mut self, total: impl FnOnce() -> Stats) {
        let since = self.shown.elapsed();
        if since
            < if self.bar.is_some() {
                ON_TERMINAL
            } else {
                IN_LOG
            }
        {
            return;
        }
        let stats = total();
        let line = line(&stats, self.sent, self.acked, since);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => tracing::info!("{line}"),
        }
        self.shown = Instant::now();
        self.sent = stats.sent;
        self.acked = stats.acked;
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn line(stats: &Stats, sent: u64, acked: u64, since: Duration) -> String {
    let per_second = |now: u64, before: u64| (now - before) as f64 / since.as_secs_f64().max(0.001);
    let ms = |quantile: f64| stats.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
    format!(
        "{:.0} sent/s, {:.0} acked/s, ack p50 {:.1} ms, p99 {:.1} ms, {} connected, {} resent, {} to be acknowledged",
        per_second(stats.sent, sent),
        per_second(stats.acked, acked),
        ms(0.5),
        ms(0.99),
        stats.connected,
        stats.resent,
        stats.sent.saturating_sub(stats.acked + stats.refused),
    )
}
