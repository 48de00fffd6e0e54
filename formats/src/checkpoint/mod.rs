//! Hugging Face checkpoint folders: what is in them, and their tensors.
//!
//! A folder has `config.json`, weights in safetensors (one file, or shards with an index) and `tokenizer.json`. Which
//! weights are used follows transformers: `model.safetensors` before `model.safetensors.index.json`; nothing is merged.
//! Pickled weights are never opened.

mod adapter;
mod config;
mod decoder;
mod encoder;
mod encoder_decoder;
mod folder;
mod safetensors;
mod sentence;
mod weights;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use ::safetensors::Dtype;
pub use adapter::{ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterInfo, base_folder, has_adapter};
pub use config::{Config, DECODERS, ENCODER_DECODERS, ENCODERS};
pub use decoder::{DecoderSizes, decoder_tensors};
pub use encoder::encoder_tensors;
pub use encoder_decoder::{EncoderDecoderSizes, encoder_decoder_tensors};
pub(crate) use folder::read_text;
pub use folder::{inspect_checkpoint, read_json};
pub(crate) use safetensors::lfs_pointer;
pub use safetensors::{Header, TensorInfo};
pub use sentence::{MODULES, Pooling, SENTENCE_CONFIG, SentenceModel, TRANSFORMER_CONFIG};
pub use weights::{Tensor, Weights};

use crate::problem::{Problem, Problems};

/// What a checkpoint folder holds, and what stands in the way of using it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// `model_type` of the configuration, such as `bert`.
    pub model_type: Option<String>,
    /// `architectures` of the configuration, such as `BertForSequenceClassification`.
    pub architectures: Vec<String>,
    /// Sizes from the configuration by their transformers name (BERT's, also for DistilBERT and T5): `hidden_size`,
    /// `num_hidden_layers`, `num_attention_heads`, `intermediate_size`, `vocab_size`, `max_position_embeddings`; of an
    /// encoder–decoder model also `decoder_layers`, `decoder_attention_heads` and `decoder_ffn_dim`.
    pub sizes: BTreeMap<String, u64>,
    /// Names of the classes, by number, where the checkpoint has a classification head.
    pub labels: Vec<String>,
    /// `problem_type` of the configuration.
    pub problem_type: Option<String>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// How many tensors.
    pub tensors: u64,
    /// The type of most elements, in safetensors' words, such as `F32`.
    pub dtype: Option<String>,
    /// The adapter, where the weights are those of its base; they lie in `base/`.
    pub adapter: Option<AdapterInfo>,
    /// Bytes of the weights that are used.
    pub weight_bytes: u64,
    /// The weight files that are used.
    pub weights: Vec<String>,
    /// Weight files that are there and not used.
    pub unused_weights: Vec<String>,
    /// The tokenizer, where one can be used.
    pub tokenizer: Option<TokenizerInfo>,
    /// Whatever else is in the folder.
    pub other_files: Vec<String>,
    /// What has to be mended before it can be trained.
    pub problems: Problems,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// What a tokenizer says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// `tokenizer_class`, where it is given.
    pub class: Option<String>,
    /// One more than the greatest token id.
    pub vocab_size: u64,
    /// The longest input it was made for, where it says so.
    pub model_max_length: Option<u64>,
    /// The padding token.
    pub pad_token: Option<String>,
}

impl CheckpointInfo {
    /// Whether nothing stands in the way of training.
    pub fn is_usable(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether it is a language model: a decoder that was not saved to tell classes apart.
    pub fn is_language_model(&self) -> bool {
        let classifies = self.architectures.iter().any(|name| config::tells_classes_apart(name));
        config::is_decoder(self.model_type.as_deref()) && !classifies
    }

    /// Whether it writes one text from another: an encoder with a decoder that was not saved to tell classes apart.
    pub fn is_encoder_decoder(&self) -> bool {
        let classifies = self.architectures.iter().any(|name| config::tells_classes_apart(name));
        config::is_encoder_decoder(self.model_type.as_deref()) && !classifies
    }

    /// Whether it says how it makes vectors of texts, as sentence-transformers' models do.
    pub fn is_sentence_model(&self) -> bool {
        self.other_files.iter().any(|file| file == MODULES)
    }

    fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }
}
