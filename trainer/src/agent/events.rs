//! The job's events on their way from its file to the database, in order and in batches.

use std::time::Duration;

use store::event::{EventLine, Kind, Level};
use tokio::sync::mpsc::UnboundedSender;

use super::run::{Run, Stop};
use super::tail::{Line, Tail};
use super::workdir::Note;

/// Lines of one batch.
const MOST_LINES: usize = 500;
/// A batch is sent at most this often, unless it is full.
const GAP: Duration = Duration::from_millis(200);
/// The file is looked at even without a word from the job.
const POLL: Duration = Duration::from_secs(1);

/// A checkpoint that the job told of, still to be stored.
#[derive(Debug)]
pub(super) struct Told {
    /// Where its event begins in the file.
    pub(super) place: u64,
    pub(super) event: EventLine,
}

/// Sends what the file holds behind `note.stored`, until the process has ended and everything is stored.
pub(super) async fn send(run: &Run<'_>, note: Note, checkpoints: UnboundedSender<Told>) -> Result<(), Stop> {
    let mut tail = Tail::new(&run.dir.events(), note.stored);
    let mut note = note;
    let mut grown = run.grown.subscribe();
    let mut ended = run.ended.subscribe();
    loop {
        grown.mark_unchanged();
        // Asked before reading: what is written before the end is then read.
        let complete = *ended.borrow_and_update();
        let lines = tail.read(MOST_LINES).await.map_err(unreadable)?;
        let full = lines.len() == MOST_LINES;
        if lines.is_empty() {
            keep_note(run, &mut note, tail.offset());
            if complete {
                break;
            }
            tokio::select! {
                _ = grown.changed() => {}
                _ = ended.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
            continue;
        }
        send_lines(run, lines, &checkpoints).await?;
        keep_note(run, &mut note, tail.offset());
        if !full && !complete {
            let _ended = tokio::time::timeout(GAP, ended.changed()).await;
        }
    }
    drop(checkpoints);
    all_stored(run).await;
    keep_note(run, &mut note, tail.offset());
    Ok(())
}

async fn send_lines(
    run: &Run<'_>,
    lines: Vec<Line>,
    checkpoints: &UnboundedSender<Told>,
) -> Result<(), Stop> {
    let mut batch = Vec::with_capacity(lines.len());
    for line in lines {
        match parse(run, &line) {
            event if event.kind == Kind::Checkpoint => {
                // Everything before it is stored first: a stored checkpoint promises that.
                run.append(&std::mem::take(&mut batch)).await?;
                run.unstored.send_modify(|places| {
                    places.insert(line.start);
                });
                // Fails only when the receiver has stopped, which ends this future too.
                let _stopped = checkpoints.send(Told { place: line.start, event });
            }
            event if event.kind == Kind::Result => {
                run.append(&std::mem::take(&mut batch)).await?;
                all_stored(run).await;
                batch.push(event);
            }
            event => batch.push(event),
        }
    }
    run.append(&batch).await
}

/// Reads a line; one that is no event becomes a warning, so that nothing is dropped silently.
fn parse(run: &Run<'_>, line: &Line) -> EventLine {
    let problem = match serde_json::from_str::<EventLine>(&line.text) {
        Ok(event) if event.kind.is_curve() && event.step.is_none() => "it has no step".to_owned(),
        Ok(event) => {
            run.reached(&event);
            return event;
        }
        Err(error) => error.to_string(),
    };
    tracing::warn!(place = line.start, %problem, "the job wrote an event that cannot be read");
    let shown: String = line.text.chars().take(200).collect();
    let message = format!("The trainer wrote an event that cannot be read ({problem}): {shown}");
    run.word(line.start, Level::Warn, message)
}

/// Waits until no checkpoint is on its way.
async fn all_stored(run: &Run<'_>) {
    let mut unstored = run.unstored.subscribe();
    // The sender lives in `run`, so the wait ends by the set alone.
    let _stored = unstored.wait_for(|places| places.is_empty()).await;
}

fn keep_note(run: &Run<'_>, note: &mut Note, sent: u64) {
    let stored = run.unstored.borrow().first().copied().unwrap_or(sent);
    if stored != note.stored {
        note.stored = stored;
        // Without the note the lines are sent again, which changes nothing.
        if let Err(error) = run.dir.write_note(note) {
            tracing::warn!(%error, "the note about stored events cannot be written");
        }
    }
}

fn unreadable(error: std::io::Error) -> Stop {
    Stop::failed("events_unreadable", "The job's events could not be read", error)
}
