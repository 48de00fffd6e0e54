//! `config.json` and `generation_config.json` from the metadata of a GGUF.

use serde_json::{Map, Value, json};

use super::family::Family;
use super::header::Gguf;
use super::kind::TensorKind;
use super::rope_in;
use super::rows::Heads;
use super::value::Metadata;
use crate::problem::{Problem, ProblemKind};

/// The heads that the metadata name.
pub(super) fn heads(gguf: &Gguf, family: &Family) -> Result<Heads, Problem> {
    let key = family.key("attention.head_count");
    let queries = gguf.metadata.size_of_all(&key)?.ok_or_else(|| gguf.metadata.missing(&key))?;
    let keys = gguf.metadata.size_of_all(&family.key("attention.head_count_kv"))?.unwrap_or(queries);
    if queries == 0 || keys == 0 || queries % keys != 0 {
        let message = format!("{queries} heads of queries, {keys} of keys");
        return Err(gguf.metadata.refused(&key, message));
    }
    Ok(Heads { queries, keys })
}

/// What a file says of itself, below its architecture's name.
pub(super) struct Facts<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) family: &'static Family,
}

impl Facts<'_> {
    pub(super) fn size(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.metadata.size(&self.family.key(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, Problem> {
        self.metadata.number(&self.family.key(name))
    }

    pub(super) fn need_size(&self, name: &str) -> Result<u64, Problem> {
        let key = self.family.key(name);
        self.metadata.size_of_all(&key)?.filter(|size| *size > 0).ok_or_else(|| self.metadata.missing(&key))
    }

    pub(super) fn need_number(&self, name: &str) -> Result<f64, Problem> {
        self.number(name)?.ok_or_else(|| self.metadata.missing(&self.family.key(name)))
    }
}

/// `config.json`.
pub(super) fn config(
    gguf: &Gguf,
    family: &'static Family,
    kind: TensorKind,
    notices: &mut Vec<String>,
) -> Result<Map<String, Value>, Problem> {
    let facts = Facts { metadata: &gguf.metadata, family };
    let has = |name: &str| gguf.tensor(name).is_some();
    let mut config = Map::new();
    let mut put = |name: &str, value: Value| config.insert(name.to_owned(), value);
    put("architectures", json!([family.class]));
    put("model_type", json!(family.model_type));
    let dtype = match kind {
        TensorKind::F16 => "float16",
        TensorKind::Bf16 => "bfloat16",
        _ => "float32",
    };
    put("dtype", json!(dtype));
    // The table of the embedding says how many words there are; a list of tokens may be shorter.
    let rows = gguf.tensor("token_embd.weight").map_or(0, |tensor| tensor.rows());
    put("vocab_size", json!(rows));
    put("tie_word_embeddings", json!(!has("output.weight")));
    for (name, id) in special_ids(&gguf.metadata)? {
        put(name, json!(id));
    }
    if family.model_type == "gpt2" {
        config.extend(gpt2(&facts)?);
        return Ok(config);
    }
    let Heads { queries, keys } = heads(gguf, family)?;
    let hidden = facts.need_size("embedding_length")?;
    put("hidden_size", json!(hidden));
    put("intermediate_size", json!(facts.need_size("feed_forward_length")?));
    put("num_hidden_layers", json!(facts.need_size("block_count")?));
    put("num_attention_heads", json!(queries));
    put("max_position_embeddings", json!(facts.need_size("context_length")?));
    let width = head_width(&facts, hidden, queries)?;
    put("use_cache", json!(true));
    if family.model_type == "gpt_neox" {
        put("layer_norm_eps", json!(facts.need_number("attention.layer_norm_epsilon")?));
        let parallel = facts.metadata.flag(&family.key("use_parallel_residual"))?;
        put("use_parallel_residual", json!(parallel.unwrap_or(true)));
        put("hidden_act", json!("gelu"));
        put("attention_bias", json!(has("blk.0.attn_qkv.bias")));
    } else {
        put("num_key_value_heads", json!(keys));
        put("rms_norm_eps", json!(facts.need_number("attention.layer_norm_rms_epsilon")?));
        if !matches!(family.model_type, "qwen2" | "phi3") {
            put("head_dim", json!(width));
        } else if width * queries != hidden {
            let message = format!("{queries} heads of {width} do not make the width {hidden}");
            return Err(facts.metadata.refused(&family.key("attention.key_length"), message));
        }
        let gemma = family.model_type.starts_with("gemma");
        put(
            if gemma { "hidden_activation" } else { "hidden_act" },
            json!(if gemma { "gelu_pytorch_tanh" } else { "silu" }),
        );
    }
    config.extend(peculiar(gguf, &facts, width)?);
    config.extend(rope_in::rope(gguf, &facts, width, notices)?);
    Ok(config)
}

fn head_width(facts: &Facts<'_>, hidden: u64, heads: u64) -> Result<u64, Problem> {
    let key = facts.size("attention.key_length")?;
    let value = facts.size("attention.value_length")?;
    let width = key.unwrap_or(hidden / heads);
    if width == 0 || width % 2 != 0 || value.unwrap_or(width) != width {
        let message = format!("heads of {width} for keys and of {} for values", value.unwrap_or(width));
        return Err(facts.metadata.refused(&facts.family.key("attention.key_length"), message));
    }
    Ok(width)
}

/// What each family has alone.
fn peculiar(gguf: &Gguf, facts: &Facts<'_>, width: u64) -> Result<Map<String, Value>, Problem> {
    let has = |name: &str| json!(gguf.tensor(name).is_some());
    let window = facts.size("attention.sliding_window")?.filter(|window| *window > 0);
    let layers = facts.need_size("block_count")?;
    let value = match facts.family.model_type {
        "llama" => json!({
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_up.bias"),
        }),
        "mistral" | "phi3" => json!({"sliding_window": window}),
        "qwen2" => json!({"use_sliding_window": false}),
        "qwen3" => json!({"attention_bias": has("blk.0.attn_q.bias"), "use_sliding_window": false}),
        "smollm3" => {
            // llama.cpp turns no keys in every fourth layer; our own files say where it is another.
            let interval = facts.size("no_rope_layer_interval")?.unwrap_or(4).max(1);
            let turned: Vec<u64> = (1..=layers).map(|layer| u64::from(layer % interval != 0)).collect();
            json!({
                "attention_bias": has("blk.0.attn_q.bias"),
                "mlp_bias": has("blk.0.ffn_up.bias"),
                "no_rope_layers": turned,
                "no_rope_layer_interval": interval,
                "use_sliding_window": false,
            })
        }
        "gemma2" | "gemma3_text" => gemma(facts, width, window, layers)?,
        _ => json!({}),
    };
    Ok(value.as_object().cloned().unwrap_or_default())
}

fn gemma(facts: &Facts<'_>, width: u64, window: Option<u64>, layers: u64) -> Result<Value, Problem> {
    let is_second = facts.family.model_type == "gemma2";
    let period = facts.size("attention.sliding_window_pattern")?.unwrap_or(if is_second { 2 } else { 6 });
    let sort = |layer: u64| match period > 0 && layer.is_multiple_of(period) {
        true => "full_attention",
        false => "sliding_attention",
    };
    // The largest of each generation divides by the width of its heads had they been even; llama.cpp knows it by its layers.
    let largest = if is_second { 46 } else { 62 };
    let scalar = match facts.number("attention.scale")? {
        Some(scale) if scale > 0.0 => (1.0 / (scale * scale)).round(),
        _ if layers == largest => {
            (facts.need_size("embedding_length")? / facts.need_size("attention.head_count")?) as f64
        }
        _ => width as f64,
    };
    Ok(json!({
        "attention_bias": false,
        "attn_logit_softcapping": capping(facts, "attn_logit_softcapping", is_second.then_some(50.0))?,
        "final_logit_softcapping": capping(facts, "final_logit_softcapping", is_second.then_some(30.0))?,
        "layer_types": (1..=layers).map(sort).collect::<Vec<_>>(),
        "query_pre_attn_scalar": scalar as u64,
        "sliding_window": window.unwrap_or(4096),
    }))
}

fn capping(facts: &Facts<'_>, name: &str, usual: Option<f64>) -> Result<Option<f64>, Problem> {
    Ok(facts.number(name)?.or(usual).filter(|cap| *cap > 0.0))
}

fn gpt2(facts: &Facts<'_>) -> Result<Map<String, Value>, Problem> {
    let hidden = facts.need_size("embedding_length")?;
    let value = json!({
        "activation_function": "gelu_new",
        "n_embd": hidden,
        "n_inner": Some(facts.need_size("feed_forward_length")?).filter(|inner| *inner != 4 * hidden),
        "n_layer": facts.need_size("block_count")?,
        "n_head": facts.need_size("attention.head_count")?,
        "n_positions": facts.need_size("context_length")?,
        "layer_norm_epsilon": facts.need_number("attention.layer_norm_epsilon")?,
        "use_cache": true,
    });
    Ok(value.as_object().cloned().unwrap_or_default())
}

/// The special tokens that the metadata name, by their name in a configuration.
pub(super) fn special_ids(metadata: &Metadata) -> Result<Vec<(&'static str, u64)>, Problem> {
    const KEYS: [(&str, &str); 3] = [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ];
    let count = metadata.texts("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len) as u64;
    let mut ids = Vec::new();
    for (name, key) in KEYS {
        match special_id(metadata, key)? {
            Some(id) if id >= count => {
                let message = format!("the token {id} is none of {count}");
                return Err(Problem::new(ProblemKind::Tokenizer, &metadata.file, message).in_column(key));
            }
            Some(id) => ids.push((name, id)),
            None => {}
        }
    }
    Ok(ids)
}

/// A special token's number; programs write -1, or its 32 bits, for none.
pub(super) fn special_id(metadata: &Metadata, key: &str) -> Result<Option<u64>, Problem> {
    match metadata.get(key) {
        Some(super::value::Value::Int(-1 | 0xFFFF_FFFF)) => Ok(None),
        _ => metadata.size(key),
    }
}

/// `generation_config.json`: generation ends at the end of a turn as well.
pub(super) fn generation(metadata: &Metadata) -> Result<Map<String, Value>, Problem> {
    let mut config = Map::new();
    config.insert("_from_model_config".to_owned(), json!(true));
    for (name, id) in special_ids(metadata)? {
        config.insert(name.to_owned(), json!(id));
    }
    let count = metadata.texts("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len) as u64;
    let mut ends: Vec<u64> = config.get("eos_token_id").and_then(Value::as_u64).into_iter().collect();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ends.extend(special_id(metadata, key)?.filter(|id| *id < count && !ends.contains(id)));
    }
    if ends.len() > 1 {
        config.insert("eos_token_id".to_owned(), json!(ends));
    }
    Ok(config)
}
