//! Llama (H. Touvron et al., 2023) and the families that are Llama but for a detail, as in transformers'
//! `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py`, `modeling_qwen3.py`, `modeling_smollm3.py` and
//! `modeling_phi3.py`.

use anyhow::Result;
use serde_json::Value;

use super::decoder::{Fields, LayerShape, Shape};

/// The shape that a `config.json` of one of these families describes.
pub(super) fn shape(config: &Value) -> Result<Shape> {
    let fields = Fields(config);
    let model_type = fields.word("model_type", "llama");
    let base = if model_type == "smollm3" { 2e6 } else { 1e4 };
    let mut shape = Shape::read(config, base)?;
    let window = fields.some("sliding_window").unwrap_or(0);
    match model_type {
        "mistral" => shape.layers.iter_mut().for_each(|layer| layer.window = window),
        "qwen2" => {
            shape.biases = [true, false, false];
            windows_from(&mut shape.layers, &fields, window);
        }
        "qwen3" => {
            shape.width = fields.whole("head_dim", 128);
            shape.qk_norms = true;
            windows_from(&mut shape.layers, &fields, window);
        }
        "smollm3" => {
            shape.tied = fields.flag("tie_word_embeddings", true);
            without_rope(&mut shape.layers, &fields, window);
        }
        "phi3" => {
            shape.eps = fields.number("rms_norm_eps", 1e-5);
            shape.fused = true;
            shape.layers.iter_mut().for_each(|layer| layer.window = window);
            shape.dropouts[0] = fields.number("embd_pdrop", 0.0);
            shape.dropouts[1] = fields.number("resid_pdrop", 0.0);
        }
        _ => {}
    }
    Ok(shape)
}

/// Qwen: windows, if they are used, from some layer on.
fn windows_from(layers: &mut [LayerShape], fields: &Fields, window: i64) {
    if !fields.flag("use_sliding_window", false) {
        return;
    }
    let first = fields.whole("max_window_layers", 28);
    let named = fields.layers_called("sliding_attention");
    for (number, layer) in layers.iter_mut().enumerate() {
        let slides = named.as_ref().map_or(number as i64 >= first, |named| named.get(number) == Some(&true));
        if slides {
            layer.window = window;
        }
    }
}

/// SmolLM3: every fourth layer without positions, which may see a window.
fn without_rope(layers: &mut [LayerShape], fields: &Fields, window: i64) {
    let interval = fields.whole("no_rope_layer_interval", 4).max(1);
    // 1 for a layer that has positions, whatever the name says.
    let listed = fields.0.get("no_rope_layers").and_then(Value::as_array);
    let slides = fields.flag("use_sliding_window", false);
    let named = fields.layers_called("sliding_attention");
    for (number, layer) in layers.iter_mut().enumerate() {
        let turned = match listed {
            Some(list) => list.get(number).and_then(Value::as_i64) != Some(0),
            None => (number as i64 + 1) % interval != 0,
        };
        if !turned {
            layer.rope = None;
        }
        let called = named.as_ref().map_or(!turned, |named| named.get(number) == Some(&true));
        if slides && called {
            layer.window = window;
        }
    }
}
