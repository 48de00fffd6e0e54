//! Gemma 2 (Gemma team, "Gemma 2", 2024) and the text part of Gemma 3 ("Gemma 3 technical report", 2025), as in transformers'
//! `modeling_gemma2.py` and `modeling_gemma3.py`.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::decoder::{Fields, Shape};
use crate::nn::Rope;

/// The shape that a `config.json` of Gemma describes.
pub(super) fn shape(config: &Value) -> Result<Shape> {
    let fields = Fields(config);
    if fields.flag("use_bidirectional_attention", false) {
        bail!("config.json: use_bidirectional_attention is true, which is no language model");
    }
    let third = fields.word("model_type", "gemma2") == "gemma3_text";
    let width = fields.whole("head_dim", 256);
    let mut shape = Shape::read(config, 1e4)?;
    shape.width = width;
    shape.gemma = true;
    shape.qk_norms = third;
    shape.gate = match fields.word("hidden_activation", "gelu_pytorch_tanh") {
        "gelu_pytorch_tanh" => native::Gate::GeluTanh,
        _ => fields.gate("hidden_activation")?,
    };
    shape.tied = fields.flag("tie_word_embeddings", true);
    shape.scale = 1.0 / fields.number("query_pre_attn_scalar", 256.0).sqrt();
    let bound = |name: &str, default: f64| match config.get(name) {
        Some(Value::Null) => 0.0,
        _ => fields.number(name, default),
    };
    // Gemma 3 keeps the field and does not use it.
    shape.caps = match third {
        true => [0.0, bound("final_logit_softcapping", 0.0)],
        false => [bound("attn_logit_softcapping", 50.0), bound("final_logit_softcapping", 30.0)],
    };
    shape.embedding_scale = f64::from((shape.hidden as f32).sqrt());
    shape.padding = fields.some("pad_token_id").or((config.get("pad_token_id").is_none()).then_some(0));
    let window = fields.whole("sliding_window", 4096);
    let every = fields.whole("sliding_window_pattern", if third { 6 } else { 2 }).max(1);
    let named = fields.layers_called("sliding_attention");
    for (number, layer) in shape.layers.iter_mut().enumerate() {
        let slides =
            named.as_ref().map_or((number as i64 + 1) % every != 0, |named| named.get(number) == Some(&true));
        if slides {
            layer.window = window;
            layer.rope = Some(usize::from(third));
        }
    }
    if third {
        shape.ropes = ropes(config, width)?;
    } else {
        shape.ropes = vec![Rope::read(config, None, width, 1e4)?];
    }
    Ok(shape)
}

/// Gemma 3's positions: of layers that see all, and of those that see a window.
fn ropes(config: &Value, width: i64) -> Result<Vec<Rope>> {
    let nested = config.get("rope_parameters").filter(|value| value.is_object());
    let of = |name: &str| nested.and_then(|all| all.get(name)).filter(|value| value.is_object()).cloned();
    // Beside a nested one, `rope_theta` and `rope_scaling` of old are those of layers that see all.
    let all = of("full_attention").unwrap_or_else(|| {
        let mut own =
            config.get("rope_scaling").filter(|value| value.is_object()).cloned().unwrap_or(json!({}));
        own["rope_theta"] = config.get("rope_theta").cloned().unwrap_or(json!(1e6));
        own
    });
    let local = of("sliding_attention").unwrap_or_else(
        || json!({"rope_theta": config.get("rope_local_base_freq").cloned().unwrap_or(json!(1e4))}),
    );
    Ok(vec![Rope::read(config, Some(&all), width, 1e6)?, Rope::read(config, Some(&local), width, 1e4)?])
}
