//! The trouble cases of language models whose right answers are losses. Their models are made so that each loss can be told by
//! hand: a target that repeats the token before it costs S, any other D.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::common::{self, Job, json_of};
use formats::dataset::tagged::Scheme;
use formats::tokenizer::Tokenizer;
use luthier_trainer::data::Data;
use luthier_trainer::job::Outcome;
use luthier_trainer::metrics::Tagging;
use luthier_trainer::tasks::Targets;
use luthier_trainer::tensors;
use serde_json::{Value, json};

const S: f64 = 0.242_745;
const D: f64 = 4.242_713;

/// An input of the cases, from `LUTHIER_CASES` or from a `shared` folder beside the repository.
fn case(name: &str) -> Option<PathBuf> {
    let inputs = std::env::var_os("LUTHIER_CASES").map(PathBuf::from);
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/cases/inputs"));
    let path = inputs.unwrap_or(beside).join(name);
    if !path.exists() {
        println!("SKIPPED {name}: cases not at hand");
        return None;
    }
    Some(path)
}

/// A job on a model and a file of the cases, which is also what it is evaluated on. Nothing is learnt.
fn job(model: &str, data: &str, training: Value) -> Option<Job> {
    let (model, data) = (case(model)?, case(data)?);
    let mut all = json!({"max_steps": 1, "batch_size": 64, "learning_rate": 1e-12, "precision": "fp32",
        "samples": {"rows": 0}});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let end = data.extension().unwrap().to_str().unwrap();
    let (train, validation) = (format!("train.{end}"), format!("validation.{end}"));
    let job = Job::of(json!({
        "task": "text-generation",
        "data": {"train": train, "validation": validation},
        "training": all,
        "resources": {"threads": 1, "device": "cpu"},
    }));
    common::copy_folder(&model, &job.path("model"));
    let rows = std::fs::read_to_string(data).unwrap();
    job.write(&format!("data/{train}"), &rows);
    job.write(&format!("data/{validation}"), &rows);
    Some(job)
}

fn succeed(job: &Job) {
    let outcome = job.run();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
}

/// Losses of the first step and of the evaluation.
fn losses(job: &Job) -> (f64, f64) {
    succeed(job);
    (job.curve("train", "loss")[0].1, job.curve("eval", "loss").last().unwrap().1)
}

fn near(found: f64, right: f64) {
    assert!((found - right).abs() < 1e-4, "{found} for {right}");
}

#[test]
fn case_26_tied_embeddings_need_no_second_matrix() {
    let Some(job) = job("_models/llama_tied", "26_tied_head/texts.jsonl", json!({})) else { return };
    let (first, evaluated) = losses(&job);
    // An end mark after each text, one after the other: 15 targets, of which 6 repeat the token before.
    let right = (6.0 * S + 9.0 * D) / 15.0;
    near(first, right);
    near(evaluated, right);
    let names: Vec<String> = tensors::load(&job.path("out/model/model.safetensors"))
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(!names.contains(&"lm_head.weight".to_owned()), "{names:?}");
}

#[test]
fn case_32_a_decoder_without_a_padding_token_classifies() {
    for size in [1, 2, 5] {
        let training = json!({"eval_batch_size": size, "batch_size": size});
        let Some(job) = job("32_no_pad_token/no_pad", "32_no_pad_token/rows.csv", training) else { return };
        job.change(|spec| {
            spec["task"] = json!("text-classification");
            spec["columns"] = json!({"text": "text", "label": "label"});
        });
        let (_, loss) = losses(&job);
        near(loss, 1.618_138);
        let last = |name| job.curve("eval", name).last().unwrap().1;
        near(last("accuracy"), 0.6);
        near(last("f1_macro"), 0.583_333);
        assert!(json_of(job.path("out/model/config.json"))["pad_token_id"].is_u64());
    }
}

#[test]
fn case_34_targets_that_the_model_does_not_have_are_named() {
    let lora = |targets: Value| {
        let training = json!({"lora": {"rank": 2, "alpha": 4.0, "targets": targets}});
        job("34_lora_targets/gpt2_tiny", "34_lora_targets/chats.jsonl", training)
    };
    let Some(of_llama) = lora(json!(["q_proj", "v_proj"])) else { return };
    let (code, message) = of_llama.failure();
    assert_eq!(code, "no_such_layer");
    for word in ["q_proj", "attn.c_attn", "attn.c_proj", "mlp.c_fc"] {
        assert!(message.contains(word), "{message}");
    }
    let (_, message) = lora(json!(["c_attn", "nope"])).unwrap().failure();
    assert!(message.contains("nope"), "{message}");
    for (targets, count) in [(json!(["c_attn"]), Some(128)), (json!("all-linear"), None)] {
        let job = lora(targets).unwrap();
        let adapted = losses(&job);
        let saved = tensors::load(&job.path("out/model/adapter_model.safetensors")).unwrap();
        let found: usize = saved.iter().map(|(_, tensor)| tensor.numel()).sum();
        assert!(found > 0 && count.is_none_or(|count| found == count), "{found}");
        // The adapter has no say: 2 repeats and the rest.
        let plain = self::job("34_lora_targets/gpt2_tiny", "34_lora_targets/chats.jsonl", json!({})).unwrap();
        near(adapted.0, losses(&plain).0);
    }
}

#[test]
fn case_37_the_prompts_end_is_the_answers_beginning() {
    let Some(job) = job("37_prompt_boundary/adds_bos_eos", "37_prompt_boundary/pairs.jsonl", json!({}))
    else {
        return;
    };
    let (first, evaluated) = losses(&job);
    near(first, 2.909_390);
    near(evaluated, 2.909_390);
}

#[test]
fn case_38_a_row_without_a_target_is_left_out_and_told() {
    let training = json!({"max_length": 8, "batch_size": 1});
    let model = "_models/llama_tied";
    let Some(one) = job(model, "38_prompt_fills_window/one_long.jsonl", training.clone()) else { return };
    let (first, evaluated) = losses(&one);
    near(first, 1.576_068);
    near(evaluated, 1.576_068);
    let told = one.events().iter().any(|event| event["message"].to_string().contains("1 of 2 rows"));
    assert!(told, "{:?}", one.events());
    let all = job(model, "38_prompt_fills_window/all_long.jsonl", training).unwrap();
    let (_, message) = all.failure();
    assert!(message.contains("anything to learn within 8 tokens"), "{message}");
}

#[test]
fn case_41_tags_go_with_the_first_token_of_their_word() {
    let Some(job) =
        job("41_ner_alignment/ner_model", "41_ner_alignment/train.jsonl", json!({"batch_size": 3}))
    else {
        return;
    };
    let tagging = |job: &Job| {
        job.change(|spec| {
            spec["task"] = json!("token-classification");
            spec["columns"] = json!({"tokens": "tokens", "tags": "tags"});
            spec["training"].as_object_mut().unwrap().remove("samples");
        });
    };
    tagging(&job);
    let (first, evaluated) = losses(&job);
    near(first, 1.128_434);
    near(evaluated, 1.128_434);
    let last = |job: &Job, name: &str| job.curve("eval", name).last().unwrap().1;
    near(last(&job, "accuracy"), 5.0 / 9.0);
    assert_eq!([last(&job, "f1"), last(&job, "strict_f1")], [0.0; 2]);
    let evaluation = job.events().into_iter().rfind(|event| event["kind"] == "eval").unwrap();
    let types = evaluation["data"]["per_class"].as_array().unwrap();
    let support: u64 = types.iter().map(|kind| kind["support"].as_u64().unwrap()).sum();
    assert_eq!(support, 4, "{types:?}");
    let labels = json_of(job.path("out/model/config.json"))["label2id"].clone();
    assert_eq!(labels, json!({"B-LOC": 0, "B-PER": 1, "O": 2}));

    // Which tokens carry a tag, with -100 for those that carry none.
    let tokenizer = Tokenizer::load(&job.path("model")).unwrap();
    let spec = serde_json::from_value(json_of(job.path("spec.json"))).unwrap();
    let mut events = luthier_trainer::job::Events::open(&job.path("told.jsonl"), 1, false).unwrap();
    let (data, _) = Data::tagged(job.dir.path(), &spec, &tokenizer, 128, &mut events).unwrap();
    let Targets::Tags(rows) = &data.train.targets else { panic!("tags") };
    let labels = |row: usize| {
        let mut labels = vec![-100; data.train.tokens_of(row)];
        rows[row].counted.iter().for_each(|(token, tag)| labels[*token] = *tag as i64);
        labels
    };
    assert_eq!(labels(0), [-100, 1, -100, -100, 2, 0, -100, -100]);
    assert_eq!(labels(1), [-100, 2, 0, -100, -100]);
    assert_eq!(labels(2), [-100, 0, -100, 2, 2, 2, -100]);

    let training = json!({"batch_size": 3, "max_length": 6});
    let cut = self::job("41_ner_alignment/ner_model", "41_ner_alignment/train.jsonl", training).unwrap();
    tagging(&cut);
    succeed(&cut);
    let told = cut.events().iter().any(|event| event["message"].to_string().contains("1 of 3 words cut"));
    assert!(told, "{:?}", cut.events());
    let evaluation = cut.events().into_iter().rfind(|event| event["kind"] == "eval").unwrap();
    let types = evaluation["data"]["per_class"].as_array().unwrap().clone();
    let support: u64 = types.iter().map(|kind| kind["support"].as_u64().unwrap()).sum();
    assert_eq!(support, 4, "what is cut is missed, not forgotten: {types:?}");
}

#[test]
fn case_52_a_tag_that_breaks_its_scheme_counts_by_the_rule_that_is_named() {
    let Some(path) = case("52_entity_f1/tags.jsonl") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tags = |name: &str| -> Vec<Vec<&str>> {
        rows.iter()
            .map(|row| row[name].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect())
            .collect()
    };
    let (gold, predicted) = (tags("true"), tags("predicted"));
    let right = gold.concat().iter().zip(predicted.concat()).filter(|(a, b)| **a == *b).count() as u64;
    let tagging =
        Tagging { scheme: Scheme::Iob2, gold: &gold, predicted: &predicted, words: (12, right), loss: None };
    let metrics = tagging.metrics().unwrap();
    let found = |name: &str| metrics.get(name).unwrap();
    for (name, right) in [
        ("precision", 0.428_571),
        ("recall", 0.6),
        ("f1", 0.5),
        ("strict_precision", 0.5),
        ("strict_recall", 0.4),
        ("strict_f1", 0.444_444),
        ("accuracy", 0.75),
    ] {
        assert!((found(name) - right).abs() < 1e-6, "{name}: {}", found(name));
    }
}

#[test]
fn case_44_accumulated_batches_are_one() {
    let two = "44_gradient_accumulation/two_rows.jsonl";
    let sgd = |batch: u32, accumulation: u32| {
        let training = json!({"batch_size": batch, "gradient_accumulation_steps": accumulation, "learning_rate": 1e-3,
            "weight_decay": 0.0, "optimizer": {"name": "sgd"}});
        job("_models/llama_tied", two, training)
    };
    let Some(whole) = sgd(2, 1) else { return };
    let parts = sgd(1, 2).unwrap();
    let both = [&whole, &parts].map(|job| {
        near(losses(job).0, 3.515_446);
        let norm = job.curve("train", "grad_norm")[0].1;
        let weights = tensors::load(&job.path("out/model/model.safetensors")).unwrap();
        (norm, weights.into_iter().collect::<BTreeMap<_, _>>())
    });
    assert!((both[0].0 - both[1].0).abs() < 1e-5 * both[0].0, "{} {}", both[0].0, both[1].0);
    for (name, a) in &both[0].1 {
        let b = &both[1].1[name];
        assert!((a - b).abs().max().double_value(&[]) < 1e-6, "{name}");
    }
    for (file, batch, accumulation, epochs, steps) in
        [("three_rows", 1, 4, 1.0, 1), ("seven_rows", 1, 4, 2.0, 4), ("seven_rows", 2, 2, 3.0, 6)]
    {
        let training = json!({"batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": null,
            "epochs": epochs});
        let file = format!("44_gradient_accumulation/{file}.jsonl");
        let job = job("_models/llama_tied", &file, training).unwrap();
        succeed(&job);
        assert_eq!(job.curve("train", "loss").len(), steps, "{file}");
    }
}

#[test]
fn case_46_a_loss_that_is_no_number_ends_the_job_by_name() {
    let training = json!({"batch_size": 1, "max_steps": 4, "eval_every": {"steps": 100}});
    let Some(job) = job("46_nan_loss/nan_row", "46_nan_loss/rows.jsonl", training) else { return };
    let (code, message) = job.failure();
    assert_eq!(code, "loss_not_finite", "{message}");
    assert!(message.contains("NaN"), "{message}");
    // Every line is strict JSON, and what is shown are numbers.
    for (_, loss) in job.curve("train", "loss") {
        assert!(loss.is_finite());
    }
}

#[test]
fn case_47_an_evaluation_does_not_depend_on_its_batches() {
    for (model, right) in [("llama_tied", 3.400_614), ("llama_attn", 3.090_434)] {
        for size in [1, 2, 3, 5] {
            let model = format!("_models/{model}");
            let training = json!({"eval_batch_size": size});
            let Some(job) = job(&model, "47_eval_batch_size/eval.jsonl", training) else { return };
            let found = losses(&job).1;
            assert!((found - right).abs() < 1e-5, "{model} by {size}: {found} for {right}");
        }
    }
}

#[test]
fn case_49_an_adapter_begins_as_its_base_and_is_merged_exactly() {
    let run = |merge: bool| {
        let lora = json!({"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"], "merge": merge});
        let training = json!({"lora": lora, "learning_rate": 1e-2, "max_steps": 3});
        job("_models/llama_tied", "49_lora_merge/chats.jsonl", training)
    };
    let Some(adapter) = run(false) else { return };
    let (first, evaluated) = losses(&adapter);
    assert!((first - 3.515_446).abs() < 2e-6, "{first}");
    let saved = tensors::load(&adapter.path("out/model/adapter_model.safetensors")).unwrap();
    assert_eq!(saved.iter().map(|(_, tensor)| tensor.numel()).sum::<usize>(), 128);
    let merged = run(true).unwrap();
    assert!((losses(&merged).1 - evaluated).abs() < 1e-5);
    // What was merged says the same when it is evaluated again.
    let again = job("_models/llama_tied", "49_lora_merge/chats.jsonl", json!({})).unwrap();
    std::fs::remove_dir_all(again.path("model")).unwrap();
    common::copy_folder(&merged.path("out/model"), &again.path("model"));
    assert!((losses(&again).1 - evaluated).abs() < 1e-5);
}

#[test]
fn case_71_what_is_downloaded_is_whole() {
    for lora in [None, Some(json!({"rank": 2, "alpha": 4.0}))] {
        let training = json!({"max_steps": 2, "learning_rate": 1e-3, "lora": lora});
        let (model, data) = ("71_complete_checkpoint/with_extras", "71_complete_checkpoint/chats.jsonl");
        let Some(job) = job(model, data, training) else { return };
        succeed(&job);
        let (out, from) = (job.path("out/model"), case(model).unwrap());
        let same = |name: &str| {
            let read = |folder: &PathBuf| std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(!read(&out).is_empty(), "{name} is not there");
            assert_eq!(read(&out), read(&from), "{name}");
        };
        same("tokenizer.json");
        same("tokenizer_config.json");
        same("special_tokens_map.json");
        same("generation_config.json");
        let config = json_of(out.join("config.json"));
        assert_eq!((&config["model_type"], &config["vocab_size"]), (&json!("llama"), &json!(16)));
        assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
        if lora.is_none() {
            assert_eq!(config["tie_word_embeddings"], true);
            let names: Vec<String> = tensors::load(&out.join("model.safetensors"))
                .unwrap()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert!(names.iter().all(|name| name != "lm_head.weight"));
        } else {
            let adapter = json_of(out.join("adapter_config.json"));
            assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&json!(2), &json!(4)));
            assert!(adapter["target_modules"].as_array().is_some_and(|names| !names.is_empty()));
        }
    }
}
