//! GGUF files, compared with what the packages gguf and transformers make of them.

use std::path::{Path, PathBuf};

use formats::checkpoint::{Weights, inspect_checkpoint};
use formats::gguf::{self, Gguf, Kind, TensorKind};
use formats::{Problem, ProblemKind};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{Random, file, root};

pub fn fixture(name: &str) -> PathBuf {
    root().join("formats/tests/fixtures").join(name)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn decoder(name: &str) -> PathBuf {
    root().join("trainer/tests/fixtures/decoders").join(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn every_type_is_dequantized_to_the_same_bits_as_by_gguf() {
    let fixture = json(&fixture("gguf_blocks.json"));
    for kind in TensorKind::ALL {
        let case = &fixture["blocks"][kind.name()];
        let bytes = hex::decode(case["bytes"].as_str().unwrap()).unwrap();
        let expected = floats(&hex::decode(case["values"].as_str().unwrap()).unwrap());
        let found = gguf::dequantize(kind, &bytes).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        // The two zeros are the same number: numpy subtracts before it multiplies.
        let same =
            found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0));
        assert!(same && found.len() == expected.len(), "{kind}\n{:?}\n{:?}", bits(&found), bits(&expected));
    }
}

/// Twelve even draws make a nearly normal number; the fixture's script makes the same ones.
fn numbers(count: usize) -> Vec<f32> {
    let mut random = Random(11);
    let mut number = || (0..12).map(|_| random.below(65_536)).sum::<usize>();
    (0..count).map(|_| ((number() as f64 / 65_536.0 - 6.0) * 0.02) as f32).collect()
}

fn error(kind: TensorKind, values: &[f32]) -> f64 {
    let back = gguf::dequantize(kind, &gguf::quantize(kind, values).unwrap()).unwrap();
    let squares = back.iter().zip(values).map(|(back, value)| f64::from(back - value).powi(2));
    (squares.sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn quantized_numbers_err_no_more_than_llama_cpp_s() {
    let fixture = json(&fixture("gguf_blocks.json"));
    let values = numbers(8192);
    for (name, expected) in fixture["errors"].as_object().unwrap() {
        let kind = TensorKind::ALL.into_iter().find(|kind| kind.name() == name).unwrap();
        let (ours, theirs) = (error(kind, &values), expected.as_f64().unwrap());
        println!("{name}: root mean square {ours:.4e}, llama.cpp {theirs:.4e}, ratio {:.4}", ours / theirs);
        assert!(ours <= theirs * 1.0001, "{name}: {ours} against {theirs}");
    }
}

#[test]
fn odd_blocks_are_quantized_as_well_as_they_can_be() {
    let flat = |value: f32| vec![value; 256];
    let mut spike = flat(0.0);
    spike[77] = -3.0;
    for kind in [
        TensorKind::Q4K,
        TensorKind::Q5K,
        TensorKind::Q6K,
        TensorKind::Q5_0,
        TensorKind::Q5_1,
        TensorKind::Q8_0,
    ] {
        assert_eq!(error(kind, &flat(0.0)), 0.0, "{kind}");
        for values in [flat(0.5), flat(-0.5), flat(1e-30), spike.clone(), flat(60_000.0)] {
            let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            // What is below the numbers of 16 bits becomes zero.
            let most = f64::from(most) * 0.005 + 1e-7;
            assert!(error(kind, &values) <= most, "{kind} {}", values[0]);
        }
        for value in [f32::NAN, f32::INFINITY, f32::MAX] {
            gguf::quantize(kind, &flat(value)).unwrap();
        }
    }
    assert!(gguf::quantize(TensorKind::Q4K, &[0.0; 255]).is_none());
    assert!(gguf::quantize(TensorKind::Q4_0, &[0.0; 32]).is_none());
}

#[test]
fn tensors_are_those_that_transformers_loads() {
    let expected = json(&fixture("gguf_tensors.json"));
    for name in ["llama", "pieces"] {
        let folder = tempfile::tempdir().unwrap();
        let imported = gguf::import(&fixture(&format!("gguf_{name}.gguf")), folder.path()).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        assert_eq!(imported.tensors, weights.len() as u64);
        let expected = expected[name].as_object().unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (tensor, case) in expected {
            let found = weights.tensor(tensor).unwrap();
            let bytes = match found.dtype {
                formats::checkpoint::Dtype::F32 => found.bytes,
                formats::checkpoint::Dtype::F16 => widened(TensorKind::F16, &found.bytes),
                _ => widened(TensorKind::Bf16, &found.bytes),
            };
            assert_eq!(Value::from(found.shape), case[0], "{tensor}");
            assert_eq!(hex::encode(Sha256::digest(&bytes)), case[1], "{tensor}");
        }
        let info = inspect_checkpoint(folder.path());
        assert!(info.is_usable(), "{:?}", info.problems);
        let template = std::fs::read_to_string(folder.path().join("chat_template.jinja")).unwrap();
        assert!(template.starts_with("{% for message"));
    }
}

fn widened(kind: TensorKind, bytes: &[u8]) -> Vec<u8> {
    gguf::dequantize(kind, bytes).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A checkpoint of the decoders' fixtures, of which some share the weights of another.
pub fn checkpoint(name: &str, weights: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, name: &str| std::fs::copy(from, folder.path().join(name)).unwrap();
    copy(decoder(name).join("config.json"), "config.json");
    copy(decoder(weights).join("generation_config.json"), "generation_config.json");
    copy(decoder(weights).join("model.safetensors"), "model.safetensors");
    copy(decoder("tokenizer.json"), "tokenizer.json");
    copy(decoder("tokenizer_config.json"), "tokenizer_config.json");
    folder
}

/// Through a GGUF and back.
pub fn returned(folder: &Path, kind: Kind) -> (TempDir, gguf::Exported, gguf::Imported) {
    let back = tempfile::tempdir().unwrap();
    let path = back.path().join("model.gguf");
    let exported = gguf::export(folder, &path, kind).unwrap();
    assert_eq!(exported.bytes, std::fs::metadata(&path).unwrap().len());
    let imported = gguf::import(&path, &back.path().join("model")).unwrap();
    (back, exported, imported)
}

const CHECKPOINTS: [(&str, &str); 23] = [
    ("llama", "llama"),
    ("llama_bias", "llama_bias"),
    ("llama_tied", "llama_tied"),
    ("llama_linear", "llama"),
    ("llama_linear_old_config", "llama"),
    ("llama_yarn", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen2_old_config", "qwen2"),
    ("qwen3", "qwen3"),
    ("phi3", "phi3"),
    ("phi3_partial", "phi3"),
    ("phi3_longrope", "phi3"),
    ("phi3_longrope_old_config", "phi3"),
    ("gemma2", "gemma2"),
    ("gemma3_text", "gemma3_text"),
    ("gemma3_text_old_config", "gemma3_text"),
    ("smollm3", "smollm3"),
    ("gpt2", "gpt2"),
    ("gpt_neox", "gpt_neox"),
    ("gpt_neox_old_config", "gpt_neox"),
    ("gpt_neox_sequential", "gpt_neox"),
    ("llama_dynamic", "llama"),
];

#[test]
fn every_family_comes_back_from_a_gguf_with_the_same_tensors() {
    for (name, weights) in CHECKPOINTS {
        let folder = checkpoint(name, weights);
        let (back, _, imported) = returned(folder.path(), Kind::F32);
        let (before, after) =
            (Weights::open(folder.path()).unwrap(), Weights::open(&back.path().join("model")).unwrap());
        let names = |weights: &Weights| weights.names().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{name}");
        for tensor in before.names() {
            let (left, right) = (before.tensor(tensor).unwrap(), after.tensor(tensor).unwrap());
            // One is added to Gemma's norms and taken away again, which rounds once in fp32.
            if imported.model_type.starts_with("gemma") && tensor.contains("norm") {
                let pairs = floats(&left.bytes).into_iter().zip(floats(&right.bytes));
                pairs.for_each(|(left, right)| assert!((left - right).abs() <= 1.2e-7, "{name} {tensor}"));
            } else {
                assert_eq!(left, right, "{name} {tensor}");
            }
        }
    }
}

/// Whether two values of a configuration mean the same: numbers pass through 32 bits.
fn alike(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Number(before), Value::Number(after)) => {
            let (before, after) = (before.as_f64().unwrap(), after.as_f64().unwrap());
            (before - after).abs() <= before.abs() * 1e-7
        }
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(name, value)| after.get(name).is_some_and(|after| alike(value, after)))
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len()
                && before.iter().zip(after).all(|(before, after)| alike(before, after))
        }
        _ => before == after,
    }
}

#[test]
fn every_family_comes_back_from_a_gguf_with_the_same_configuration() {
    // What a GGUF says nothing of, and no forward pass reads.
    const SILENT: [&str; 28] = [
        "_sliding_window_pattern",
        "add_cross_attention",
        "attention_dropout",
        "attn_pdrop",
        "classifier_dropout",
        "embd_pdrop",
        "hidden_dropout",
        "initializer_range",
        "is_decoder",
        "max_window_layers",
        "no_rope_layer_interval",
        "pretraining_tp",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "transformers_version",
        "use_bidirectional_attention",
        "use_cache",
        "_attn_implementation_autoset",
        "cache_implementation",
        "pad_token_id",
        "original_max_position_embeddings",
    ];
    for (name, weights) in CHECKPOINTS.into_iter().filter(|(name, _)| !name.contains("old_config")) {
        let folder = checkpoint(name, weights);
        let (back, exported, _) = returned(folder.path(), Kind::F32);
        let (before, after) =
            (json(&folder.path().join("config.json")), json(&back.path().join("model/config.json")));
        for (field, value) in before.as_object().unwrap() {
            // Layers of one sort, and no value, need not be said.
            let usual = value.is_null() || (field == "layer_types" && !value.to_string().contains("sliding"));
            if SILENT.contains(&field.as_str()) || (usual && after.get(field).is_none()) {
                continue;
            }
            let found = &after[field];
            if name == "llama_dynamic" && field == "rope_parameters" {
                assert!(exported.notices[0].contains("dynamic"), "{:?}", exported.notices);
                continue;
            }
            assert!(alike(value, found), "{name}: `{field}` was {value}, is {found}");
        }
    }
}

#[test]
fn an_old_configuration_says_the_same_as_a_new_one() {
    for (old, new, weights) in [
        ("llama_linear_old_config", "llama_linear", "llama"),
        ("gemma3_text_old_config", "gemma3_text", "gemma3_text"),
        ("phi3_longrope_old_config", "phi3_longrope", "phi3"),
        ("gpt_neox_old_config", "gpt_neox", "gpt_neox"),
    ] {
        let config = |name: &str| {
            let (back, ..) = returned(checkpoint(name, weights).path(), Kind::F32);
            json(&back.path().join("model/config.json"))
        };
        assert_eq!(config(old)["rope_parameters"], config(new)["rope_parameters"], "{old}");
    }
}

#[test]
fn llama_3_s_scaling_is_found_in_the_factors_that_follow_from_it() {
    for (factor, low, high, original) in [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 2.0, 8.0, 256)]
    {
        let folder = checkpoint("llama", "llama");
        let path = folder.path().join("config.json");
        let mut config = json(&path);
        let scaling = serde_json::json!({
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original,
        });
        // Heads of 64, so that there are waves of all lengths.
        for (field, value) in
            [("head_dim", 64), ("num_attention_heads", 1), ("num_key_value_heads", 1), ("hidden_size", 64)]
        {
            config[field] = value.into();
        }
        config["rope_parameters"] = scaling.clone();
        config["tie_word_embeddings"] = true.into();
        std::fs::write(&path, config.to_string()).unwrap();
        zeros(folder.path(), &config);
        let (back, ..) = returned(folder.path(), Kind::F32);
        let found = &json(&back.path().join("model/config.json"))["rope_parameters"];
        assert!(alike(&scaling, found), "{scaling} {found}");
    }
}

/// Weights of zeros for a configuration.
fn zeros(folder: &Path, config: &Value) {
    let config = serde_json::from_value(config.clone()).unwrap();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in formats::checkpoint::decoder_tensors(&config, false).unwrap() {
        let bytes = shape.iter().product::<u64>() * 4;
        header.insert(
            name,
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end as usize, 0);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn q4_k_m_takes_the_types_that_llama_cpp_takes() {
    let folder = checkpoint("llama", "llama");
    let mut config = json(&folder.path().join("config.json"));
    let sizes = [
        ("hidden_size", 256),
        ("intermediate_size", 320),
        ("num_attention_heads", 4),
        ("head_dim", 64),
        ("num_key_value_heads", 2),
        ("num_hidden_layers", 16),
    ];
    sizes.into_iter().for_each(|(field, value)| config[field] = value.into());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    zeros(folder.path(), &config);
    let path = folder.path().join("model.gguf");
    gguf::export(folder.path(), &path, Kind::Q4KM).unwrap();
    let file = Gguf::open(&path).unwrap();
    let kind = |name: &str| file.tensor(name).unwrap().kind;
    assert_eq!(kind("output.weight"), TensorKind::Q6K);
    assert_eq!(kind("token_embd.weight"), TensorKind::Q4K);
    assert_eq!(kind("blk.3.attn_norm.weight"), TensorKind::F32);
    let more: Vec<usize> =
        (0..16).filter(|layer| kind(&format!("blk.{layer}.attn_v.weight")) == TensorKind::Q6K).collect();
    assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
    // Rows of 320 are no whole blocks of 256.
    assert_eq!(kind("blk.0.ffn_down.weight"), TensorKind::Q8_0);
    assert_eq!(kind("blk.2.ffn_down.weight"), TensorKind::Q5_0);
    assert_eq!(kind("blk.2.attn_q.weight"), TensorKind::Q4K);
    let folder = checkpoint("llama", "llama");
    let exported = gguf::export(folder.path(), &path, Kind::Q4KM).unwrap();
    // Rows of 48 are not even whole blocks of 32.
    assert_eq!(exported.kinds["f16"], 3);
}

#[test]
fn sixteen_bits_stay_what_they_are() {
    for (kind, dtype) in [(Kind::F16, "float16"), (Kind::Bf16, "bfloat16")] {
        let (back, ..) = returned(checkpoint("qwen3", "qwen3").path(), kind);
        assert_eq!(json(&back.path().join("model/config.json"))["dtype"], dtype);
        let (again, ..) = returned(&back.path().join("model"), kind);
        let (one, two) = (back.path().join("model.gguf"), again.path().join("model.gguf"));
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }
}

fn refused(bytes: &[u8]) -> Problem {
    let (folder, path) = file("model.gguf", bytes);
    gguf::import(&path, &folder.path().join("model")).unwrap_err()
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let whole = std::fs::read(fixture("gguf_llama.gguf")).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&changed)
    };
    let find = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap();
    assert_eq!(refused(b"GGUF").kind, ProblemKind::UnsupportedFormat);
    assert!(with(0, b"GGML").to_string().contains("no GGUF"));
    assert!(with(4, &[1]).to_string().contains("version 1"));
    assert!(with(4, &[0, 0, 0, 3]).to_string().contains("big-endian"));
    assert!(with(4, &[9]).to_string().contains("version 9"));
    // After a name: its dimensions, two sizes, the type.
    let name = b"blk.0.attn_q.weight";
    let kind = with(find(name) + name.len() + 4 + 16, &23u32.to_le_bytes());
    assert_eq!(kind.kind, ProblemKind::UnsupportedFormat);
    assert!(kind.message.contains("`blk.0.attn_q.weight` is of iq4_xs"), "{kind}");
    let architecture = with(find(b"general.architecture") + 20 + 4 + 8, b"mamba");
    assert_eq!(architecture.kind, ProblemKind::UnsupportedModel);
    assert!(architecture.to_string().contains("`mamba` is not supported"), "{architecture}");
    let absent = with(find(name), b"blk.0.attn_X.weight");
    assert!(absent.message.contains("missing: blk.0.attn_q.weight"), "{absent}");
    let model = with(find(b"tokenizer.ggml.pre") + 18 + 4 + 8, b"other");
    assert_eq!(model.column.as_deref(), Some("tokenizer.ggml.pre"));
    assert_eq!(refused(&whole[..whole.len() - 1]).kind, ProblemKind::CorruptWeights);
    assert_eq!(
        refused(b"version https://git-lfs.github.com/spec/v1\nsize 9\n").kind,
        ProblemKind::LfsPointer
    );
}

#[test]
fn no_bytes_make_a_reader_panic_or_take_more_than_the_file_has() {
    let mut random = Random(3);
    let (folder, path) = file("model.gguf", "");
    let into = folder.path().join("model");
    let (mut good, mut bad) = (0, 0);
    for name in ["gguf_llama.gguf", "gguf_pieces.gguf"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for round in 0..250 {
            let mut bytes = whole.clone();
            // Most of the trouble is to be had in the beginning.
            let reach = if round % 2 == 0 { 1500 } else { bytes.len() };
            for _ in 0..1 + random.below(4) {
                let at = random.below(reach);
                match random.below(4) {
                    0 => bytes[at] = random.next() as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xFF),
                    _ => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0),
                }
            }
            if random.below(8) == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            match gguf::import(&path, &into) {
                Ok(_) => good += 1,
                Err(problem) => {
                    bad += 1;
                    assert!(!problem.message.is_empty() && problem.file == "model.gguf", "{problem}");
                }
            }
        }
        for length in (0..2000).step_by(3).chain((2000..whole.len()).step_by(997)) {
            std::fs::write(&path, &whole[..length]).unwrap();
            gguf::import(&path, &into).unwrap_err();
        }
    }
    println!("{good} read, {bad} refused");
    assert!(good > 50 && bad > 150, "{good} read, {bad} refused");
}

#[test]
fn what_a_gguf_has_no_place_for_is_not_written() {
    let folder = checkpoint("llama_classification", "llama");
    std::fs::copy(
        decoder("llama_classification").join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let path = folder.path().join("model.gguf");
    let problem = gguf::export(folder.path(), &path, Kind::F16).unwrap_err();
    assert!(problem.message.contains("lm_head.weight") || problem.message.contains("score"), "{problem}");
    let folder = checkpoint("llama", "llama");
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"llama\"", "\"bert\"")).unwrap();
    let problem = gguf::export(folder.path(), &path, Kind::F16).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::UnsupportedModel);
    std::fs::write(&config, text.replace("\"silu\"", "\"relu\"")).unwrap();
    let problem = gguf::export(folder.path(), &path, Kind::F16).unwrap_err();
    assert_eq!(problem.column.as_deref(), Some("hidden_act"));
    for (field, value) in
        [("num_hidden_layers", "4000000000"), ("head_dim", "4000000000"), ("num_key_value_heads", "3")]
    {
        let mut changed = json(&config);
        changed[field] = serde_json::from_str(value).unwrap();
        changed["hidden_act"] = "silu".into();
        std::fs::write(&config, changed.to_string()).unwrap();
        let problem = gguf::export(folder.path(), &path, Kind::F16).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Config, "{problem}");
        std::fs::write(&config, &text).unwrap();
    }
}
