//! Low-rank adapters in place of all weights.

use serde_json::{Map, Value, json};
use store::spec::{Adapter, JobSpec, Quantization, Targets};

use super::{Kind, Setting, Values, field, flag, named};
use crate::pages::view::text::setting;

/// Where the other settings mean something.
const ON: &str = "lora.kind=lora,qlora";

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "lora.kind",
        "Adapter",
        "Trains small matrices beside the weights: optimizer and gradients take a fraction, and the base stays as it is. \
         QLoRA also keeps the base in 4 bits.",
        Kind::Choice(&[("", "None, all weights"), ("lora", "LoRA"), ("qlora", "QLoRA, base in NF4")]),
    ),
    field("lora.rank", "Rank", "Width of the matrices. 4 to 64 is usual.", Kind::Number).when(ON),
    field(
        "lora.alpha",
        "Alpha",
        "What the adapter is scaled by, before it is divided by the rank. Twice the rank is usual.",
        Kind::Number,
    )
    .when(ON),
    field(
        "lora.dropout",
        "Dropout of the adapter",
        "Share of its inputs left out in training.",
        Kind::Number,
    )
    .when(ON),
    field(
        "lora.targets",
        "Layers with an adapter",
        "all-linear, or ends of names separated by commas.",
        Kind::Text,
    )
    .empty("query, value")
    .when(ON),
    field(
        "lora.rslora",
        "Rank-stabilized scale",
        "Divides by the root of the rank, for large ranks.",
        Kind::Flag,
    )
    .when(ON),
    field(
        "lora.dora",
        "DoRA",
        "Trains the length of each row of the weights on its own: often better at small ranks, and slower.",
        Kind::Flag,
    )
    .when(ON),
    field(
        "lora.merge",
        "Merge when done",
        "The model you get is one plain checkpoint. Otherwise it is the adapter, beside its base.",
        Kind::Flag,
    )
    .when(ON),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let adapter = spec.training.lora.clone().unwrap_or_default();
    let kind = match (&spec.training.lora, adapter.quantization) {
        (None, _) => "",
        (Some(_), None) => "lora",
        (Some(_), Some(Quantization::Nf4)) => "qlora",
    };
    let Adapter { rank, alpha, dropout, targets, rslora, dora, merge, .. } = adapter;
    let targets = match targets {
        Targets::All(_) => "all-linear".to_owned(),
        Targets::Named(names) => names.join(", "),
    };
    named([
        ("lora.kind", kind.to_owned()),
        ("lora.rank", rank.to_string()),
        ("lora.alpha", setting(alpha)),
        ("lora.dropout", setting(dropout)),
        ("lora.targets", targets),
        ("lora.rslora", flag(rslora)),
        ("lora.dora", flag(dora)),
        ("lora.merge", flag(merge)),
    ])
}

/// Makes the API's `lora` of the inputs.
pub(super) fn join(fields: &mut Map<String, Value>) {
    let Some(Value::Object(mut lora)) = fields.remove("lora") else { return };
    let Some(kind) = lora.remove("kind") else { return };
    if kind == "qlora" {
        lora.insert("quantization".to_owned(), json!("nf4"));
    }
    if let Some(Value::String(text)) = lora.get("targets").filter(|targets| **targets != "all-linear") {
        let names: Vec<&str> =
            text.split([',', ' ', '\n']).map(str::trim).filter(|name| !name.is_empty()).collect();
        lora.insert("targets".to_owned(), json!(names));
    }
    fields.insert("lora".to_owned(), Value::Object(lora));
}
