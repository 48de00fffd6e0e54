//! How positions are turned, for the metadata of a GGUF.

use std::f64::consts::TAU;

use serde_json::Value;

use super::config_out::{FILE, Given};
use super::family::Family;
use super::rope_in::stretch;
use super::writer::{Entries, Entry};
use crate::problem::{Problem, ProblemKind};

/// What a configuration says, under the names of any version of transformers.
pub(super) struct Rope {
    theta: f64,
    /// Of windowed layers, where they have their own.
    local_theta: Option<f64>,
    /// Numbers of a head that are turned.
    turned: u32,
    context: u32,
    original: Option<f64>,
    scaling: Value,
}

impl Rope {
    pub(super) fn of(given: &Given, family: &Family, width: u32, context: u32) -> Result<Self, Problem> {
        let none = Value::Null;
        let whole = given.value("rope_parameters").unwrap_or(&none);
        let is_split = whole["full_attention"].is_object();
        let new = if is_split { &whole["full_attention"] } else { whole };
        let scaling = if new.is_object() { new } else { given.value("rope_scaling").unwrap_or(&none) };
        let usual = match family.model_type {
            "gemma3_text" => 1_000_000.0,
            "smollm3" => 2_000_000.0,
            _ => 10_000.0,
        };
        let base = if family.model_type == "gpt_neox" { given.number("rotary_emb_base")? } else { None };
        let theta = new["rope_theta"].as_f64().or(given.number("rope_theta")?).or(base).unwrap_or(usual);
        let local =
            whole["sliding_attention"]["rope_theta"].as_f64().or(given.number("rope_local_base_freq")?);
        let share = new["partial_rotary_factor"].as_f64().or(given.number("partial_rotary_factor")?);
        let share = match family.model_type {
            "gpt_neox" => share.or(given.number("rotary_pct")?).unwrap_or(0.25),
            "phi3" => share.unwrap_or(1.0),
            _ => 1.0,
        };
        let turned = (f64::from(width) * share) as u32;
        if turned == 0 || turned > width {
            let message = format!("{share} of {width} numbers of a head cannot be turned");
            return Err(Problem::new(ProblemKind::Config, FILE, message).in_column("partial_rotary_factor"));
        }
        let original = scaling["original_max_position_embeddings"].as_f64();
        Ok(Self {
            theta,
            local_theta: (family.model_type == "gemma3_text").then(|| local.unwrap_or(10_000.0)),
            turned,
            context,
            original: original.or(given.number("original_max_position_embeddings")?),
            scaling: scaling.clone(),
        })
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.scaling[name].as_f64()
    }

    fn list(&self, name: &str) -> Vec<f32> {
        let values = self.scaling[name].as_array().map_or(&[][..], Vec::as_slice);
        values.iter().filter_map(Value::as_f64).map(|value| value as f32).collect()
    }
}

/// Adds the keys, and gives the tensors that belong to them.
pub(super) fn put(
    rope: &Rope,
    family: &Family,
    entries: &mut Entries,
    notices: &mut Vec<String>,
) -> Vec<(&'static str, Vec<f32>)> {
    let mut put = |name: &str, entry: Entry| entries.push((family.key(name), entry));
    put("rope.dimension_count", Entry::U32(rope.turned));
    put("rope.freq_base", Entry::F32(rope.theta as f32));
    if let Some(local) = rope.local_theta {
        put("rope.freq_base_swa", Entry::F32(local as f32));
    }
    let factor = rope.number("factor").unwrap_or(1.0);
    let original = |put: &mut dyn FnMut(&str, Entry)| {
        if let Some(original) = rope.original {
            put("rope.scaling.original_context_length", Entry::U32(original as u32));
        }
    };
    let sort = rope.scaling["rope_type"].as_str().or(rope.scaling["type"].as_str()).unwrap_or("default");
    match sort {
        "linear" => {
            put("rope.scaling.type", Entry::Text("linear".to_owned()));
            put("rope.scaling.factor", Entry::F32(factor as f32));
        }
        "yarn" => {
            put("rope.scaling.type", Entry::Text("yarn".to_owned()));
            put("rope.scaling.factor", Entry::F32(factor as f32));
            original(&mut put);
            let usual = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            if let Some(attention) = attention(rope, factor) {
                put("rope.scaling.attn_factor", Entry::F32((attention / usual) as f32));
            }
            for (name, key) in
                [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
            {
                rope.number(name).into_iter().for_each(|beta| put(key, Entry::F32(beta as f32)));
            }
        }
        "longrope" | "su" => {
            original(&mut put);
            let stretched = f64::from(rope.context) / rope.original.unwrap_or(f64::from(rope.context));
            let usual = match stretched > 1.0 {
                true => (1.0 + stretched.ln() / rope.original.unwrap_or(2.0).ln()).sqrt(),
                false => 1.0,
            };
            let attention = rope.number("attention_factor").unwrap_or(usual);
            put("rope.scaling.attn_factor", Entry::F32(attention as f32));
            return vec![
                ("rope_factors_long.weight", rope.list("long_factor")),
                ("rope_factors_short.weight", rope.list("short_factor")),
            ];
        }
        "llama3" => {
            original(&mut put);
            return vec![("rope_freqs.weight", llama3(rope, factor))];
        }
        "default" => {}
        "dynamic" => notices.push(format!(
            "a GGUF has no place for dynamic scaling: the model is good for its {} positions and no more",
            rope.context
        )),
        other => notices
            .push(format!("a GGUF has no place for the scaling `{other}` of positions: it is left out")),
    }
    Vec::new()
}

/// The factor of attention, where the configuration sets it in one of its ways.
fn attention(rope: &Rope, factor: f64) -> Option<f64> {
    let of = |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
    let scales = rope.number("mscale").zip(rope.number("mscale_all_dim"));
    rope.number("attention_factor").or(scales.map(|(above, below)| of(above) / of(below)))
}

fn llama3(rope: &Rope, factor: f64) -> Vec<f32> {
    let number = |name: &str, usual: f64| rope.number(name).filter(|value| *value > 0.0).unwrap_or(usual);
    let (low, high) = (number("low_freq_factor", 1.0), number("high_freq_factor", 4.0));
    let original = rope.original.unwrap_or(8192.0);
    let waves =
        (0..rope.turned / 2).map(|at| TAU * rope.theta.powf(f64::from(2 * at) / f64::from(rope.turned)));
    waves.map(|wave| stretch(wave, factor, original, low, high) as f32).collect()
}
