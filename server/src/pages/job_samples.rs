//! What a language model answered at its evaluations, as the page of its job shows it.

use serde_json::Value;
use sqlx::PgPool;
use store::event::{Event, Kind};
use store::job::Job;

use super::view::samples::{Folded, SampleAnswer, SampleColumn, SampleRow, SampleTable, SampleTurn};
use super::view::text;
use crate::Result;

/// Evaluations beside each other.
const SHOWN: usize = 6;

/// Answers of the newest evaluation, of the first and of some between; `None` where there are none.
pub async fn samples(db: &PgPool, job: &Job) -> Result<Option<SampleTable>> {
    let steps = store::event::steps(db, job.job_id, Kind::Samples).await?;
    let shown = chosen(&steps, job.best_step);
    let mut events = store::event::at_steps(db, job.job_id, Kind::Samples, &shown).await?;
    events.reverse();
    Ok(table(&events, steps.len(), job.best_step))
}

/// The steps to show: the first and the last two, that of the chosen weights, and others evenly between.
fn chosen(steps: &[i64], best: Option<i64>) -> Vec<i64> {
    if steps.len() <= SHOWN {
        return steps.to_vec();
    }
    let last = steps.len() - 1;
    let mut places = vec![0, last - 1, last];
    places.extend(best.and_then(|best| steps.binary_search(&best).ok()));
    places.sort_unstable();
    places.dedup();
    // Each time the middle of the widest gap.
    while places.len() < SHOWN {
        let gaps = places.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
        let Some((wide, from)) = gaps.max_by_key(|(wide, from)| (*wide, usize::MAX - from)) else { break };
        if wide < 2 {
            break;
        }
        places.push(from + wide / 2);
        places.sort_unstable();
    }
    places.into_iter().map(|place| steps[place]).collect()
}

/// The table of events, newest first, of so many in all.
fn table(events: &[Event], all: usize, best: Option<i64>) -> Option<SampleTable> {
    let columns: Vec<SampleColumn> = events
        .iter()
        .map(|event| SampleColumn { title: title(event), chosen: best.is_some() && event.step == best })
        .collect();
    let rows: Vec<SampleRow> = asked(events.first()?)
        .iter()
        .enumerate()
        .map(|(number, sample)| row(number, sample, events))
        .collect();
    let note = match all > columns.len() {
        true => format!("{} of {all} evaluations, the newest first", columns.len()),
        false => "the newest first".to_owned(),
    };
    let has_expected = rows.iter().any(|row| row.expected.is_some());
    Some(SampleTable { note, has_expected, columns, rows })
}

fn title(event: &Event) -> String {
    match event.step {
        None | Some(0) => "Before training".to_owned(),
        Some(step) => format!("Step {}", text::count(step.max(0) as u64)),
    }
}

fn asked(event: &Event) -> &[Value] {
    event.values["samples"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn row(number: usize, sample: &Value, events: &[Event]) -> SampleRow {
    let expected = sample["expected"].as_str();
    // Another attempt may have left out other prompts.
    let said = |event: &Event| {
        let same = |other: &&Value| other["prompt"] == sample["prompt"] && other["row"] == sample["row"];
        asked(event).iter().find(same).cloned()
    };
    let said: Vec<Option<Value>> = events.iter().map(said).collect();
    let text_of = |place: usize| said.get(place)?.as_ref()?["answer"].as_str();
    let answer = |(place, event): (usize, &Event)| {
        let text = text_of(place);
        let step = event.step.unwrap_or(0);
        SampleAnswer {
            title: title(event),
            text: text.map(|text| Folded::new(format!("sample-{number}-{step}"), text)),
            cut: said[place].as_ref().is_some_and(|said| said["finish"] == "length"),
            unchanged: text.is_some() && text == text_of(place + 1),
            right: text.is_some_and(|text| expected.is_some_and(|right| right.trim() == text.trim())),
        }
    };
    SampleRow {
        turns: turns(number, &sample["prompt"]),
        row: sample["row"].as_u64().map(|row| text::count(row + 1)).unwrap_or_default(),
        expected: expected.map(|text| Folded::new(format!("sample-{number}-expected"), text)),
        answers: events.iter().enumerate().map(answer).collect(),
    }
}

fn turns(number: usize, prompt: &Value) -> Vec<SampleTurn> {
    let turn = |place: usize, role: &str, text: &str| SampleTurn {
        role: role.to_owned(),
        text: Folded::new(format!("sample-{number}-turn-{place}"), text),
    };
    let Some(turns) = prompt.as_array() else {
        return vec![turn(0, "", prompt.as_str().unwrap_or_default())];
    };
    let alone = turns.len() == 1;
    let of = |(place, said): (usize, &Value)| {
        let role = said["role"].as_str().filter(|_| !alone).unwrap_or_default();
        turn(place, role, said["content"].as_str().unwrap_or_default())
    };
    turns.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_evaluations_the_first_the_newest_and_the_chosen_are_shown() {
        let steps: Vec<i64> = (0..=100).map(|n| n * 10).collect();
        assert_eq!(chosen(&steps, Some(730)), [0, 360, 540, 730, 990, 1000]);
        assert_eq!(chosen(&steps, None), [0, 240, 490, 740, 990, 1000]);
        // A step without samples is none of them.
        assert_eq!(chosen(&steps, Some(731)), chosen(&steps, None));
        assert_eq!(chosen(&steps[..4], Some(10)), steps[..4]);
        assert_eq!(chosen(&[], None), Vec::<i64>::new());
        assert_eq!(chosen(&steps[..7], Some(60)), [0, 10, 20, 30, 50, 60]);
    }
}
