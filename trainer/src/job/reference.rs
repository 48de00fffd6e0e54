//! What the model said of the rows when training began: what a preference's answers are compared with.
//!
//! It is asked once, before the first step and before a checkpoint is taken up, of the model as it was uploaded (an adapter has
//! no say then). So no second model is in memory, and a job that goes on asks again and hears the same.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tch::Kind;

use super::evaluate::predictions;
use super::events::Events;
use super::setup::Session;
use crate::data::Split;

/// Asks it of all rows that are trained on, in the precision of training, and of those held out, in full.
pub fn ask(session: &mut Session, events: &mut Events) -> Result<()> {
    if !session.objective.has_reference() {
        return Ok(());
    }
    events
        .log(0, "Log-probabilities of the model as it is now are noted: answers are compared with them.")?;
    let of_train = of_split(session, &session.data.train, session.precision.kind())?;
    let validation =
        session.data.validation.as_ref().map(|split| of_split(session, split, Kind::Float)).transpose()?;
    let test = session.data.test.as_ref().map(|split| of_split(session, split, Kind::Float)).transpose()?;
    let train = Arc::get_mut(&mut session.data.train);
    ensure!(train.is_some(), "the training rows are in use before training begins");
    for (split, reference) in [
        (train, Some(of_train)),
        (session.data.validation.as_mut(), validation),
        (session.data.test.as_mut(), test),
    ] {
        if let (Some(split), Some(reference)) = (split, reference) {
            split.reference = reference;
        }
    }
    Ok(())
}

/// Sums of log-probabilities, one a sequence: the first of what an evaluation keeps of a row.
fn of_split(session: &Session, split: &Split, kind: Kind) -> Result<Vec<f64>> {
    let said = predictions(session, split, session.spec.training.batch_size, kind)?;
    let rows = said.outputs.chunks(session.objective.outputs());
    Ok(rows.flat_map(|row| &row[..split.per_row]).map(|&sum| f64::from(sum)).collect())
}
