//! A linear layer over the state of each token, as transformers' `…ForTokenClassification`: `classifier` above an encoder, GPT-2
//! and GPT-NeoX, `score` above the other decoders.

use anyhow::Result;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::decoder::Fields;
use super::{Depth, Inputs, TextModel};
use crate::nn::{Context, Dropout, Linear, Path};

/// What gives the states, and the layer that reads them.
pub(super) struct Tagger {
    inner: Box<dyn TextModel>,
    dropout: Dropout,
    layer: Linear,
}

impl Tagger {
    /// A tagger of `config` over `inner`; `dropout` takes the place of the configured one.
    pub(super) fn new(
        root: &Path,
        config: &Value,
        inner: Box<dyn TextModel>,
        labels: i64,
        dropout: Option<f64>,
    ) -> Result<Self> {
        let fields = Fields(config);
        let family = config["model_type"].as_str().unwrap_or_default();
        let width = ["hidden_size", "n_embd", "dim"].into_iter().find_map(|name| fields.some(name));
        let width = width.map_or_else(|| fields.size("hidden_size"), Ok)?;
        let std = fields.number("initializer_range", 0.02);
        // By which names a family calls the dropout before its head, and what it is where none is there.
        let (names, usual): (&[&str], f64) = match family {
            "bert" | "roberta" | "xlm-roberta" => (&["classifier_dropout", "hidden_dropout_prob"], 0.1),
            "distilbert" => (&["dropout"], 0.1),
            _ => (&["classifier_dropout", "hidden_dropout"], 0.1),
        };
        let stated = names.iter().find_map(|name| config.get(*name).and_then(Value::as_f64));
        let name = match family {
            "bert" | "roberta" | "xlm-roberta" | "distilbert" | "gpt2" | "gpt_neox" => "classifier",
            _ => "score",
        };
        let biased = name == "classifier" || fields.flag("token_classification_bias", true);
        Ok(Tagger {
            inner,
            dropout: Dropout::new(root, dropout.or(stated).unwrap_or(usual)),
            layer: Linear::of_labels(&root.sub(name).in_full().biased(biased), width, labels, std),
        })
    }
}

impl TextModel for Tagger {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.inner.embed(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.inner.layer(number, states, context)
    }

    /// `[n, d]` → `[n, labels]` in fp32.
    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let states = self.inner.head(states, context).to_kind(Kind::Float);
        self.layer.forward(&self.dropout.forward(states, context), context)
    }

    fn layers(&self) -> usize {
        self.inner.layers()
    }

    fn depth(&self, name: &str) -> Depth {
        self.inner.depth(name)
    }
}
