//! Checkpoint folders.

use std::fs;
use std::path::Path;

use formats::ProblemKind;
use formats::checkpoint::{CheckpointInfo, Dtype, Weights, inspect_checkpoint};
use tempfile::TempDir;

use crate::common::{at_hand, root};

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("trainer/tests/fixtures").join(name)
}

/// A copy of a fixture's folder to spoil.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// Writes the configuration anew with one field changed; `null` takes it away.
fn change_config(folder: &Path, field: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    match value {
        serde_json::Value::Null => config.as_object_mut().unwrap().remove(field),
        value => config.as_object_mut().unwrap().insert(field.to_owned(), value),
    };
    fs::write(path, config.to_string()).unwrap();
}

fn only_problem(info: &CheckpointInfo) -> (ProblemKind, String) {
    assert_eq!(info.problems.total, 1, "{:#?}", info.problems);
    (info.problems.listed[0].kind, info.problems.listed[0].to_string())
}

#[test]
fn every_supported_family_is_usable_with_or_without_a_head() {
    let families = [
        ("bert", "bert"),
        ("bert_encoder", "bert"),
        ("bert_masked_lm", "bert"),
        ("bert_old_names", "bert"),
        ("roberta", "roberta"),
        ("xlm_roberta", "xlm-roberta"),
        ("distilbert", "distilbert"),
    ];
    for (name, model_type) in families {
        let info = inspect_checkpoint(&fixture(name));
        assert!(info.is_usable(), "{name}: {:#?}", info.problems);
        assert_eq!(info.model_type.as_deref(), Some(model_type));
        assert_eq!(info.dtype.as_deref(), Some("F32"));
        assert_eq!((info.sizes["hidden_size"], info.sizes["num_attention_heads"] > 0), (32, true), "{name}");
        assert!(
            info.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.vocab_size <= info.sizes["vocab_size"])
        );
        assert!(info.parameters * 4 <= info.weight_bytes);
    }
    assert_eq!(inspect_checkpoint(&fixture("bert")).labels, ["negative", "neutral", "positive"]);
    assert!(inspect_checkpoint(&fixture("bert_encoder")).labels.is_empty());
}

#[test]
fn a_model_that_is_not_supported_is_named_with_those_that_are() {
    let folder = copy("bert");
    change_config(folder.path(), "model_type", "led".into());
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!(kind, ProblemKind::UnsupportedModel);
    assert_eq!(
        text,
        "config.json, `model_type`: the model type `led` is not supported; supported are bert, roberta, xlm-roberta, \
         distilbert, llama, mistral, qwen2, qwen3, smollm3, phi3, gemma2, gemma3_text, gpt2, gpt_neox, t5, mt5, bart, mbart, marian, \
         luthier_transformer"
    );
}

#[test]
fn a_tensor_of_another_shape_than_the_configuration_says_is_named() {
    let folder = copy("bert");
    change_config(folder.path(), "intermediate_size", 40.into());
    let info = inspect_checkpoint(folder.path());
    let layers = info.sizes["num_hidden_layers"];
    assert_eq!(info.problems.total, layers * 3, "two weights and a bias in each layer");
    let first = info.problems.listed[0].to_string();
    assert!(first.contains("bert.encoder.layer.0.intermediate.dense.weight"), "{first}");
    assert!(first.contains("config.json says [40, 32]"), "{first}");
}

#[test]
fn a_tensor_that_is_missing_is_named() {
    let folder = copy("distilbert");
    change_config(folder.path(), "n_layers", 9.into());
    let info = inspect_checkpoint(folder.path());
    assert_eq!(info.problems.listed[0].kind, ProblemKind::Tensor);
    assert!(info.problems.listed[0].message.contains("the tensor `transformer.layer."), "{}", info.problems);
}

#[test]
fn sizes_that_are_absent_or_do_not_fit_are_named() {
    let folder = copy("bert");
    change_config(folder.path(), "num_attention_heads", 5.into());
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!(kind, ProblemKind::Config);
    assert!(text.contains("5 attention heads do not divide the width of 32"));
    change_config(folder.path(), "num_attention_heads", serde_json::Value::Null);
    let (_, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert!(text.contains("`num_attention_heads`: the size"), "{text}");
}

#[test]
fn both_names_of_the_dtype_may_stand_in_one_configuration() {
    let folder = copy("bert");
    change_config(folder.path(), "dtype", "float32".into());
    change_config(folder.path(), "torch_dtype", "float32".into());
    assert!(inspect_checkpoint(folder.path()).is_usable());
}

#[test]
fn code_in_a_checkpoint_is_not_run_and_quantized_weights_are_refused() {
    let folder = copy("bert");
    change_config(folder.path(), "auto_map", serde_json::json!({"AutoModel": "modeling.Mine"}));
    let info = inspect_checkpoint(folder.path());
    assert!(info.is_usable() && info.notices.iter().any(|notice| notice.contains("not run")));
    change_config(folder.path(), "quantization_config", serde_json::json!({"bits": 4}));
    assert_eq!(only_problem(&inspect_checkpoint(folder.path())).0, ProblemKind::UnsupportedModel);
}

#[test]
fn pickled_weights_are_never_opened_and_the_way_out_is_told() {
    let folder = copy("bert");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("pytorch_model.bin"), b"not opened").unwrap();
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!(kind, ProblemKind::MissingWeights);
    assert!(text.starts_with("pytorch_model.bin: ") && text.contains("save_pretrained"), "{text}");
    fs::rename(folder.path().join("pytorch_model.bin"), folder.path().join("adapter_model.safetensors"))
        .unwrap();
    assert!(only_problem(&inspect_checkpoint(folder.path())).1.contains("adapter without its base model"));
}

#[test]
fn an_adapter_beside_its_base_is_usable_and_both_are_counted() {
    let folder = copy("bert");
    fs::create_dir(folder.path().join("base")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("bert").join(name), folder.path().join("base").join(name)).unwrap();
    }
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture("adapters/bert_lora").join(name), folder.path().join(name)).unwrap();
    }
    let info = inspect_checkpoint(folder.path());
    assert!(info.is_usable(), "{:#?}", info.problems);
    let adapter = info.adapter.unwrap();
    // Queries and values of three layers at rank 4, and the head.
    assert_eq!((adapter.rank, adapter.parameters), (4, 3 * 2 * 2 * 4 * 32 + 33 * 3));
    let base = inspect_checkpoint(&fixture("bert"));
    assert_eq!(info.parameters, base.parameters + adapter.parameters);
    assert_eq!(info.weights, ["base/model.safetensors"]);
    assert!(info.unused_weights.is_empty() && info.notices == base.notices, "{:?}", info.notices);
}

#[test]
fn weights_that_are_not_used_are_told_from_other_files() {
    let folder = copy("bert");
    for name in ["optimizer.pt", "rng_state.pth", "training_args.bin", "flax_model.msgpack", "notes.md"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let info = inspect_checkpoint(folder.path());
    assert!(info.is_usable());
    assert_eq!(info.unused_weights, ["flax_model.msgpack"]);
    assert_eq!(info.other_files, ["notes.md", "optimizer.pt", "rng_state.pth", "training_args.bin"]);
}

#[test]
fn a_vocabulary_of_an_older_form_is_called_by_its_name() {
    let folder = copy("bert");
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!((kind, text.contains("no tokenizer")), (ProblemKind::Tokenizer, true));
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n").unwrap();
    let (_, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert!(text.contains("`vocab.txt`") && text.contains("save_pretrained"), "{text}");
}

#[test]
fn a_tokenizer_that_does_not_belong_to_the_weights_is_refused() {
    let folder = copy("bert");
    fs::copy(fixture("roberta/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let info = inspect_checkpoint(folder.path());
    assert!(
        info.problems.listed.iter().any(|problem| problem.kind == ProblemKind::Tokenizer),
        "{:#?}",
        info.problems
    );
    fs::write(folder.path().join("tokenizer.json"), "{\"version\": ").unwrap();
    assert_eq!(only_problem(&inspect_checkpoint(folder.path())).0, ProblemKind::Tokenizer);
    fs::write(folder.path().join("tokenizer.json"), "version https://git-lfs.github.com/spec/v1\nsize 7\n")
        .unwrap();
    assert_eq!(only_problem(&inspect_checkpoint(folder.path())).0, ProblemKind::LfsPointer);
}

#[test]
fn configurations_that_are_absent_or_broken_are_named_with_the_line() {
    let folder = copy("bert");
    fs::write(folder.path().join("config.json"), "{\n\"model_type\": bert}").unwrap();
    let info = inspect_checkpoint(folder.path());
    let broken = &info.problems.listed[0];
    assert_eq!((broken.kind, broken.line.unwrap().first), (ProblemKind::Config, 2));
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let info = inspect_checkpoint(folder.path());
    assert_eq!(
        info.problems.listed[0].to_string(),
        "config.json: the file is missing; add config.json to the checkpoint"
    );
    assert!(!inspect_checkpoint(&folder.path().join("absent")).is_usable());
}

#[test]
fn shards_are_read_as_one_and_lead_nowhere_else() {
    let folder = copy("bert");
    let whole = Weights::open(folder.path()).unwrap();
    let names: Vec<String> = whole.names().map(str::to_owned).collect();
    let expected: Vec<_> = names.iter().map(|name| whole.tensor(name).unwrap()).collect();
    write_shards(folder.path(), &names, &whole);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let sharded = Weights::open(folder.path()).unwrap();
    assert_eq!(sharded.files().count(), 2);
    for (name, tensor) in names.iter().zip(&expected) {
        assert_eq!(&sharded.tensor(name).unwrap(), tensor, "{name}");
    }
    assert!(inspect_checkpoint(folder.path()).is_usable());

    let index = folder.path().join("model.safetensors.index.json");
    for shard in ["../shard.safetensors", "/etc/passwd", ".."] {
        let map = serde_json::json!({"weight_map": {"a": shard}});
        fs::write(&index, map.to_string()).unwrap();
        let problem = Weights::open(folder.path()).unwrap_err();
        assert!(problem.message.contains("is not a file name"), "{problem}");
    }
    let map = serde_json::json!({"weight_map": {"no.such.tensor": "first.safetensors"}});
    fs::write(&index, map.to_string()).unwrap();
    assert!(Weights::open(folder.path()).unwrap_err().message.contains("`no.such.tensor`"));
}

fn write_shards(folder: &Path, names: &[String], weights: &Weights) {
    let (first, second) = names.split_at(names.len() / 2);
    let mut map = serde_json::Map::new();
    for (shard, names) in [("first.safetensors", first), ("second.safetensors", second)] {
        let tensors: Vec<_> = names.iter().map(|name| (name, weights.tensor(name).unwrap())).collect();
        let views = tensors.iter().map(|(name, tensor)| {
            let shape = tensor.shape.iter().map(|size| *size as usize).collect();
            (*name, safetensors::tensor::TensorView::new(tensor.dtype, shape, &tensor.bytes).unwrap())
        });
        fs::write(folder.join(shard), safetensors::serialize(views, None).unwrap()).unwrap();
        map.extend(names.iter().map(|name| (name.clone(), shard.into())));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn tensors_are_read_by_name_into_room_of_their_size() {
    let weights = Weights::open(&fixture("bert")).unwrap();
    let name = "bert.embeddings.word_embeddings.weight";
    let info = weights.info(name).unwrap();
    let tensor = weights.tensor(name).unwrap();
    assert_eq!((tensor.dtype, &tensor.shape), (Dtype::F32, &info.shape));
    let whole = fs::read(fixture("bert/model.safetensors")).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&whole).unwrap();
    assert_eq!(tensor.bytes, theirs.tensor(name).unwrap().data());
    assert_eq!(weights.tensor("absent").unwrap_err().kind, ProblemKind::Tensor);
    assert_eq!(weights.read_into(name, &mut [0; 3]).unwrap_err().kind, ProblemKind::Tensor);
}

#[test]
fn the_sample_checkpoint_is_what_it_is_said_to_be() {
    let Some(folder) = at_hand(root().join("target/samples/minilm"), "minilm", "samples") else { return };
    let info = inspect_checkpoint(&folder);
    assert!(info.is_usable(), "{:#?}", info.problems);
    assert_eq!((info.parameters, info.tensors), (22_713_728, 104));
    assert_eq!(info.tokenizer.unwrap().vocab_size, 30_522);
    assert!(info.other_files.contains(&"vocab.txt".to_owned()));
}

/// A folder with this configuration and zeros for all that it says there is, but for tensors called `without`.
fn encoder_decoder(config: serde_json::Value, without: &str) -> TempDir {
    let folder = copy("bert");
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let read: formats::checkpoint::Config = serde_json::from_value(config).unwrap();
    let expected = formats::checkpoint::encoder_decoder_tensors(&read).unwrap();
    let zeros: Vec<(String, Vec<usize>, Vec<u8>)> = expected
        .into_iter()
        .filter(|(name, _)| name != without)
        .map(|(name, shape)| {
            let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
            let bytes = vec![0; 4 * shape.iter().product::<usize>()];
            (name, shape, bytes)
        })
        .collect();
    let views = zeros.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn models_with_an_encoder_and_a_decoder_are_described_by_their_own_sizes() {
    let t5 = serde_json::json!({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 32,
        "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4, "vocab_size": 120,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "n_positions": 512});
    let folder = encoder_decoder(t5.clone(), "");
    let info = inspect_checkpoint(folder.path());
    assert!(info.is_usable(), "{:#?}", info.problems);
    assert!(info.is_encoder_decoder() && !info.is_language_model());
    let sizes =
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "decoder_layers"];
    assert_eq!(sizes.map(|name| info.sizes[name]), [32, 2, 4, 64, 3]);
    assert!(!info.sizes.contains_key("max_position_embeddings"), "distances have no end");
    let gone = encoder_decoder(t5, "decoder.block.2.layer.1.EncDecAttention.k.weight");
    let (kind, text) = only_problem(&inspect_checkpoint(gone.path()));
    assert_eq!(kind, ProblemKind::Tensor);
    assert!(text.contains("decoder.block.2.layer.1.EncDecAttention.k.weight"), "{text}");

    let bart = serde_json::json!({"model_type": "bart", "architectures": ["BartForConditionalGeneration"],
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "vocab_size": 120,
        "max_position_embeddings": 20, "num_hidden_layers": 2});
    let folder = encoder_decoder(bart.clone(), "");
    let info = inspect_checkpoint(folder.path());
    assert!(info.is_usable(), "{:#?}", info.problems);
    assert_eq!((info.sizes["decoder_ffn_dim"], info.sizes["decoder_attention_heads"]), (48, 2));
    change_config(folder.path(), "architectures", serde_json::json!(["BartForSequenceClassification"]));
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!(kind, ProblemKind::UnsupportedModel);
    assert!(text.contains("tell classes apart"), "{text}");
    change_config(folder.path(), "architectures", serde_json::json!(["BartForConditionalGeneration"]));
    change_config(folder.path(), "encoder_attention_heads", 3.into());
    let (_, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert!(text.contains("3 attention heads do not divide"), "{text}");
    change_config(folder.path(), "encoder_attention_heads", serde_json::Value::Null);
    let (kind, text) = only_problem(&inspect_checkpoint(folder.path()));
    assert_eq!(kind, ProblemKind::Config);
    assert!(text.contains("encoder_attention_heads"), "{text}");
}
