//! Processes of the trainer that have a model loaded: started at the first question, kept while questions come.
//!
//! [`Program`] lays out a model's files and starts a process on them. [`Warm`] keeps a few such processes by the content
//! of their model: each ends after some time without a question, and where all places are taken the one that was idle
//! longest gives way. A process at work never does: who finds no place waits for one.

mod program;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use program::{Program, Started, content_name};

use crate::{Error, Result};

/// Time that a question waits for a place.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kept processes, each behind the name of its model's content.
#[derive(Debug)]
pub struct Warm<T> {
    most: usize,
    keep: Duration,
    slots: Mutex<HashMap<String, Arc<Slot<T>>>>,
    freed: Arc<Notify>,
}

/// The place of one process.
#[derive(Debug)]
struct Slot<T> {
    /// Locked while it is started; empty before, and once it is of no more use.
    process: tokio::sync::Mutex<Option<T>>,
    work: Mutex<Work>,
}

/// How much a process is asked.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Questions that it is at.
    pub questions: usize,
    /// When it was last given a question, or done with one.
    pub used: Instant,
}

/// A question's hold on a process; it stays while this lives.
#[derive(Debug)]
pub struct Use<T> {
    slot: Arc<Slot<T>>,
    freed: Arc<Notify>,
}

impl<T> Warm<T> {
    /// Keeps at most `most` processes, each for `keep` after its last question.
    pub fn new(most: usize, keep: Duration) -> Self {
        Warm { most, keep, slots: Mutex::default(), freed: Arc::default() }
    }

    /// The place for a content; while every place is at work for others, waits for one.
    pub async fn place(&self, content: &str) -> Result<Use<T>> {
        let full = |_| {
            Error::Unavailable(format!(
                "{} models are answering at the moment, as many as are kept loaded; try again when one of them is done",
                self.most
            ))
        };
        tokio::time::timeout(PATIENCE, self.wait_for_place(content)).await.map_err(full)
    }

    async fn wait_for_place(&self, content: &str) -> Use<T> {
        loop {
            // Before the look, or a place that is freed between the two would be missed.
            let freed = self.freed.notified();
            if let Some(place) = self.try_place(content) {
                return place;
            }
            freed.await;
        }
    }

    fn try_place(&self, content: &str) -> Option<Use<T>> {
        let mut slots = self.slots();
        if !slots.contains_key(content) && slots.len() >= self.most {
            let idle = slots.iter().filter(|(_, slot)| slot.work().questions == 0);
            let oldest = idle.min_by_key(|(_, slot)| slot.work().used).map(|(content, _)| content.clone())?;
            slots.remove(&oldest);
        }
        let slot = slots.entry(content.to_owned()).or_default().clone();
        slot.work().questions += 1;
        Some(Use { slot, freed: self.freed.clone() })
    }

    /// Ends the processes that nobody has asked for a while.
    pub fn cool_down(&self) {
        self.slots().retain(|_, slot| {
            let work = slot.work();
            work.questions > 0 || work.used.elapsed() <= self.keep
        });
        self.freed.notify_waiters();
    }

    /// Lets go of the processes that `leaves` names: one at work ends when it is done, and gets no more questions.
    pub fn release(&self, leaves: impl Fn(&T) -> bool) {
        self.slots().retain(|_, slot| {
            // One that is being started has no answer yet to the question.
            slot.process.try_lock().map_or(true, |process| !process.as_ref().is_some_and(&leaves))
        });
        self.freed.notify_waiters();
    }

    /// What `look` says of each process that has started.
    pub fn each<R>(&self, look: impl Fn(&T, Work) -> R) -> Vec<R> {
        let slots = self.slots();
        let seen = |slot: &Arc<Slot<T>>| Some(look(slot.process.try_lock().ok()?.as_ref()?, *slot.work()));
        slots.values().filter_map(seen).collect()
    }

    /// Lets go of all processes.
    pub fn clear(&self) {
        self.slots().clear();
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot<T>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slot<T> {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        let work = Work { questions: 0, used: Instant::now() };
        Slot { process: tokio::sync::Mutex::new(None), work: Mutex::new(work) }
    }
}

impl<T> Use<T> {
    /// The process, if it was started, for this question alone until the guard is dropped.
    pub async fn process(&self) -> tokio::sync::MutexGuard<'_, Option<T>> {
        self.slot.process.lock().await
    }
}

impl<T> Drop for Use<T> {
    fn drop(&mut self) {
        let mut work = self.slot.work();
        work.questions -= 1;
        work.used = Instant::now();
        drop(work);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(warm: &Warm<u32>, content: &str, value: u32) -> Use<u32> {
        let place = warm.place(content).await.unwrap();
        *place.process().await = Some(value);
        place
    }

    fn kept(warm: &Warm<u32>) -> Vec<u32> {
        let mut kept = warm.each(|value, _| *value);
        kept.sort_unstable();
        kept
    }

    #[tokio::test]
    async fn the_one_that_was_idle_longest_gives_way_and_one_at_work_does_not() {
        let warm = Warm::new(2, Duration::from_secs(60));
        let first = fill(&warm, "first", 1).await;
        drop(fill(&warm, "second", 2).await);
        drop(fill(&warm, "third", 3).await);
        assert_eq!(kept(&warm), [1, 3]);
        drop(first);
        drop(fill(&warm, "fourth", 4).await);
        assert_eq!(kept(&warm), [1, 4], "the first was used last");
    }

    #[tokio::test]
    async fn who_finds_every_place_at_work_waits_for_one() {
        let warm = Warm::new(1, Duration::from_secs(60));
        let first = fill(&warm, "first", 1).await;
        let (second, ()) = tokio::join!(warm.place("second"), async { drop(first) });
        assert!(second.unwrap().process().await.is_none(), "the place was emptied for it");
    }

    #[tokio::test]
    async fn one_that_is_let_go_at_work_stays_until_it_is_done() {
        let warm = Warm::new(2, Duration::from_secs(60));
        let held = fill(&warm, "first", 1).await;
        warm.release(|value| *value == 1);
        assert!(kept(&warm).is_empty());
        assert_eq!(*held.process().await, Some(1));
        assert!(warm.place("first").await.unwrap().process().await.is_none(), "others get a new one");
    }

    #[tokio::test]
    async fn what_is_idle_cools_down() {
        let warm = Warm::new(2, Duration::ZERO);
        let held = fill(&warm, "first", 1).await;
        drop(fill(&warm, "second", 2).await);
        std::thread::sleep(Duration::from_millis(2));
        warm.cool_down();
        assert_eq!(kept(&warm), [1]);
        drop(held);
    }
}
