//! What a model with an encoder and a decoder has, keeps and computes: counted as for the others, not measured.
//!
//! Layers are numbered through: the encoder's first, then the decoder's, in the order that gradients leave and reach them.
//! Tokens of a row are those of its source and of its target; how they share is told by the rows ([`super::Rows`]).

use formats::Problem;
use formats::checkpoint::{Config, EncoderDecoderSizes, encoder_decoder_tensors};

use super::model::{Flow, Model, Parameter, Place};
use crate::spec::Training;

/// Positions of models that have no end of them.
const ENDLESS: u64 = 1 << 20;

impl Model {
    /// A model that writes one text from another.
    ///
    /// # Errors
    /// A size that is not given.
    pub fn of_encoder_decoder(config: &Config) -> Result<Model, Problem> {
        let sizes = EncoderDecoderSizes::of(config)?;
        let parameters = encoder_decoder_tensors(config)?
            .into_iter()
            .map(|(name, shape)| Parameter { place: place_of(&name, sizes.layers[0]), name, shape })
            .collect();
        Ok(Model {
            hidden: sizes.hidden,
            intermediate: sizes.inner[0].max(sizes.inner[1]),
            heads: sizes.heads[0].max(sizes.heads[1]),
            layers: sizes.layers[0] + sizes.layers[1],
            positions: config.max_position_embeddings.unwrap_or(ENDLESS),
            has_head: false,
            decoder: None,
            both: Some(sizes),
            parameters,
        })
    }

    /// [`Model::flops`] of a model with both: `tokens` and `squares` as there, of which this share is the target's.
    pub(super) fn both_flops(
        &self,
        sizes: &EncoderDecoderSizes,
        training: &Training,
        [tokens, squares, share]: [f64; 3],
    ) -> f64 {
        let again = if training.gradient_checkpointing { 1.0 } else { 0.0 };
        let whole = if training.lora.is_none() { 1.0 } else { 0.0 };
        let [d, q, v, products] =
            [sizes.hidden, sizes.queries, sizes.vocabulary, sizes.products].map(|size| size as f64);
        let (sources, targets) = (tokens * (1.0 - share), tokens * share);
        let layer = |(number, flow): (usize, Flow)| {
            let side = sizes.side(number);
            let m = sizes.inner[side] as f64;
            let (products, attention) = match side {
                0 => {
                    let pairs = squares * (1.0 - share) * (1.0 - share);
                    (2.0 * sources * (4.0 * d * q + products * d * m), 4.0 * pairs * q)
                }
                // Half of the pairs of a target's tokens see each other; each sees the whole source.
                _ => {
                    let own = 2.0 * targets * (6.0 * d * q + products * d * m) + 2.0 * sources * 2.0 * d * q;
                    (own, squares * share * (2.0 * share + 4.0 * (1.0 - share)) * q)
                }
            };
            let inputs = if flow.enters || flow.trained { 1.0 } else { 0.0 };
            let weights = if flow.trained { whole } else { 0.0 };
            (1.0 + inputs + weights + again * inputs) * products + (1.0 + (2.0 + again) * inputs) * attention
        };
        let layers: f64 = self.flow(&self.trained(training)).into_iter().enumerate().map(layer).sum();
        layers + 2.0 * targets * d * v * (2.0 + whole)
    }
}

/// What layers of a side need to know of both.
pub(super) trait Sides {
    /// 0 for a layer of the encoder, 1 for one of the decoder.
    fn side(&self, layer: usize) -> usize;

    /// Numbers that a layer keeps for the backward pass in the format of activations, and those in fp32, for so many tokens of
    /// sources and of targets.
    fn kept(&self, layer: usize, flow: Flow, tokens: [u64; 2]) -> [u64; 2];
}

impl Sides for EncoderDecoderSizes {
    fn side(&self, layer: usize) -> usize {
        usize::from(layer as u64 >= self.layers[0])
    }

    fn kept(&self, layer: usize, flow: Flow, [sources, targets]: [u64; 2]) -> [u64; 2] {
        if !flow.enters && !flow.trained {
            return [0, 0];
        }
        let side = self.side(layer);
        let (d, q, m) = (self.hidden, self.queries, self.inner[side]);
        let own = if side == 0 { sources } else { targets };
        let inputs = if flow.trained { 1 } else { 0 };
        // What is normed; queries, keys, values; what the activation function reads; the inputs of products.
        let opened = (self.products - 1) * m;
        let block = 2 * d + 3 * q + opened + inputs * (2 * d + q + m);
        // Queries of the source with what is normed before them, and its keys and values.
        let crossed = own * (d + q + inputs * (d + q)) + 2 * sources * q;
        let heads = self.heads[side] + 2;
        match side {
            0 => [own * block, own * heads],
            _ => [own * block + crossed, own * 2 * heads],
        }
    }
}

fn place_of(name: &str, encoder_layers: u64) -> Place {
    // A table, though it lies in a layer.
    if name.contains("relative_attention_bias") {
        return Place::Embeddings;
    }
    let number = |marks: [&str; 2]| {
        let after = marks.iter().find_map(|mark| name.split_once(mark))?.1;
        after.split('.').next()?.parse::<u64>().ok()
    };
    let encoder = number(["encoder.block.", "encoder.layers."]);
    let decoder = number(["decoder.block.", "decoder.layers."]);
    match (encoder, decoder) {
        (Some(layer), _) => Place::Layer(layer),
        (_, Some(layer)) => Place::Layer(encoder_layers + layer),
        _ if name.starts_with("lm_head.") || name.contains("coder.final_layer_norm") => Place::Head,
        _ if name.ends_with("coder.layer_norm.weight") || name.ends_with("coder.layer_norm.bias") => {
            Place::Head
        }
        _ => Place::Embeddings,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Machine, Rows, estimate};
    use super::*;
    use crate::spec::{JobSpec, Task};

    fn model(config: Value) -> Model {
        Model::of_task(Task::Translation, &serde_json::from_value(config).unwrap(), 0).unwrap()
    }

    fn elements(model: &Model) -> u64 {
        model.parameters.iter().map(Parameter::elements).sum()
    }

    /// Parameters as transformers counts them in t5-small, bart-base and opus-mt-en-fr (without its table of waves).
    #[test]
    fn parameters_are_those_of_known_checkpoints() {
        let t5 = model(json!({"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
            "num_heads": 8, "vocab_size": 32128, "relative_attention_num_buckets": 32, "n_positions": 512}));
        assert_eq!((elements(&t5), t5.layers, t5.positions), (60_506_624, 12, ENDLESS));
        let bart =
            model(json!({"model_type": "bart", "d_model": 768, "encoder_layers": 6, "decoder_layers": 6,
            "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072, "vocab_size": 50265, "max_position_embeddings": 1024}));
        assert_eq!((elements(&bart), bart.positions), (139_420_416, 1024));
        let marian =
            model(json!({"model_type": "marian", "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
            "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048, "vocab_size": 59514, "max_position_embeddings": 512}));
        assert_eq!(elements(&marian), 59_514 * 512 + 44_138_496);
    }

    #[test]
    fn longer_targets_and_all_else_that_is_kept_cost_memory() {
        let t5 = model(json!({"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
            "num_heads": 8, "vocab_size": 32128}));
        let of = |training: Value, share: f64| {
            let spec: JobSpec = serde_json::from_value(json!({"task": "translation",
                "columns": {"source": "en", "target": "fr"}, "data": {"train": "a"}, "training": training}))
            .unwrap();
            let rows = Rows::new(1000, 0, [128; 50], 512).with_targets(share);
            estimate(&t5, &spec, &rows, Machine::default())
        };
        let half = of(json!({}), 0.5);
        assert_eq!(half.weights, 4 * 60_506_624);
        let tokens = 32 * 64;
        let numbers = tokens * (2 * 512 + 3 * 512 + 2048 + 2 * 512 + 512 + 2048);
        let crossed = tokens * (4 * 512 + 2 * 512);
        let layers = 6 * (4 * numbers + 4 * tokens * 10) + 6 * (4 * (numbers + crossed) + 4 * tokens * 20);
        assert_eq!(half.activations, layers + 8 * 2 * tokens * 512);
        assert!(of(json!({}), 0.9).activations > half.activations, "decoder layers keep more a token");
        assert!(of(json!({}), 0.9).flops_per_step > half.flops_per_step);
        let again = of(json!({"gradient_checkpointing": true}), 0.5);
        assert!(again.activations < half.activations / 4, "{again:?}");
        assert!(of(json!({"lora": {"rank": 8}}), 0.5).optimizer < half.optimizer / 20);
    }
}
