//! The parameters of a model and what it computes, from `config.json` alone.

use formats::checkpoint::{
    Config, DecoderSizes, ENCODERS, EncoderDecoderSizes, decoder_tensors, encoder_tensors,
};
use formats::{Problem, ProblemKind};
use regex::Regex;

use crate::spec::{QuestionAnswering, Task, Training};

/// Where a parameter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Embeddings.
    Embeddings,
    /// Encoder layer, counted from 0 at the input.
    Layer(u64),
    /// Pooler and head.
    Head,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Where it lies.
    pub place: Place,
}

impl Parameter {
    /// How many numbers it has.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether it belongs to a linear layer of the encoder, which mixed precision keeps a copy of.
    pub(super) fn is_multiplied(&self) -> bool {
        let is_norm = ["LayerNorm", "norm.", ".ln_"].iter().any(|name| self.name.contains(name));
        matches!(self.place, Place::Layer(_)) && !is_norm
    }

    /// Whether it is a matrix that pure precisions keep in fewer bits.
    pub(super) fn is_low(&self) -> bool {
        self.shape.len() > 1 && self.place != Place::Head && !self.is_adapter()
    }

    /// Rows from which on a table's gradient comes by row (`trainer::nn::Embedding`).
    pub(super) fn gives_rows(&self) -> bool {
        const LARGE: u64 = 4096;
        self.place == Place::Embeddings && self.shape.len() == 2 && self.shape[0] >= LARGE
    }
}

/// An encoder with a classification head, a language model, or a model that writes one text from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Width of the hidden states.
    pub hidden: u64,
    /// Width of the feed-forward layer.
    pub intermediate: u64,
    /// Heads of each attention.
    pub heads: u64,
    /// Layers.
    pub layers: u64,
    /// Tokens that there are positions for.
    pub positions: u64,
    /// Whether the last layer is computed for first tokens alone, which a head reads.
    pub has_head: bool,
    /// Sizes of a language model's own.
    pub decoder: Option<DecoderSizes>,
    /// Sizes of a model with an encoder and a decoder.
    pub both: Option<EncoderDecoderSizes>,
    /// All parameters.
    pub parameters: Vec<Parameter>,
}

impl Model {
    /// The model that a `config.json` describes; an encoder has a head of `labels` outputs.
    ///
    /// # Errors
    /// A type of model that is not known, or a size that is not given.
    pub fn new(config: &Config, labels: u64) -> Result<Model, Problem> {
        if config.is_decoder() {
            return Model::of_decoder(config, labels);
        }
        if config.is_encoder_decoder() {
            return Model::of_encoder_decoder(config);
        }
        let family = config.supported_model_type()?.to_owned();
        let base = if family == "xlm-roberta" { "roberta" } else { family.as_str() };
        let hidden = config.hidden_size.unwrap_or(0);
        let mut parameters: Vec<Parameter> = encoder_tensors(config)?
            .into_iter()
            .map(|(name, shape)| Parameter { place: place_of(&name), name: format!("{base}.{name}"), shape })
            .collect();
        let dense = match base {
            "bert" => "bert.pooler.dense",
            "roberta" => "classifier.dense",
            _ => "pre_classifier",
        };
        let output = if base == "roberta" { "classifier.out_proj" } else { "classifier" };
        for (name, rows) in [(dense, hidden), (output, labels)] {
            for (leaf, shape) in [("weight", vec![rows, hidden]), ("bias", vec![rows])] {
                parameters.push(Parameter { name: format!("{name}.{leaf}"), shape, place: Place::Head });
            }
        }
        let positions = config.max_position_embeddings.unwrap_or(0);
        // RoBERTa's positions start after the padding index.
        let padding = if base == "roberta" { config.pad_token_id.unwrap_or(1) + 1 } else { 0 };
        Ok(Model {
            hidden,
            intermediate: config.intermediate_size.unwrap_or(0),
            heads: config.num_attention_heads.unwrap_or(0),
            layers: config.num_hidden_layers.unwrap_or(0),
            positions: positions.saturating_sub(padding),
            has_head: true,
            decoder: None,
            both: None,
            parameters,
        })
    }

    /// An encoder without a head, whose tokens' states are all read.
    ///
    /// # Errors
    /// As [`Model::new`], and for a language model.
    pub fn bare(config: &Config) -> Result<Model, Problem> {
        if config.is_decoder() || config.is_encoder_decoder() {
            let message = "a model that writes is no encoder, and vectors are learnt by encoders";
            let problem = Problem::new(ProblemKind::UnsupportedModel, "config.json", message);
            return Err(problem
                .in_column("model_type")
                .hint(format!("supported are {}", ENCODERS.join(", "))));
        }
        let mut model = Model::new(config, 1)?;
        model.parameters.retain(|parameter| parameter.place != Place::Head);
        model.has_head = false;
        Ok(model)
    }

    /// An encoder with two numbers for each token, whose states are all read.
    ///
    /// # Errors
    /// As [`Model::bare`].
    pub fn spanning(config: &Config) -> Result<Model, Problem> {
        let mut model = Model::bare(config)?;
        for (leaf, shape) in [("weight", vec![2, model.hidden]), ("bias", vec![2])] {
            let name = format!("qa_outputs.{leaf}");
            model.parameters.push(Parameter { name, shape, place: Place::Head });
        }
        Ok(model)
    }

    /// An encoder, or a decoder, with a linear layer over each token.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn tagger(config: &Config, labels: u64) -> Result<Model, Problem> {
        if config.is_decoder() {
            return Model::new(config, labels);
        }
        let mut model = Model::bare(config)?;
        for (leaf, shape) in [("weight", vec![labels, model.hidden]), ("bias", vec![labels])] {
            model.parameters.push(Parameter {
                name: format!("classifier.{leaf}"),
                shape,
                place: Place::Head,
            });
        }
        Ok(model)
    }

    /// The model of a task; a classifier has so many labels.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn of_task(task: Task, config: &Config, labels: u64) -> Result<Model, Problem> {
        match task {
            Task::SentenceSimilarity => Model::bare(config),
            Task::QuestionAnswering => Model::spanning(config),
            Task::TokenClassification => Model::tagger(config, labels),
            Task::TextClassification | Task::TextGeneration => Model::new(config, labels),
            Task::Translation | Task::Summarization | Task::TextToText => Model::of_encoder_decoder(config),
        }
    }

    /// A language model, or a classifier where there are labels.
    fn of_decoder(config: &Config, labels: u64) -> Result<Model, Problem> {
        let mut sizes = DecoderSizes::of(config)?;
        let mut parameters: Vec<Parameter> = decoder_tensors(config, labels > 0)?
            .into_iter()
            .map(|(name, shape)| Parameter { place: place_of(&name), name, shape })
            .collect();
        if labels > 0 {
            let (name, shape) = ("score.weight".to_owned(), vec![labels, sizes.hidden]);
            parameters.push(Parameter { name, shape, place: Place::Head });
            // What is multiplied by at the end.
            sizes.vocabulary = labels;
        }
        Ok(Model {
            hidden: sizes.hidden,
            intermediate: sizes.inner,
            heads: config.num_attention_heads.unwrap_or(0),
            layers: sizes.layers,
            positions: config.max_position_embeddings.unwrap_or(2048),
            has_head: false,
            decoder: Some(sizes),
            both: None,
            parameters,
        })
    }

    /// Whether it writes texts.
    pub(super) fn writes(&self) -> bool {
        self.decoder.is_some() || self.both.is_some()
    }

    /// The tokens that rows are cut to, as the trainer settles it; `stated` is what the tokenizer says.
    pub fn max_length(&self, training: &Training, stated: Option<u64>) -> u64 {
        // Where neither the settings nor the model say less.
        let spans = self.parameters.iter().any(|parameter| parameter.name.starts_with("qa_outputs."));
        let usual = match self.decoder {
            Some(_) => 1024,
            None if spans => u64::from(QuestionAnswering::MAX_LENGTH),
            None => 512,
        };
        match training.max_length {
            Some(asked) => u64::from(asked).min(self.positions),
            None => self.positions.min(stated.unwrap_or(usual)).min(usual),
        }
    }

    /// Rows of the word embedding.
    pub(super) fn vocabulary(&self) -> u64 {
        let is_words = |parameter: &&Parameter| {
            parameter.name.ends_with("word_embeddings.weight")
                || ["embed_tokens.weight", "transformer.wte.weight", "embed_in.weight", "shared.weight"]
                    .iter()
                    .any(|end| parameter.name.ends_with(end))
        };
        let words = self.parameters.iter().find(is_words);
        words.map_or(0, |words| words.shape[0])
    }

    /// For each parameter whether it is trained.
    pub fn trained(&self, training: &Training) -> Vec<bool> {
        let freeze = &training.freeze;
        let pattern = freeze.pattern.as_deref().and_then(|text| Regex::new(text).ok());
        let frozen = |parameter: &Parameter| {
            let by_place = match parameter.place {
                Place::Embeddings => freeze.embeddings || freeze.except_head,
                Place::Layer(layer) => layer < freeze.first_layers.into() || freeze.except_head,
                Place::Head => false,
            };
            by_place || pattern.as_ref().is_some_and(|pattern| pattern.is_match(&parameter.name))
        };
        let trained = |parameter: &Parameter| match training.lora {
            Some(_) => parameter.is_trained_beside_adapters(),
            None => !frozen(parameter),
        };
        self.parameters.iter().map(trained).collect()
    }

    /// The layers that gradients flow through, and the layers whose matrices are trained, from the input upwards.
    pub(super) fn flow(&self, trained: &[bool]) -> Vec<Flow> {
        let any = |place: Place| {
            self.parameters
                .iter()
                .zip(trained)
                .any(|(parameter, trained)| *trained && parameter.place == place)
        };
        let mut flows = any(Place::Embeddings);
        (0..self.layers)
            .map(|layer| {
                let own = any(Place::Layer(layer));
                // A language model, and whoever makes vectors, reads all states of the last layer.
                let last = self.has_head && layer + 1 == self.layers;
                let flow = Flow { enters: flows, trained: own, last };
                flows |= own;
                flow
            })
            .collect()
    }

    /// Floating-point operations for so many rows, with so many tokens, whose rows' lengths have this sum of squares, and of which
    /// this share are targets.
    ///
    /// A multiplication and an addition for each weight and token, as much again for the gradient of a layer's input and
    /// for that of its weights, and once more where layers are computed again; the same for products of attention.
    pub fn flops(&self, training: &Training, rows: f64, [tokens, squares, targets]: [f64; 3]) -> f64 {
        if let Some(sizes) = &self.both {
            return self.both_flops(sizes, training, [tokens, squares, targets]);
        }
        if let Some(sizes) = &self.decoder {
            return self.decoder_flops(sizes, training, tokens, squares);
        }
        let (d, m) = (self.hidden as f64, self.intermediate as f64);
        let again = if training.gradient_checkpointing { 1.0 } else { 0.0 };
        self.flow(&self.trained(training))
            .into_iter()
            .map(|flow| {
                let inputs = if flow.enters || flow.trained { 1.0 } else { 0.0 };
                // Beside an adapter the weights have no gradient.
                let weights = if flow.trained && training.lora.is_none() { 1.0 } else { 0.0 };
                let (asking, pairs) = if flow.last { (rows, tokens) } else { (tokens, squares) };
                let products = 2.0 * (tokens * 2.0 * d * d + asking * (2.0 * d * d + 2.0 * d * m));
                let attention = 2.0 * 2.0 * pairs * d;
                (1.0 + inputs + weights + again * inputs) * products
                    + (1.0 + (2.0 + again) * inputs) * attention
            })
            .sum()
    }

    /// [`Model::flops`] of a language model whose tokens all count; half of the pairs of tokens see each other.
    fn decoder_flops(&self, sizes: &DecoderSizes, training: &Training, tokens: f64, squares: f64) -> f64 {
        let trained = self.trained(training);
        let again = if training.gradient_checkpointing { 1.0 } else { 0.0 };
        let whole = if training.lora.is_none() { 1.0 } else { 0.0 };
        let [d, m, q, k, v] =
            [sizes.hidden, sizes.inner, sizes.queries, sizes.keys, sizes.vocabulary].map(|size| size as f64);
        let layer = |flow: Flow| {
            let inputs = if flow.enters || flow.trained { 1.0 } else { 0.0 };
            let weights = if flow.trained { whole } else { 0.0 };
            let products = 2.0 * tokens * (d * (2.0 * q + 2.0 * k) + sizes.products as f64 * d * m);
            let attention = 2.0 * squares * q;
            (1.0 + inputs + weights + again * inputs) * products + (1.0 + (2.0 + again) * inputs) * attention
        };
        let vocabulary = 2.0 * tokens * d * v * (2.0 + whole);
        self.flow(&trained).into_iter().map(layer).sum::<f64>() + vocabulary
    }
}

/// How gradients pass a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// Whether it is the last layer, of which first tokens alone are computed beyond their keys and values.
    pub last: bool,
    /// Whether what enters it has a gradient.
    pub enters: bool,
    /// Whether any parameter of its own is trained.
    pub trained: bool,
}

fn place_of(name: &str) -> Place {
    const LAYERS: [&str; 5] =
        ["encoder.layer.", "transformer.layer.", "model.layers.", "transformer.h.", "gpt_neox.layers."];
    const HEADS: [&str; 5] =
        ["model.norm.", "lm_head.", "transformer.ln_f.", "gpt_neox.final_layer_norm.", "embed_out."];
    let number = |prefix: &str| name.strip_prefix(prefix)?.split('.').next()?.parse().ok();
    let layer = LAYERS.iter().find_map(|prefix| number(prefix));
    match layer {
        Some(layer) => Place::Layer(layer),
        None if HEADS.iter().any(|head| name.starts_with(head)) => Place::Head,
        None => Place::Embeddings,
    }
}
