//! Which layers of a model have an adapter, and what is trained whole beside them.

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::Result;
use native::Nf4;
use store::spec::{Adapter, Quantization, Targets, is_named};
use tch::Kind;

use super::Init;
use super::load::{Loader, Path};
use super::low_rank::{Factor, Frozen, LowRank};
use super::names::listed;
use crate::failure::Failure;
use crate::tensors::Named;

/// What a model is to have: the settings, and modules that an adapter from elsewhere holds whole.
pub(super) struct Wanted {
    pub(super) settings: Adapter,
    pub(super) saved: Vec<String>,
}

/// Linear layers as they are found.
#[derive(Default)]
pub(super) struct Found {
    layers: Vec<Layer>,
    saved: BTreeSet<String>,
}

/// A frozen linear layer.
struct Layer {
    name: String,
    frozen: Frozen,
    low_rank: Option<Rc<LowRank>>,
    by_column: bool,
}

/// The adapters of a model.
pub struct Adapters {
    /// Their settings.
    pub settings: Adapter,
    layers: Vec<Layer>,
    saved: BTreeSet<String>,
}

impl Adapters {
    /// The layers that have one, as the ends of their names that are the same in each block: what peft takes for targets.
    pub fn targets(&self) -> Vec<String> {
        let adapted = self.layers.iter().filter(|layer| layer.low_rank.is_some());
        adapted.map(|layer| end_of(&layer.name).to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Modules that are trained whole: the head.
    pub fn saved(&self) -> Vec<String> {
        let whole = |name: &String| match name.split('.').position(is_classifier) {
            Some(at) => name.split('.').take(at + 1).collect::<Vec<_>>().join("."),
            None => name.clone(),
        };
        self.saved.iter().map(whole).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Bytes of frozen weights that are kept in 4 bits.
    pub fn quantized_bytes(&self) -> u64 {
        let bytes = |layer: &Layer| match &layer.frozen {
            Frozen::Nf4(kept) => kept.bytes(),
            Frozen::Whole { .. } => 0,
        };
        self.layers.iter().map(bytes).sum()
    }

    /// The model's parameters as a model without adapters has them, of `params`, all that this one has.
    pub fn merged(&self, params: &Named) -> Named {
        let weight_of = |layer: &Layer| format!("{}.weight", layer.name);
        let replaced: BTreeSet<String> = self.layers.iter().map(weight_of).collect();
        let kept = params.iter().filter(|(name, _)| !is_adapter(name) && !replaced.contains(name));
        let mut merged: Named = kept.map(|(name, param)| (name.clone(), param.shallow_clone())).collect();
        for layer in &self.layers {
            let kind = match &layer.frozen {
                Frozen::Whole { weight, .. } => weight.kind(),
                Frozen::Nf4(_) => Kind::Float,
            };
            let weight = layer.low_rank.as_ref().map_or_else(
                || layer.frozen.weight(),
                |low_rank| tch::no_grad(|| low_rank.merged(&layer.frozen)),
            );
            let weight = if layer.by_column { weight.transpose(0, 1).contiguous() } else { weight };
            merged.push((weight_of(layer), weight.to_kind(kind)));
        }
        merged
    }
}

/// Whether a parameter is one of an adapter.
fn is_adapter(name: &str) -> bool {
    [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"].iter().any(|end| name.ends_with(end))
}

/// A name without its beginning up to the number of its block: `attention.self.query`.
fn end_of(name: &str) -> &str {
    let number = |(at, part): (usize, &str)| part.parse::<u32>().is_ok().then_some(at + part.len() + 1);
    let mut at = 0;
    let places = name.split('.').map(|part| {
        let place = (at, part);
        at += part.len() + 1;
        place
    });
    places.filter_map(number).last().map_or(name, |start| &name[start..])
}

/// What peft takes for the head of a classifier, or of a model that answers questions, whatever stands before it in its name.
fn is_classifier(part: &str) -> bool {
    part.ends_with("classifier") || part == "score" || part == "qa_outputs"
}

impl Found {
    /// # Errors
    /// A [`Failure`] of the user where a target is no layer of the model.
    pub(super) fn finish(self, wanted: Wanted) -> Result<Adapters> {
        let Wanted { settings, .. } = wanted;
        if let Targets::Named(targets) = &settings.targets {
            // peft names layers of the head too, which it then trains whole.
            let is_layer = |target: &String| self.layers.iter().any(|layer| is_named(&layer.name, target));
            let is_known =
                |target: &String| is_layer(target) || self.saved.iter().any(|saved| is_named(saved, target));
            let absent = targets.iter().find(|target| !is_known(target));
            let none = targets.first().filter(|_| !targets.iter().any(is_layer));
            if let Some(target) = absent.or(none) {
                let names = self.layers.iter().map(|layer| end_of(&layer.name).to_owned());
                let names: Vec<String> = names.collect::<BTreeSet<_>>().into_iter().collect();
                let message = format!(
                    "The model has no linear layer called `{target}` that an adapter could stand beside; it has {}.",
                    listed(&names)
                );
                return Err(Failure::user("no_such_layer", message).at("training.lora.targets").into());
            }
        }
        Ok(Adapters { settings, layers: self.layers, saved: self.saved })
    }
}

impl Loader<'_> {
    /// Makes adapters beside the layers that `settings` mean, and trains nothing else but the head.
    pub fn adapted(self, settings: Option<&Adapter>) -> Self {
        self.adapted_as(settings, Vec::new())
    }

    /// [`Loader::adapted`], where modules of these names are trained whole too.
    pub fn adapted_as(mut self, settings: Option<&Adapter>, saved: Vec<String>) -> Self {
        self.wanted = settings.map(|settings| Wanted { settings: settings.clone(), saved });
        self
    }
}

impl Path<'_> {
    /// Whether the parameters right here are trained.
    pub(super) fn is_trained(&self) -> bool {
        let Some(wanted) = &self.loader.wanted else { return true };
        let is_new = || self.may_be_new && !self.loader.names.contains_key(&format!("{}.weight", self.name));
        let trained = self.name.split('.').any(is_classifier)
            || wanted.saved.iter().any(|saved| lies_below(&self.name, saved))
            || is_new();
        if trained {
            self.loader.state.borrow_mut().found.saved.insert(self.name.clone());
        }
        trained
    }

    /// Whether the weights right here are kept in 4 bits.
    pub(super) fn is_quantized(&self) -> bool {
        let nf4 = |wanted: &Wanted| wanted.settings.quantization == Some(Quantization::Nf4);
        self.loader.wanted.as_ref().is_some_and(nf4) && !self.is_trained()
    }

    /// The weights right here in 4 bits. What is wrong with them is reported by [`Loader::finish`].
    pub(super) fn quantized(&self, shape: &[i64], init: Init) -> Rc<Nf4> {
        let whole = match self.by_column {
            true => self.unregistered("weight", &[shape[1], shape[0]], init).transpose(0, 1).contiguous(),
            false => self.unregistered("weight", shape, init),
        };
        Rc::new(Nf4::quantize(&whole).unwrap())
    }

    /// The adapter of the layer right here, if it is to have one.
    pub(super) fn low_rank(&self, frozen: Frozen, inputs: i64, outputs: i64) -> Option<Rc<LowRank>> {
        let wanted = self.loader.wanted.as_ref().filter(|_| !self.is_trained())?;
        let is_target = wanted.settings.targets.mean(&self.name);
        let low_rank =
            is_target.then(|| Rc::new(LowRank::new(self, &frozen, inputs, outputs, &wanted.settings)));
        let (name, by_column) = (self.name.clone(), self.by_column);
        let layer = Layer { name, frozen, low_rank: low_rank.clone(), by_column };
        self.loader.state.borrow_mut().found.layers.push(layer);
        low_rank
    }

    /// A matrix of an adapter: drawn evenly between ± `bound`, or 0.
    pub(super) fn factor(&self, name: &str, shape: &[i64], bound: Option<f64>) -> Factor {
        let init = bound.map_or(Init::Zeros, Init::Uniform);
        let param = self.adapter_param(name, self.drawn(name, shape, init));
        let low = self.low(name, &param);
        Factor { param, low }
    }
}

/// Whether `name` is the module `saved`, wherever that lies, or below it.
fn lies_below(name: &str, saved: &str) -> bool {
    let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|end| is_named(&name[..end], saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_after_the_last_number() {
        assert_eq!(end_of("bert.encoder.layer.11.attention.self.query"), "attention.self.query");
        assert_eq!(end_of("bert.pooler.dense"), "bert.pooler.dense");
    }

    #[test]
    fn what_lies_below_a_module_is_its_own() {
        assert!(lies_below("classifier.dense", "classifier") && lies_below("bert.pooler.dense", "pooler"));
        assert!(!lies_below("bert.poolers.dense", "pooler"));
    }
}
