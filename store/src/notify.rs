//! Wake-ups: one connection of a process listens for all its watchers.
//!
//! A wake-up is a hint and may be lost, for example while the connection is down; whoever waits also polls. After a
//! reconnection everyone is woken by [`Wake::Missed`].

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::ids::JobId;

const JOB: &str = "luthier_job";
const QUEUE: &str = "luthier_queue";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Wake-ups kept for a watcher that is slow; one that falls behind gets an error that means: look anew.
const CAPACITY: usize = 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something about this job changed, or it has new events.
    Job(JobId),
    /// There may be something to claim.
    Queue,
    /// The connection is new (at the start, too): wake-ups may have been lost, so look anew.
    Missed,
}

/// Listens in the background until it is dropped.
#[derive(Debug)]
pub struct Listener {
    sender: broadcast::Sender<Wake>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Starts to listen; connects, and connects again whenever the connection is lost.
    pub fn spawn(db: PgPool) -> Self {
        let (sender, _) = broadcast::channel(CAPACITY);
        let task = tokio::spawn(run(db, sender.clone()));
        Listener { sender, task }
    }

    /// Wake-ups from now on. Subscribe before looking, so that none falls in between.
    ///
    /// [`broadcast::error::RecvError::Lagged`] means the same as [`Wake::Missed`].
    pub fn subscribe(&self) -> broadcast::Receiver<Wake> {
        self.sender.subscribe()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(db: PgPool, sender: broadcast::Sender<Wake>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match connect(&db).await {
            Ok(mut listener) => {
                pause = FIRST_PAUSE;
                // No watcher at this moment is no error.
                let _ = sender.send(Wake::Missed);
                let error = listen(&mut listener, &sender).await;
                tracing::warn!(error = %error, "the listener lost its connection to the database and makes a new one");
            }
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(error = %error, retry_in = ?pause, "the listener cannot connect to the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn connect(db: &PgPool) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen_all([JOB, QUEUE]).await?;
    Ok(listener)
}

/// Passes wake-ups on until the connection is lost.
async fn listen(listener: &mut PgListener, sender: &broadcast::Sender<Wake>) -> sqlx::Error {
    // Our own loop reconnects: it says `Missed`, and it waits longer each time.
    listener.eager_reconnect(false);
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) => {
                let _ = sender.send(wake(&notification));
            }
            Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
            Err(error) => return error,
        }
    }
}

fn wake(notification: &PgNotification) -> Wake {
    match notification.channel() {
        QUEUE => Wake::Queue,
        // A payload that is no id comes from someone else's statement; looking anew is always right.
        _ => Uuid::try_parse(notification.payload()).map_or(Wake::Missed, |job| Wake::Job(JobId(job))),
    }
}
