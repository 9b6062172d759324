//! Named tasks, and what the end of each means. No task is detached.

use std::{future::Future, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What it means when a task ends before the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// A promise can no longer be kept: the gateway stops and exits non-zero.
    StopGateway,
    /// Others go on; the end is logged as an error.
    Log,
}

/// How a task ended.
pub type Result = std::result::Result<(), anyhow::Error>;

/// The gateway's tasks.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<(Arc<str>, Result)>,
    shutdown: CancellationToken,
    fatal: (mpsc::Sender<Arc<str>>, mpsc::Receiver<Arc<str>>),
}

impl Tasks {
    /// No tasks yet; `shutdown` is cancelled when one fails that may not.
    pub fn new(shutdown: CancellationToken) -> Self {
        // One reason is enough; later ones are only logged.
        Self {
            set: JoinSet::new(),
            shutdown,
            fatal: mpsc::channel(1),
        }
    }

    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: impl Into<Arc<str>>,
        on_end: OnEnd,
        task: impl Future<Output = Result> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        let fatal = self.fatal.0.clone();
        let name = name.into();
        self.set.spawn(async move {
            // A task of its own, so that a panic ends up here as an error.
            // It goes when this one is aborted.
            let ended = match AbortOnDropHandle::new(tokio::spawn(task)).await {
                Ok(ended) => ended,
                Err(panic) => Err(anyhow::anyhow!("{panic}")),
            };
            let early = !shutdown.is_cancelled();
            match (&ended, on_end) {
                (Ok(()), _) if !early => {}
                (_, OnEnd::StopGateway) => {
                    let reason = match &ended {
                        Ok(()) => format!("{name} ended by itself"),
                        Err(error) => format!("{name} failed: {error:#}"),
                    };
                    tracing::error!(task = %name, "{reason}; shutting down");
                    if fatal.try_send(reason.into()).is_err() {
                        tracing::debug!(task = %name, "another task failed first");
                    }
                    shutdown.cancel();
                }
                (Ok(()), OnEnd::Log) => tracing::error!(task = %name, "ended by itself"),
                (Err(error), OnEnd::Log) => tracing::error!(task = %name, "failed: {error:#}"),
            }
            (name, ended)
        });
    }

    /// Waits for every task to end.
    ///
    /// # Errors
    /// The reason of the first failure that stopped the gateway.
    pub async fn join(&mut self) -> Result {
        while let Some(ended) = self.set.join_next().await {
            match ended {
                Ok((name, _)) => tracing::debug!(task = %name, "ended"),
                Err(error) => tracing::error!(%error, "a task's supervisor failed"),
            }
        }
        match self.fatal.1.try_recv() {
            Ok(reason) => Err(anyhow::anyhow!("{reason}")),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_that_matters_stops_the_gateway_with_its_reason() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        let stop = shutdown.clone();
        tasks.spawn("patient", OnEnd::StopGateway, async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("clumsy", OnEnd::StopGateway, async { panic!("slipped") });
        shutdown.cancelled().await;
        let reason = tasks.join().await.unwrap_err().to_string();
        assert!(
            reason.contains("clumsy failed") && reason.contains("slipped"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn the_end_of_a_task_that_does_not_matter_stops_nothing() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("short", OnEnd::Log, async { Err(anyhow::anyhow!("over")) });
        assert!(tasks.join().await.is_ok());
        assert!(!shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn tasks_go_with_their_set() {
        struct Tell(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0
                    .take()
                    .expect("once")
                    .send(())
                    .expect("somebody waits");
            }
        }
        let (sender, gone) = tokio::sync::oneshot::channel();
        let mut tasks = Tasks::new(CancellationToken::new());
        let tell = Tell(Some(sender));
        tasks.spawn("endless", OnEnd::Log, async move {
            let _tell = tell;
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        drop(tasks);
        gone.await.expect("the task is dropped, not left behind");
    }
}
