//! How positions are turned, from the metadata of a GGUF.

use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use super::config_in::Facts;
use super::dequantize::dequantize;
use super::header::Gguf;
use crate::problem::{Problem, ProblemKind};

/// `rope_parameters`, and what belongs to them; nothing for a model without.
pub(super) fn rope(
    gguf: &Gguf,
    facts: &Facts<'_>,
    width: u64,
    notices: &mut Vec<String>,
) -> Result<Map<String, Value>, Problem> {
    let family = facts.family.model_type;
    let theta = facts.number("rope.freq_base")?.unwrap_or(10_000.0);
    let turned = facts.size("rope.dimension_count")?.unwrap_or(width);
    let mut rope = scaling(gguf, facts, theta, turned, notices)?;
    rope.insert("rope_theta".to_owned(), json!(theta));
    let mut config = Map::new();
    match family {
        "phi3" | "gpt_neox" => {
            if turned == 0 || turned > width {
                let message = format!("{turned} of {width} numbers of a head cannot be turned");
                return Err(facts.metadata.refused(&facts.family.key("rope.dimension_count"), message));
            }
            rope.insert("partial_rotary_factor".to_owned(), json!(turned as f64 / width as f64));
        }
        _ if turned != width => {
            let message =
                format!("{turned} of {width} numbers of a head are turned, which {family} does not know");
            return Err(facts.metadata.refused(&facts.family.key("rope.dimension_count"), message));
        }
        _ => {}
    }
    if let Some(original) = rope.get("original_max_position_embeddings").filter(|_| family == "phi3") {
        config.insert("original_max_position_embeddings".to_owned(), original.clone());
    }
    if family == "gemma3_text" {
        let local = facts.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        let sliding = json!({"rope_theta": local, "rope_type": "default"});
        rope = Map::from_iter([
            ("full_attention".to_owned(), Value::Object(rope)),
            ("sliding_attention".to_owned(), sliding),
        ]);
    }
    config.insert("rope_parameters".to_owned(), Value::Object(rope));
    Ok(config)
}

fn scaling(
    gguf: &Gguf,
    facts: &Facts<'_>,
    theta: f64,
    turned: u64,
    notices: &mut Vec<String>,
) -> Result<Map<String, Value>, Problem> {
    let key = facts.family.key("rope.scaling.type");
    let original = facts.size("rope.scaling.original_context_length")?;
    let context = facts.need_size("context_length")?;
    let long = factors(gguf, "rope_factors_long.weight", turned)?;
    let value = match facts.metadata.text(&key)? {
        Some("longrope") | None | Some("none") if long.is_some() => {
            let short = factors(gguf, "rope_factors_short.weight", turned)?;
            json!({
                "rope_type": "longrope",
                "long_factor": long,
                "short_factor": short,
                "original_max_position_embeddings": original.unwrap_or(context),
                "attention_factor": facts.number("rope.scaling.attn_factor")?,
            })
        }
        None | Some("none") => match factors(gguf, "rope_freqs.weight", turned)? {
            Some(factors) => llama3(&factors, theta, original, notices),
            None => json!({"rope_type": "default"}),
        },
        Some("linear") => match facts.need_number("rope.scaling.factor")? {
            0.0 | 1.0 => json!({"rope_type": "default"}),
            factor => json!({"rope_type": "linear", "factor": factor}),
        },
        Some("yarn") => {
            let factor = facts.need_number("rope.scaling.factor")?;
            let usual = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original.unwrap_or((context as f64 / factor) as u64),
                "attention_factor": facts.number("rope.scaling.attn_factor")?.map(|factor| factor * usual),
                "beta_fast": facts.number("rope.scaling.yarn_beta_fast")?,
                "beta_slow": facts.number("rope.scaling.yarn_beta_slow")?,
            })
        }
        Some(other) => {
            let message = format!("the scaling `{other}` of positions is not supported");
            return Err(Problem::new(ProblemKind::UnsupportedModel, &facts.metadata.file, message)
                .in_column(key)
                .hint("supported are none, linear, yarn and longrope"));
        }
    };
    let mut rope = value.as_object().cloned().unwrap_or_default();
    rope.retain(|_, value| !value.is_null());
    Ok(rope)
}

/// One factor for each frequency.
fn factors(gguf: &Gguf, name: &str, turned: u64) -> Result<Option<Vec<f64>>, Problem> {
    let Some(tensor) = gguf.tensor(name) else { return Ok(None) };
    let wrong =
        |what: String| Problem::new(ProblemKind::Tensor, gguf.name(), format!("tensor `{name}`: {what}"));
    let count = tensor.rows() * tensor.row();
    if count != turned / 2 || tensor.kind.is_quantized() {
        return Err(wrong(format!("{count} factors of {} for {} frequencies", tensor.kind, turned / 2)));
    }
    let mut bytes = vec![0; tensor.bytes as usize];
    gguf.read_rows(tensor, 0, &mut bytes)?;
    let mut values = vec![0.0; count as usize];
    dequantize(tensor.kind, &bytes, &mut values);
    match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => Err(wrong(format!("{value} is no factor of a frequency"))),
        None => Ok(Some(values.into_iter().map(super::value::decimal).collect())),
    }
}

/// Llama 3's scaling, which a GGUF keeps as the factors that follow from it.
///
/// Long waves are stretched by `factor`, short ones not at all, those between by a line in `original / wave`, which two of them
/// determine but for a common factor of three numbers. The usual `low_freq_factor` of 1 settles it.
fn llama3(factors: &[f64], theta: f64, original: Option<u64>, notices: &mut Vec<String>) -> Value {
    let most = factors.iter().copied().fold(1.0, f64::max);
    if most <= 1.0 {
        return json!({"rope_type": "default"});
    }
    let waves = |at: usize| TAU * theta.powf(2.0 * at as f64 / (2 * factors.len()) as f64);
    let found = |original: f64, low: f64, high: f64| {
        json!({
            "rope_type": "llama3", "factor": most, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original.round() as u64,
        })
    };
    let fits = |original: f64, low: f64, high: f64| {
        factors.iter().enumerate().all(|(at, factor)| {
            let expected = stretch(waves(at), most, original, low, high);
            (expected - factor).abs() <= 1e-4 * factor
        })
    };
    for original in [original.map_or(8192.0, |length| length as f64), 8192.0] {
        if fits(original, 1.0, 4.0) {
            return found(original, 1.0, 4.0);
        }
    }
    let between: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .filter_map(|(at, factor)| {
            let share = (1.0 / factor - 1.0 / most) / (1.0 - 1.0 / most);
            (share > 1e-6 && share < 1.0 - 1e-6).then_some((1.0 / waves(at), share))
        })
        .collect();
    if let [first, .., last] = between[..] {
        let slope = (last.1 - first.1) / (last.0 - first.0);
        let width = slope * first.0 - first.1;
        // share = (original / wave - low) / (high - low)
        let low = original.map_or(1.0, |original| original as f64 * width / slope);
        let (high, original) = (low + low / width, low * slope / width);
        if fits(original, low, high) {
            return found(original, low, high);
        }
    }
    notices.push(
        "`rope_freqs` are not those of Llama 3's scaling; they were read as nearly as that can express"
            .to_owned(),
    );
    found(original.map_or(8192.0, |length| length as f64), 1.0, 4.0)
}

/// By which factor Llama 3's scaling stretches a wave.
pub(super) fn stretch(wave: f64, factor: f64, original: f64, low: f64, high: f64) -> f64 {
    if wave < original / high {
        return 1.0;
    }
    if wave > original / low {
        return factor;
    }
    let share = (original / wave - low) / (high - low);
    1.0 / ((1.0 - share) / factor + share)
}
