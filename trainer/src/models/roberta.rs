//! RoBERTa (Liu et al., 2019) and XLM-RoBERTa (Conneau et al., 2020) as in transformers'
//! `models/roberta/modeling_roberta.py`: BERT's layers, positions counted from the padding index, another head.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::bert::{self, Config, Encoder};
use super::{Depth, Inputs, TextModel};
use crate::nn::{Context, Dropout, Embedding, LayerNorm, Linear, Path};

struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: Dropout,
    padding: i64,
}

impl Embeddings {
    fn new(path: &Path, config: &Config, padding: i64) -> Self {
        let (size, std) = (config.hidden_size, config.initializer_range);
        let table = |name, rows, padding| Embedding::new(&path.sub(name), rows, size, padding, std);
        Embeddings {
            word_embeddings: table("word_embeddings", config.vocab_size, Some(padding)),
            position_embeddings: table("position_embeddings", config.max_position_embeddings, Some(padding)),
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size, None),
            layer_norm: LayerNorm::new(&path.sub("LayerNorm"), size, config.layer_norm_eps),
            dropout: Dropout::new(path, config.hidden_dropout_prob),
            padding,
        }
    }

    fn forward(&self, inputs: &Inputs, context: &Context) -> Tensor {
        // Tokens are numbered from padding + 1 in each sequence; the padding token, wherever it stands, keeps its own index.
        let packing = &inputs.packing;
        let token = inputs.input_ids.ne(self.padding).to_kind(Kind::Int64); // [n]
        let count = token.cumsum(0, Kind::Int64);
        let before = (&count - &token).index_select(0, &packing.starts).index_select(0, &packing.sequences);
        let positions = (count - before) * &token + self.padding;
        let states = self.word_embeddings.forward(&inputs.input_ids, context) // [n, d]
            + self.token_type_embeddings.forward(&inputs.token_type_ids, context)
            + self.position_embeddings.forward(&positions, context);
        self.dropout.forward(self.layer_norm.forward(&states), context).to_kind(context.kind)
    }
}

/// The head of `RobertaForSequenceClassification`.
struct Head {
    dropout: Dropout,
    dense: Linear,
    dense_dropout: Dropout,
    out_proj: Linear,
}

/// `RobertaForSequenceClassification` and `XLMRobertaForSequenceClassification`, or `RobertaModel` without labels.
pub(super) struct Roberta {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Option<Head>,
}

impl Roberta {
    pub(super) fn new(
        root: &Path,
        config: Config,
        labels: Option<i64>,
        dropout: Option<f64>,
    ) -> Result<Self> {
        let config = config.checked(dropout)?;
        let (roberta, own) = (root.sub("roberta"), root.sub("classifier").may_be_new().in_full());
        let (size, std) = (config.hidden_size, config.initializer_range);
        let head = |labels| Head {
            dropout: Dropout::new(root, config.head_dropout()),
            dense: Linear::new(&own.sub("dense"), size, size, std),
            dense_dropout: Dropout::new(root, config.head_dropout()),
            out_proj: Linear::of_labels(&own.sub("out_proj"), size, labels, std),
        };
        Ok(Roberta {
            embeddings: Embeddings::new(
                &roberta.sub("embeddings"),
                &config,
                config.pad_token_id.unwrap_or(1),
            ),
            encoder: Encoder::new(&roberta.sub("encoder"), &config, labels.is_some())?,
            head: labels.map(head),
        })
    }
}

impl TextModel for Roberta {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.embeddings.forward(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.encoder.layer(number, states, context)
    }

    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let Some(head) = &self.head else { return states.shallow_clone() };
        let first = head.dropout.rows(states.to_kind(Kind::Float), context);
        let inner = head.dense.forward(&first, context).tanh();
        head.out_proj.forward(&head.dense_dropout.rows(inner, context), context)
    }

    fn layers(&self) -> usize {
        self.encoder.len()
    }

    fn depth(&self, name: &str) -> Depth {
        bert::depth(name, "roberta")
    }
}
