//! What adapters add to a model, and what it needs less with them.

use super::model::{Model, Parameter, Place};
use crate::spec::{Adapter, Quantization, Training};

/// Numbers of a frozen matrix that share a scale, and scales that share one (`native::nf4`).
const BLOCK: u64 = 64;
const NESTED_BLOCK: u64 = 256;

impl Model {
    /// The model with the parameters of an adapter, if there is to be one.
    pub(super) fn with_adapter(&self, training: &Training) -> Model {
        let mut model = self.clone();
        let Some(adapter) = &training.lora else { return model };
        let adapted = self.parameters.iter().filter(|parameter| parameter.is_target(adapter));
        let added = adapted.flat_map(|parameter| {
            let layer = parameter.layer();
            let (outputs, inputs, rank) = (parameter.shape[0], parameter.shape[1], u64::from(adapter.rank));
            let made = |leaf: &str, shape: Vec<u64>| Parameter {
                name: format!("{layer}.{leaf}"),
                shape,
                place: parameter.place,
            };
            let length = adapter.dora.then(|| made("lora_magnitude_vector", vec![outputs]));
            let matrices = [("lora_A.weight", vec![rank, inputs]), ("lora_B.weight", vec![outputs, rank])];
            matrices.map(|(leaf, shape)| made(leaf, shape)).into_iter().chain(length).collect::<Vec<_>>()
        });
        model.parameters.extend(added.collect::<Vec<_>>());
        model
    }

    /// Bytes that adapters keep for the backward pass beside what layers do, of so many tokens.
    pub(super) fn adapter_activations(&self, training: &Training, tokens: u64, bytes: u64) -> u64 {
        let Some(adapter) = &training.lora else { return 0 };
        let layers = self.parameters.iter().filter(|parameter| parameter.is_target(adapter));
        let of_layer = |layer: &Parameter| {
            let dropped = if adapter.dropout > 0.0 { layer.shape[1] } else { 0 };
            // What the layer gives, and what the adapter does, are each scaled by row.
            let scaled = if adapter.dora { 2 * layer.shape[0] } else { 0 };
            bytes * tokens * (u64::from(adapter.rank) + dropped + scaled)
        };
        let all: u64 = layers.map(of_layer).sum();
        if training.gradient_checkpointing { all / self.layers.max(1) } else { all }
    }
}

impl Parameter {
    /// Whether it belongs to an adapter.
    pub(super) fn is_adapter(&self) -> bool {
        self.name.contains(".lora_")
    }

    /// Whether it is trained beside adapters: they, and the head. The pooler of a base that has none is, too, which is
    /// not known here.
    pub(super) fn is_trained_beside_adapters(&self) -> bool {
        let is_head = |part: &str| part.ends_with("classifier") || part == "score" || part == "qa_outputs";
        self.is_adapter() || self.name.split('.').any(is_head)
    }

    /// Bytes of a frozen matrix in 4 bits; `None` where it is not kept so.
    pub(super) fn quantized_bytes(&self, training: &Training) -> Option<u64> {
        let nf4 = training.lora.as_ref()?.quantization == Some(Quantization::Nf4);
        let is_kept = nf4 && self.is_linear() && !self.is_trained_beside_adapters();
        let scales = self.elements().div_ceil(BLOCK);
        is_kept.then(|| self.elements().div_ceil(2) + scales + 4 * scales.div_ceil(NESTED_BLOCK))
    }

    fn is_target(&self, adapter: &Adapter) -> bool {
        self.is_linear() && !self.is_trained_beside_adapters() && adapter.targets.mean(self.layer())
    }

    /// Whether it is the matrix of a linear layer.
    fn is_linear(&self) -> bool {
        self.shape.len() == 2 && self.place != Place::Embeddings && self.name.ends_with(".weight")
    }

    fn layer(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(layer, _)| layer)
    }
}
