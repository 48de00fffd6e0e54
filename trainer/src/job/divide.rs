//! Which part of the model each process of a job has.

use anyhow::Result;
use formats::checkpoint::Weights;
use serde_json::Value;
use store::spec::JobSpec;
use tch::{Device, Tensor};

use super::pass::Stage;
use super::ranks::Ranks;
use crate::failure::Failure;
use crate::models::{self, Head, TextModel};
use crate::nn::{Loader, Part};

/// The part of the model that this process is to have.
pub fn part(config: &Value, weights: &Weights, spec: &JobSpec, head: Head, ranks: &Ranks) -> Result<Part> {
    let grid = ranks.grid();
    if grid.model() == 1 {
        return Ok(Part::whole());
    }
    let base = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
    let survey = Part::survey(grid.shares as i64);
    let loader = Loader::new(weights, base, u64::from(spec.seed), Device::Cpu).part(survey);
    let model = models::build(config, &loader, head, spec.training.dropout)?;
    let names = loader.surveyed()?;
    let layers = model.layers();
    if grid.stages > layers {
        let message = format!("pipeline_stages is {}, and the model has {layers} layers.", grid.stages);
        return Err(Failure::user("invalid_pipeline_stages", message).at("resources.pipeline_stages").into());
    }
    if grid.stages > 1 && model.is_tied() {
        let message = "The word embedding of this model is its output layer as well, so its first and its last stage cannot \
                       be in different processes; set pipeline_stages to 1 and take tensor_parallel.";
        return Err(Failure::user("invalid_pipeline_stages", message).at("resources.pipeline_stages").into());
    }
    let elsewhere = |name: &String| grid.stage_of(model.depth(name), layers) != ranks.place().stage;
    Ok(Part {
        group: ranks.sharing()?,
        shares: grid.shares as i64,
        absent: Some(names.into_iter().filter(elsewhere).collect()),
        survey: false,
    })
}

/// The layers of this process; `width` computes that of a token's state where they are not all.
pub fn stage<'a>(
    ranks: &Ranks,
    model: &dyn TextModel,
    params: impl Iterator<Item = &'a (String, Tensor)>,
    spec: &JobSpec,
    width: impl Fn() -> i64,
) -> Result<Stage> {
    let (grid, own, layers) = (ranks.grid(), ranks.place().stage, model.layers());
    let trained = params.filter(|(_, param)| param.requires_grad());
    let earliest = trained.map(|(name, _)| grid.stage_of(model.depth(name), layers)).min().unwrap_or(0);
    let first = own == 0;
    let width = match grid.stages {
        1 => 0,
        _ => ranks.greatest([if first { width() } else { 0 }])?[0],
    };
    Ok(Stage {
        layers: grid.layers(own, layers),
        first,
        last: own + 1 == grid.stages,
        gives_back: earliest < own,
        goes_back: earliest <= own,
        width,
        again: spec.training.gradient_checkpointing,
    })
}
