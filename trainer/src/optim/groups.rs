//! Which parameters are trained, and with which weight decay and share of the learning rate.

use std::sync::LazyLock;

use anyhow::Result;
use regex::Regex;
use store::spec::{Freeze, Optimizer, Training};
use tch::Tensor;

use crate::failure::Failure;
use crate::models::Depth;

/// Parameters that are updated alike.
#[derive(Debug)]
pub struct Group {
    /// Names and tensors, which share memory with the model's.
    pub params: Vec<(String, Tensor)>,
    /// Share of the learning rate.
    pub lr_scale: f64,
    /// Weight decay, as the optimizer's rule has it.
    pub weight_decay: f64,
    /// Whether they belong to layers and not to embeddings or head; Muon asks.
    pub hidden: bool,
}

/// Groups the trainable ones of `params` and switches gradients on for them, off for the others.
///
/// `layers` is the number of encoder layers, `depth` tells where a parameter lies. The learning rate of a layer is
/// `training.layer_decay` raised to its distance from the head: the head has 1, the top layer one factor, the embeddings
/// `layers + 1` factors.
///
/// # Errors
/// A [`Failure`] of the user when nothing is left to train, when more layers are to be frozen than there are, or when
/// the pattern is wrong or matches no name.
pub fn build(
    training: &Training,
    params: &[(String, Tensor)],
    layers: usize,
    depth: impl Fn(&str) -> Depth,
) -> Result<Vec<Group>> {
    let frozen = Frozen::new(&training.freeze, params, layers)?;
    let mut groups: Vec<Group> = Vec::new();
    // Fewer groups are fewer calls, so only who asks gets two.
    let divides = matches!(training.optimizer, Optimizer::Muon { .. });
    for (name, tensor) in params {
        let depth = depth(name);
        let trained = match training.lora {
            // The loader has marked the adapters and the head.
            Some(_) => tensor.requires_grad(),
            None => !frozen.holds(name, depth),
        };
        let _ = tensor.set_requires_grad(trained);
        if !trained {
            continue;
        }
        let lr_scale = training.layer_decay.powi(distance(depth, layers));
        let weight_decay = if decays(name, tensor) { training.weight_decay } else { 0.0 };
        let hidden = divides && matches!(depth, Depth::Layer(_));
        let param = (name.clone(), tensor.shallow_clone());
        let alike = |group: &&mut Group| {
            group.lr_scale == lr_scale && group.weight_decay == weight_decay && group.hidden == hidden
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.params.push(param),
            None => groups.push(Group { params: vec![param], lr_scale, weight_decay, hidden }),
        }
    }
    if groups.is_empty() {
        let message = "Every parameter is frozen, so there is nothing to train. Freeze less.";
        return Err(Failure::user("nothing_to_train", message).at("training.freeze").into());
    }
    Ok(groups)
}

/// Whether weight decay applies: not to biases and norms.
///
/// The names are those that transformers' `Trainer` leaves out. It also leaves out every parameter of a `LayerNorm`
/// whatever its name; here that is every parameter of one dimension, which in addition covers scales of layers.
pub fn decays(name: &str, tensor: &Tensor) -> bool {
    static LEFT_OUT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)")
            .expect("a constant that compiles")
    });
    tensor.dim() > 1 && !LEFT_OUT.is_match(name)
}

/// How many factors of layer decay a place has.
fn distance(depth: Depth, layers: usize) -> i32 {
    let steps = match depth {
        Depth::Head => 0,
        Depth::Layer(layer) => layers.saturating_sub(layer),
        Depth::Embeddings => layers + 1,
    };
    i32::try_from(steps).unwrap_or(i32::MAX)
}

/// What of the model keeps its weights.
struct Frozen<'a> {
    freeze: &'a Freeze,
    pattern: Option<Regex>,
}

impl<'a> Frozen<'a> {
    fn new(freeze: &'a Freeze, params: &[(String, Tensor)], layers: usize) -> Result<Self, Failure> {
        if freeze.first_layers as usize > layers {
            let message =
                format!("{} layers are to be frozen, but the model has {layers}.", freeze.first_layers);
            return Err(Failure::user("too_many_layers", message).at("training.freeze.first_layers"));
        }
        let pattern = freeze.pattern.as_deref().map(|text| compile(text, params)).transpose()?;
        Ok(Frozen { freeze, pattern })
    }

    fn holds(&self, name: &str, depth: Depth) -> bool {
        let by_depth = match depth {
            Depth::Embeddings => self.freeze.embeddings || self.freeze.except_head,
            Depth::Layer(layer) => layer < self.freeze.first_layers as usize || self.freeze.except_head,
            Depth::Head => false,
        };
        by_depth || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
    }
}

/// A pattern that freezes nothing is a mistake that would show only in the result.
fn compile(text: &str, params: &[(String, Tensor)]) -> Result<Regex, Failure> {
    let at = "training.freeze.pattern";
    let pattern = Regex::new(text).map_err(|error| {
        Failure::user("bad_pattern", format!("`{text}` is no regular expression: {error}")).at(at)
    })?;
    if params.iter().any(|(name, _)| pattern.is_match(name)) {
        return Ok(pattern);
    }
    let some: Vec<&str> = params.iter().take(3).map(|(name, _)| name.as_str()).collect();
    let message = format!("`{text}` matches no parameter; names are such as {}.", some.join(", "));
    Err(Failure::user("pattern_matches_nothing", message).at(at))
}
