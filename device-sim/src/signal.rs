//! SIGINT and SIGTERM: the first ends the run in order, the second at once.

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// What a shell shows for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Becomes true at the first signal, when `first` is said. The thread that listens ends with the process.
///
/// # Errors
/// When signals cannot be received.
pub(crate) fn stop(first: &'static str) -> anyhow::Result<watch::Receiver<bool>> {
    let (told, stop) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let _entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot receive SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive SIGTERM")?;
    drop(_entered);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if told.send_replace(true) {
                        std::process::exit(INTERRUPTED);
                    }
                    tracing::info!("{first}; again to end at once");
                }
            });
        })
        .context("cannot start a thread")?;
    Ok(stop)
}
