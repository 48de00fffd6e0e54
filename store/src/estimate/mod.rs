//! How much memory a job will take at most, and how much it will compute, told before it starts.
//!
//! Bytes are counted from what the trainer keeps: parameters, what layers keep for the backward pass, gradients, the
//! optimizer's state, and the copy that is made of weights and state to write them. What cannot be counted (libtorch
//! itself, its kernels' scratch space) is measured, in [`runtime`]. On a CPU; a GPU keeps the same tensors.

mod adapter;
mod encoder_decoder;
mod memory;
mod model;
mod rows;
mod ways;

pub use memory::Machine;
pub use model::{Model, Parameter, Place};
pub use rows::Rows;
pub use ways::{Way, fitting, ways};

use serde::{Deserialize, Serialize};

use crate::spec::{JobSpec, Training};

/// Memory in bytes, and work, of one process of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Parameters.
    pub weights: u64,
    /// Copies of the layers' parameters in fewer bits.
    pub copies: u64,
    /// Gradients, without those of large tables, which come by row.
    pub gradients: u64,
    /// The optimizer's state.
    pub optimizer: u64,
    /// What the forward pass of the greatest batch keeps for the backward pass.
    pub activations: u64,
    /// The most that passing buffers take beside all this: of the backward pass, of the optimizer, of writing a checkpoint.
    pub buffers: u64,
    /// The program with its libraries, and the rows.
    pub runtime: u64,
    /// The most that is held at once; less than the sum of the parts, which do not all stand at the same time.
    pub peak: u64,
    /// Processes, of which each takes `peak`.
    pub processes: u64,
    /// Optimizer steps of the whole training.
    pub steps: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: u64,
    /// Tokens of a step, on average.
    pub tokens_per_step: u64,
    /// Tokens of the greatest batch of one process.
    pub tokens_at_once: u64,
    /// Floating-point operations of a step, on average, in all processes.
    pub flops_per_step: f64,
}

impl Estimate {
    /// What all processes take together.
    pub fn total(&self) -> u64 {
        self.peak * self.processes
    }
}

/// Estimates a job: its model, settings, and rows.
pub fn estimate(model: &Model, spec: &JobSpec, rows: &Rows, machine: Machine) -> Estimate {
    let training = &spec.training;
    let model = &model.with_adapter(training);
    let processes = u64::from(spec.resources.devices).max(1);
    let batch = u64::from(training.batch_size).max(1);
    let accumulation = u64::from(training.gradient_accumulation_steps).max(1);
    let steps_per_epoch = rows.count.div_ceil(batch).div_ceil(accumulation).max(1);
    let steps = total_steps(training, steps_per_epoch);
    let own = batch.div_ceil(processes);
    let tokens_at_once = rows.greatest(own, steps * accumulation);
    let seen = (batch * accumulation).min(rows.count.max(1));
    let mut estimate = Estimate {
        processes,
        steps,
        steps_per_epoch,
        tokens_per_step: (seen as f64 * rows.mean()).round() as u64,
        tokens_at_once,
        flops_per_step: model.flops(
            training,
            seen as f64,
            [seen as f64 * rows.mean(), seen as f64 * rows.mean_square(), rows.target_share()],
        ),
        ..Estimate::default()
    };
    memory::fill(&mut estimate, model, training, rows, machine);
    estimate
}

/// Optimizer steps of the whole training, as the trainer counts them.
fn total_steps(training: &Training, steps_per_epoch: u64) -> u64 {
    let by_epochs = (training.epochs * steps_per_epoch as f64).ceil() as u64;
    training.max_steps.unwrap_or(by_epochs).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Task;

    /// BERT base with two classes.
    fn model() -> Model {
        let config = json!({"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522,
            "max_position_embeddings": 512, "type_vocab_size": 2});
        Model::new(&serde_json::from_value(config).unwrap(), 2).unwrap()
    }

    fn spec(training: Value) -> JobSpec {
        serde_json::from_value(json!({"task": "text-classification",
            "columns": {"text": "text", "label": "label"}, "data": {"train": "a"}, "training": training}))
        .unwrap()
    }

    fn of(training: Value) -> Estimate {
        estimate(&model(), &spec(training), &Rows::new(1000, 0, [128; 50], 512), Machine::default())
    }

    /// Parameters of transformers' `BertForSequenceClassification` of this size, of its layers, of its tables.
    const ALL: u64 = 109_483_778;
    const LAYERS: u64 = 12 * (4 * 768 * 769 + 768 * 3072 * 2 + 3072 + 768 + 4 * 768);
    const WORDS: u64 = 30522 * 768;

    #[test]
    fn parameters_copies_gradients_and_states_are_counted() {
        let full = of(json!({}));
        assert_eq!((full.weights, full.copies), (4 * ALL, 0));
        // The gradient of the large table comes by row.
        assert_eq!((full.gradients, full.optimizer), (4 * (ALL - WORDS), 8 * ALL));
        let mixed = of(json!({"precision": "bf16"}));
        assert_eq!((mixed.weights, mixed.copies), (4 * ALL, 2 * (LAYERS - 12 * 4 * 768)));
        let pure = of(json!({"precision": "bf16_pure"}));
        assert!(pure.weights < 2 * ALL + ALL / 20 && pure.optimizer == 8 * ALL, "{pure:?}");
        let states =
            [("sgd", 0.0), ("lion", 4.0), ("adamw_8bit", 2.04), ("rmsprop", 4.0), ("adafactor", 0.02)];
        for (name, bytes) in states {
            let found = of(json!({"optimizer": {"name": name}})).optimizer as f64 / ALL as f64;
            assert!((found - bytes).abs() < 0.02, "{name}: {found}");
        }
        let head = of(json!({"freeze": {"except_head": true}}));
        assert_eq!(head.optimizer, 8 * (768 * 769 + 2 * 769));
    }

    #[test]
    fn an_adapter_is_trained_in_place_of_the_weights() {
        let (full, lora) = (of(json!({})), of(json!({"lora": {"rank": 8}})));
        // Four square matrices, two of the feed-forward block, and the pooler's.
        let adapters = 12 * 8 * (4 * 2 * 768 + 2 * (768 + 3072)) + 8 * 2 * 768;
        assert_eq!(lora.weights, full.weights + 4 * adapters);
        assert_eq!(lora.optimizer, 8 * (adapters + 2 * 769));
        let share = (lora.optimizer + lora.gradients) as f64 / (full.optimizer + full.gradients) as f64;
        assert!(share < 0.05, "{share}");
        assert_eq!(of(json!({"lora": {"targets": ["query"]}})).optimizer, 8 * (12 * 16 * 768 + 2 * 769));
        let quantized = of(json!({"lora": {"rank": 8, "quantization": "nf4"}}));
        let matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * 768;
        let saved = (lora.weights - quantized.weights) as f64 / f64::from(matrices);
        assert!((3.4..3.5).contains(&saved), "{saved}");
    }

    #[test]
    fn activations_are_those_that_backward_reads() {
        let tokens = 32 * 128;
        let full = of(json!({}));
        assert_eq!(full.tokens_at_once, tokens);
        // Queries, keys and values, four inputs of products, two sums to norm, the input of the activation function.
        let layer = 4 * tokens * (8 * 768 + 2 * 3072) + 4 * tokens * (12 + 4);
        // Of the last layer keys, values and their input, and all else of the first tokens.
        let last = 4 * tokens * 3 * 768 + 4 * 32 * (6 * 768 + 2 * 3072) + 4 * 32 * (12 + 4);
        assert_eq!(full.activations, 11 * layer + last + 8 * tokens * 768);
        let checkpointed = of(json!({"gradient_checkpointing": true}));
        assert_eq!(checkpointed.activations, layer + 12 * 4 * tokens * 768 + 8 * tokens * 768);
        let frozen = of(json!({"freeze": {"embeddings": true, "first_layers": 11}}));
        assert_eq!(frozen.activations, last + 8 * tokens * 768);
    }

    #[test]
    fn vectors_are_made_of_all_states_and_a_smaller_batch_is_the_last_way() {
        let config = json!({"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522,
            "max_position_embeddings": 512, "type_vocab_size": 2});
        let bare =
            Model::of_task(Task::SentenceSimilarity, &serde_json::from_value(config).unwrap(), 0).unwrap();
        let spec: JobSpec = serde_json::from_value(json!({"task": "sentence-similarity",
            "columns": {"anchor": "a", "positive": "b"}, "data": {"train": "a"}}))
        .unwrap();
        let rows = Rows::new(1000, 0, [128; 50], 512);
        let found = estimate(&bare, &spec, &rows, Machine::default());
        assert_eq!(found.weights, 4 * (ALL - 768 * 769 - 2 * 769));
        let tokens = 32 * 128;
        let layer = 4 * tokens * (8 * 768 + 2 * 3072) + 4 * tokens * (12 + 4);
        let vectors = 4 * (tokens * 768 + 3 * 32 * 32);
        assert_eq!(found.activations, 12 * layer + 8 * tokens * 768 + vectors);
        let params: Vec<String> =
            ways(&bare, &spec, &rows, Machine::default()).into_iter().map(|way| way.param).collect();
        let place = |param: &str| params.iter().position(|found| found == param).unwrap();
        assert!(place("gradient_checkpointing") < place("max_length"), "{params:?}");
        assert!(place("max_length") < place("batch_size"), "{params:?}");
    }

    #[test]
    fn steps_and_operations_are_those_of_the_training() {
        let run = of(json!({"epochs": 2.5, "batch_size": 30, "gradient_accumulation_steps": 2}));
        assert_eq!((run.steps_per_epoch, run.steps, run.tokens_per_step), (17, 43, 60 * 128));
        // Six operations for each weight and token, and what attention adds; a sixth of the last layer.
        let weights = (LAYERS - 12 * (9 * 768 + 3072)) as f64 * (11.0 + 1.0 / 6.0) / 12.0;
        let products = 6.0 * weights * run.tokens_per_step as f64;
        let off = run.flops_per_step / products;
        assert!((1.0..1.1).contains(&off), "{off}");
        assert_eq!(of(json!({"max_steps": 7})).steps, 7);
    }

    #[test]
    fn each_way_needs_less_and_the_first_keeps_the_model() {
        let of = |batch: u32, rows: &Rows| {
            ways(&model(), &spec(json!({"batch_size": batch})), rows, Machine::default())
        };
        let found = of(64, &Rows::new(1000, 0, [400; 50], 512));
        assert_eq!(found[0].setting, "gradient_checkpointing true");
        assert!(
            found[1].setting.ends_with("batch_size 32 with gradient_accumulation_steps 2"),
            "{:?}",
            found[1]
        );
        assert!(found.windows(2).all(|two| two[1].total < two[0].total), "{found:?}");
        assert_eq!(found.last().unwrap().param, "optimizer");
        // A batch of more rows than there are is halved from those.
        let few = of(4096, &Rows::new(40, 0, [400; 40], 512));
        assert!(
            few[1].setting.ends_with("batch_size 16 with gradient_accumulation_steps 256"),
            "{:?}",
            few[1]
        );
        let enough = found[1].total;
        assert_eq!(fitting(&found, enough), Some(&found[1]));
        assert_eq!(fitting(&found, 1000), None);
    }
}
