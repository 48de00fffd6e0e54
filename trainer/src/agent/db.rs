//! Calls to the database that outlast an outage.

use std::future::Future;
use std::time::Duration;

use super::backoff::Backoff;

/// A call that hangs is as good as a lost connection.
const MOST: Duration = Duration::from_secs(30);

/// Calls until the database answers. Gives up only on an error that another try would not change.
pub(super) async fn until_answered<T, Call, Answer>(what: &str, mut call: Call) -> sqlx::Result<T>
where
    Call: FnMut() -> Answer,
    Answer: Future<Output = sqlx::Result<T>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut failures = 0_u32;
    loop {
        match once(call()).await {
            Ok(answer) => {
                if failures > 0 {
                    tracing::info!(what, failures, "the database answers again");
                }
                return Ok(answer);
            }
            Err(error) if is_outage(&error) => {
                if failures == 0 {
                    tracing::warn!(what, %error, "the database does not answer; trying again");
                }
                failures += 1;
                tokio::time::sleep(backoff.next()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One call, given up as an outage when it hangs.
pub(super) async fn once<T>(answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(MOST, answer).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Whether an error tells of the connection or the server's state rather than of the statement.
pub(super) fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection, a transaction that idled too long, a concurrent one, resources, shutdown, system error.
            ["08", "25P03", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out() {
        let calls = Cell::new(0);
        let answer = until_answered("test", || {
            calls.set(calls.get() + 1);
            let now = calls.get();
            async move { if now < 5 { Err(sqlx::Error::PoolTimedOut) } else { Ok(now) } }
        });
        assert_eq!(answer.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn an_error_of_the_statement_is_given_back() {
        let answer = until_answered::<(), _, _>("test", || async { Err(sqlx::Error::RowNotFound) }).await;
        assert!(matches!(answer, Err(sqlx::Error::RowNotFound)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_counts_as_an_outage() {
        let answer = once::<()>(std::future::pending()).await;
        assert!(is_outage(&answer.unwrap_err()));
    }
}
