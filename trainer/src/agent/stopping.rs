//! SIGTERM and SIGINT, counted: the first asks for an orderly end, the second for an immediate one.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often this agent was asked to stop.
#[derive(Clone, Debug)]
pub(super) struct Stopping(watch::Receiver<u32>);

impl Stopping {
    /// Listens from now on.
    pub(super) fn listen() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (times, seen) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("asked to stop");
                times.send_modify(|times| *times += 1);
            }
        });
        Ok(Stopping(seen))
    }

    pub(super) fn times(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits for another signal.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until it was asked this often.
    pub(super) async fn reached(&mut self, times: u32) {
        if self.0.wait_for(|seen| *seen >= times).await.is_err() {
            std::future::pending().await
        }
    }
}
