//! Which tensor is written in which type.

use super::export::Kind;
use super::kind::TensorKind;

/// What of a model decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) layers: u64,
    /// Heads of queries for each head of keys.
    pub(super) grouped: u64,
    /// Whether there is an output layer beside the embedding.
    pub(super) has_output: bool,
}

/// The type of a tensor by its GGUF name and shape.
///
/// Vectors, norms and tables of positions are fp32 in every file of llama.cpp. Its `q4_k_m` spends six bits where an error
/// costs most: on the output layer (the embedding, where that is it), and in the outer layers and every third one between on
/// values (with queries and keys, where the three are one tensor) and the last product of the feed-forward block.
pub(super) fn kind_of(name: &str, shape: &[u64], kind: Kind, model: Model) -> TensorKind {
    if shape.len() < 2 || name.contains("norm") || name == "position_embd.weight" {
        return TensorKind::F32;
    }
    let wanted = match kind {
        Kind::F32 => TensorKind::F32,
        Kind::F16 => TensorKind::F16,
        Kind::Bf16 => TensorKind::Bf16,
        Kind::Q8_0 => TensorKind::Q8_0,
        Kind::Q4KM => mixed(name, model),
    };
    fitting(wanted, shape.last().copied().unwrap_or(1))
}

fn mixed(name: &str, model: Model) -> TensorKind {
    if name == "output.weight" || (name == "token_embd.weight" && !model.has_output) {
        return TensorKind::Q6K;
    }
    let layer = name.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    let more = more_bits(layer, model.layers);
    match name.split('.').nth(2) {
        Some("attn_v" | "attn_qkv" | "ffn_down") if more => TensorKind::Q6K,
        // In models of 70 billion parameters eight heads of queries share the small tensor of values.
        Some("attn_v" | "attn_qkv") if model.layers == 80 && model.grouped > 1 => TensorKind::Q5K,
        _ => TensorKind::Q4K,
    }
}

fn more_bits(layer: u64, layers: u64) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The type itself, or the one that stands in for it where rows are no whole blocks.
fn fitting(wanted: TensorKind, row: u64) -> TensorKind {
    let small = match wanted {
        TensorKind::Q4K => TensorKind::Q5_0,
        TensorKind::Q5K => TensorKind::Q5_1,
        TensorKind::Q6K => TensorKind::Q8_0,
        other => other,
    };
    let order = [wanted, small, TensorKind::F16];
    order.into_iter().find(|kind| row.is_multiple_of(kind.block())).unwrap_or(TensorKind::F16)
}
