//! What the model said of the rows when training began: what answers are compared with.
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
    let held_out =
        |split: &Option<Split>| split.as_ref().map(|split| said(session, split, Kind::Float)).transpose();
    let of_train = said(session, &session.data.train, session.precision.kind())?;
    let (validation, test) = (held_out(&session.data.validation)?, held_out(&session.data.test)?);
    let train = Arc::get_mut(&mut session.data.train);
    ensure!(train.is_some(), "the training rows are in use before training begins");
    for (split, said) in [
        (train, Some(of_train)),
        (session.data.validation.as_mut(), validation),
        (session.data.test.as_mut(), test),
    ] {
        if let (Some(split), Some((own, of_others))) = (split, said) {
            split.reference = own;
            if let (Some(mismatched), Some(of_others)) = (&mut split.mismatched, of_others) {
                mismatched.reference = of_others;
            }
        }
    }
    Ok(())
}

/// What it says of a split, and of its prompts with the answers of others where it has such.
fn said(session: &Session, split: &Split, kind: Kind) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
    let of_others = split.mismatched.as_ref().map(|mismatched| of_split(session, mismatched, kind));
    Ok((of_split(session, split, kind)?, of_others.transpose()?))
}

/// Sums of log-probabilities, one a sequence: the first of what an evaluation keeps of a row.
fn of_split(session: &Session, split: &Split, kind: Kind) -> Result<Vec<f64>> {
    let said = predictions(session, split, session.spec.training.batch_size, kind)?;
    let rows = said.outputs.chunks(session.objective.outputs());
    Ok(rows.flat_map(|row| &row[..split.per_row]).map(|&sum| f64::from(sum)).collect())
}
