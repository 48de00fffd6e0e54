//! Adapters equal peft's, 4 bits bitsandbytes' (values by `fixtures/make_adapters.py`), and jobs that train them.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{self, Job, batch_of, distance, fixture, gloo, json_of, logits, numbers, run, values};
use formats::checkpoint::Weights;
use formats::tokenizer::Tokenizer;
use luthier_trainer::data::{Tokens, collate};
use luthier_trainer::job::Outcome;
use luthier_trainer::job::control::Control;
use luthier_trainer::models::{self, TextModel};
use luthier_trainer::nn::{Context, Loaded, Loader, saved};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::predict::Predictor;
use luthier_trainer::{tensors, tuned};
use native::Nf4;
use serde_json::{Value, json};
use store::spec::{Adapter, Quantization, Training};
use tch::{Device, Kind, Tensor};

/// A tiny checkpoint with an adapter of peft's beside it.
struct Case {
    model: Box<dyn TextModel>,
    loaded: Loaded,
    expected: Value,
    settings: Adapter,
    base: String,
}

fn cases() -> Vec<String> {
    let all = json_of(fixture("expected/adapters.json"));
    let names = all.as_object().unwrap().iter().filter(|(_, case)| case["base"].is_string());
    names.map(|(name, _)| name.clone()).collect()
}

fn load(name: &str) -> Case {
    let expected = json_of(fixture("expected/adapters.json"))[name].clone();
    let folder = fixture(&format!("adapters/{name}"));
    let base = expected["base"].as_str().unwrap().to_owned();
    let saved = saved::read(&folder).unwrap().unwrap();
    let quantization = name.ends_with("qlora").then_some(Quantization::Nf4);
    let settings = Adapter { quantization, ..saved.settings };
    let config = models::read_config(&fixture(&base)).unwrap();
    let weights = Weights::open(&fixture(&base)).unwrap();
    let prefix = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let loader = Loader::new(&weights, prefix, 0, Device::Cpu).adapted_as(Some(&settings), saved.whole);
    let model = models::build(&config, &loader, models::Head::Labels(3), Some(0.0)).unwrap();
    let loaded = loader.finish().unwrap();
    saved::load(&loaded.params, &folder).unwrap();
    Case { model, loaded, expected, settings, base }
}

fn batch(case: &Case) -> Value {
    let name = case.expected["batch"].as_str().unwrap();
    json_of(fixture(&format!("expected/{}.json", case.base)))["batches"][name].clone()
}

fn loss(logits: &Tensor, labels: &[f64]) -> Tensor {
    let labels: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
    logits.cross_entropy_for_logits(&Tensor::from_slice(&labels))
}

#[test]
fn outputs_and_gradients_equal_pefts_within_1e_5() {
    for name in cases() {
        let case = load(&name);
        let batch = batch(&case);
        let found = logits(case.model.as_ref(), &batch);
        let off = distance(&values(&found), &numbers(&case.expected["logits"]));
        println!("{name}: logits within {off:.1e}");
        assert!(off <= 1e-5, "{name}: {off}");
        loss(&found, &numbers(&batch["labels"])).backward();
        let file = fixture(&format!("expected/adapters_{name}.safetensors"));
        let right: HashMap<String, Tensor> = tensors::load(&file).unwrap().into_iter().collect();
        let trained = saved::trained(&case.loaded.params);
        assert_eq!(trained.len(), right.len(), "{name}");
        let mut most = 0.0_f64;
        for (param, tensor) in &trained {
            let off = distance(&values(&tensor.grad()), &values(&right[param]));
            most = most.max(off);
            assert!(off <= 1e-5, "{name} {param}: {off}");
        }
        println!("{name}: gradients within {most:.1e}");
    }
}

#[test]
fn losses_of_20_steps_equal_pefts_within_1e_3() {
    for name in cases() {
        let case = load(&name);
        let tokenizer = Tokenizer::load(&fixture(&case.base)).unwrap();
        let rows = json_of(fixture(&format!("expected/{}.json", case.base)))["training"]["rows"].clone();
        let rows = rows.as_array().unwrap();
        let texts: Vec<_> = rows.iter().map(|row| (row["text"].as_str().unwrap(), None)).collect();
        let tokens = Tokens::of(&tokenizer.encode_pairs(&texts, 24).unwrap());
        let lora = Some(case.settings.clone());
        let training = Training { learning_rate: 1e-3, weight_decay: 0.01, lora, ..Training::default() };
        let mut optimizer = Optimizer::new(&training, &case.loaded.params, case.model.as_ref()).unwrap();
        let mut most = 0.0_f64;
        for (step, stated) in case.expected["steps"].as_array().unwrap().iter().enumerate() {
            let picked: Vec<usize> = numbers(&stated["rows"]).into_iter().map(|row| row as usize).collect();
            let own: Vec<_> = picked.iter().map(|&row| common::row_of(&tokens, row)).collect();
            let padding = (tokenizer.pad_id().unwrap(), tokenizer.pad_type_id());
            let batch = collate(&own, padding, Device::Cpu);
            let context = Context::evaluation(&batch.inputs.packing);
            let labels: Vec<f64> = picked.iter().map(|&row| rows[row]["label"].as_f64().unwrap()).collect();
            optimizer.zero_grad().unwrap();
            let loss = loss(&case.model.forward(&batch.inputs, &context), &labels);
            loss.backward();
            let norm = f64::try_from(optimizer.grad_norm().unwrap()).unwrap();
            let rate = optimizer.learning_rate(step as u64, 20);
            optimizer.step(rate, clip_coefficient(norm as f32, 1.0)).unwrap();
            for (found, field) in [(f64::try_from(&loss).unwrap(), "loss"), (norm, "gradient_norm")] {
                let right = stated[field].as_f64().unwrap();
                let off = (found - right).abs() / right.abs().max(1.0);
                most = most.max(off);
                assert!(off <= 1e-3, "{name} step {step}: {field} {found}, not {right}");
            }
        }
        println!("{name}: losses and norms of 20 steps within {most:.1e}");
    }
}

#[test]
fn a_merged_model_says_what_the_adapter_said() {
    for name in cases() {
        let case = load(&name);
        let folder = tempfile::tempdir().unwrap();
        let merged = case.loaded.adapters.as_ref().unwrap().merged(&case.loaded.params);
        tensors::save(&folder.path().join("model.safetensors"), &merged).unwrap();
        let config = models::read_config(&fixture(&case.base)).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        let prefix = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
        let loader = Loader::new(&weights, prefix, 0, Device::Cpu).keep_head(vec![0, 1, 2]);
        let plain = models::build(&config, &loader, models::Head::Labels(3), Some(0.0)).unwrap();
        let report = loader.finish().unwrap().report;
        assert!(report.made.is_empty() && report.dropped.is_empty(), "{name}: {report:?}");
        let found = values(&logits(plain.as_ref(), &batch(&case)));
        let off = distance(&found, &numbers(&case.expected["logits"]));
        assert!(off <= 1e-5, "{name}: {off}");
    }
}

#[test]
fn four_bits_are_those_of_bitsandbytes() {
    let file = tensors::load(&fixture("expected/nf4.safetensors")).unwrap();
    let file: HashMap<String, Tensor> = file.into_iter().collect();
    let right = |name: &str, part: &str| &file[&format!("{name}.{part}")];
    assert_eq!(values(&file["levels"]), values(&Tensor::from_slice(&native::nf4::LEVELS)));
    for name in ["small", "rows", "many"] {
        let kept = Nf4::quantize(right(name, "weight")).unwrap();
        assert_eq!(values(&kept.codes), values(right(name, "codes")), "{name}");
        assert_eq!(values(&kept.scales), values(right(name, "absmax")), "{name}");
        assert_eq!(values(&kept.nested), values(right(name, "nested_absmax")), "{name}");
        assert_eq!(values(&kept.offset.view(1)), values(right(name, "nested_offset")), "{name}");
        assert_eq!(values(&kept.dequantize().unwrap()), values(right(name, "dequantized")), "{name}");
    }
}

/// A model of a size at which layers outweigh its head: MiniLM's width, with a vocabulary of 30,522.
#[test]
fn states_and_gradients_of_an_adapter_are_a_twentieth_of_full_tunings_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2});
    common::make_bert(folder.path(), &config);
    let weights = Weights::open(folder.path()).unwrap();
    let bytes = |lora: Option<Adapter>| {
        let loader = Loader::new(&weights, "bert", 0, Device::Cpu).adapted(lora.as_ref());
        let model = models::build(&config, &loader, models::Head::Labels(2), None).unwrap();
        let params = loader.finish().unwrap().params;
        let training = Training { lora, ..Training::default() };
        let optimizer = Optimizer::new(&training, &params, model.as_ref()).unwrap();
        let trained = params.iter().filter(|(_, param)| param.requires_grad());
        let gradients: u64 = trained.map(|(_, param)| 4 * param.numel() as u64).sum();
        optimizer.memory_bytes() + gradients
    };
    let full = bytes(None);
    for adapter in [Adapter::default(), Adapter { dora: true, ..Adapter::default() }] {
        let share = bytes(Some(adapter)) as f64 / full as f64;
        println!("share of optimizer and gradients: {share:.4}");
        assert!(share <= 0.05, "{share}");
    }
}

fn job(model: &str, lora: Value) -> Job {
    Job::new(
        model,
        json!({"max_steps": 12, "batch_size": 8, "learning_rate": 1e-2, "lora": lora, "precision": "fp32",
        "eval_every": {"steps": 4}, "keep_checkpoints": 5}),
    )
}

fn succeeds(job: &Job) {
    let Outcome::Succeeded(_) = job.run() else { panic!("did not succeed: {:?}", job.events().last()) };
}

/// What `luthier-trainer predict` says of the validation rows, score by score.
fn predicted(model: &Path) -> Vec<f64> {
    let predictor = Predictor::open(model).unwrap();
    let texts = ["the film was good", "the plot was bad", "the music was very good"];
    let answer: Value = predictor.answer(&json!({"id": 1, "inputs": texts}).to_string());
    let scores = |output: &Value| {
        output["scores"]
            .as_object()
            .unwrap()
            .values()
            .map(|score| score.as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    answer["outputs"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().flat_map(scores).collect()
}

#[test]
fn a_job_gives_an_adapter_beside_its_base_or_one_model_that_say_the_same() {
    for (model, lora) in [
        ("bert", json!({"rank": 4, "dropout": 0.1})),
        ("bert_encoder", json!({"rank": 4, "targets": ["query", "value"], "rslora": true})),
        ("distilbert", json!({"rank": 2, "dora": true, "dropout": 0.2})),
        ("roberta", json!({"rank": 4, "quantization": "nf4"})),
    ] {
        let beside = job(model, lora.clone());
        succeeds(&beside);
        let losses = beside.curve("train", "loss");
        assert!(losses.last().unwrap().1 < losses[0].1, "{model}: {losses:?}");
        let out = beside.path("out/model");
        assert!(out.join("adapter_model.safetensors").is_file() && !out.join("model.safetensors").exists());
        let weights = std::fs::read(out.join("base/model.safetensors")).unwrap();
        assert_eq!(weights, std::fs::read(beside.path("model/model.safetensors")).unwrap());
        let merged = job(model, lora);
        merged.change(|spec| spec["training"]["lora"]["merge"] = json!(true));
        succeeds(&merged);
        assert!(!merged.path("out/model/adapter_config.json").exists());
        assert!(merged.path("out/model/model.safetensors").is_file());
        assert_eq!(beside.curve("train", "loss"), merged.curve("train", "loss"));
        let (own, one) = (predicted(&out), predicted(&merged.path("out/model")));
        assert!(distance(&own, &one) < 1e-5, "{model}: {own:?} and {one:?}");
    }
}

#[test]
fn a_job_on_an_adapter_begins_with_both_in_one() {
    let first = job("bert", json!({"rank": 4}));
    succeeds(&first);
    for lora in [json!(null), json!({"rank": 2})] {
        let second = job("bert", lora.clone());
        std::fs::remove_dir_all(second.path("model")).unwrap();
        copy_tree(&first.path("out/model"), &second.path("model"));
        // The first evaluation of a model that does not move is the last one of the first job.
        second.change(|spec| spec["training"]["learning_rate"] = json!(1e-12));
        succeeds(&second);
        let (before, after) = (predicted(&first.path("out/model")), predicted(&second.path("out/model")));
        assert!(distance(&before, &after) < 1e-5, "{lora}: {before:?} and {after:?}");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).unwrap(),
        }
    }
}

#[test]
fn a_job_that_was_paused_goes_on_with_the_same_bits() {
    for lora in [json!({"rank": 4, "dropout": 0.1, "dora": true}), json!({"rank": 4, "quantization": "nf4"})]
    {
        let whole = job("bert", lora.clone());
        succeeds(&whole);
        let halves = job("bert", lora);
        halves.change(|spec| spec["training"]["max_steps"] = json!(12));
        let control = Control::default();
        control.ask(luthier_trainer::job::control::Asked::Pause);
        assert_eq!(halves.run_under(&control, 1), Outcome::Paused(1));
        let Outcome::Succeeded(_) = halves.run_under(&Control::default(), 2) else {
            panic!("did not succeed")
        };
        assert_eq!(whole.curve("train", "loss"), halves.curve("train", "loss"));
        let bytes = |job: &Job| std::fs::read(job.path("out/model/adapter_model.safetensors")).unwrap();
        assert!(bytes(&whole) == bytes(&halves));
    }
}

#[test]
fn two_processes_make_the_steps_of_one() {
    if !gloo() {
        return;
    }
    let of = |processes: u32| {
        let job = job("bert", json!({"rank": 4, "dropout": 0.1, "dora": true}));
        job.change(|spec| {
            spec["resources"] =
                json!({"threads": 2, "devices": processes, "device": "cpu", "shard_optimizer": processes > 1})
        });
        assert_eq!(run(&job)["status"], "succeeded");
        job
    };
    let (one, two) = (of(1), of(2));
    let (one, two) = (one.curve("train", "loss"), two.curve("train", "loss"));
    for ((step, a), (_, b)) in one.iter().zip(&two) {
        assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3), "step {step}: {a} and {b}");
    }
}

#[test]
fn mixed_and_pure_precision_train_adapters() {
    for precision in ["bf16", "bf16_pure"] {
        for lora in [json!({"rank": 4, "dora": true}), json!({"rank": 4, "quantization": "nf4"})] {
            let job = job("bert", lora);
            job.change(|spec| {
                spec["training"]["precision"] = json!(precision);
                spec["training"]["gradient_checkpointing"] = json!(true);
            });
            succeeds(&job);
            let losses = job.curve("train", "loss");
            assert!(losses.last().unwrap().1 < losses[0].1, "{precision}: {losses:?}");
        }
    }
}

#[test]
fn a_target_that_is_no_layer_is_refused_with_those_that_there_are() {
    let (code, message) = job("distilbert", json!({"targets": ["query"]})).failure();
    assert_eq!(code, "no_such_layer");
    assert!(message.contains("`query`") && message.contains("attention.q_lin"), "{message}");
    let alone = tempfile::tempdir().unwrap();
    common::copy_folder(&fixture("adapters/bert_lora"), alone.path());
    std::fs::copy(fixture("bert/config.json"), alone.path().join("config.json")).unwrap();
    let Err(error) = tuned::open(alone.path(), Device::Cpu) else { panic!("an adapter alone is no model") };
    assert!(error.to_string().contains("without its base"), "{error}");
}

/// The number of a batch's rows is not that of its tokens, so that dropout before a head draws by row.
#[test]
fn dropout_of_an_adapter_draws_in_layers_and_heads_alike() {
    let settings = Adapter { dropout: 0.5, ..Adapter::default() };
    let config = models::read_config(&fixture("bert")).unwrap();
    let weights = Weights::open(&fixture("bert")).unwrap();
    let loader = Loader::new(&weights, "bert", 0, Device::Cpu).adapted(Some(&settings));
    let model = models::build(&config, &loader, models::Head::Labels(3), Some(0.0)).unwrap();
    let params = loader.finish().unwrap().params;
    tch::no_grad(|| {
        for (_, param) in params.iter().filter(|(name, _)| name.ends_with("lora_B.weight")) {
            _ = param.shallow_clone().fill_(0.1);
        }
    });
    let batch = batch_of(&json_of(fixture("expected/bert.json"))["batches"]["singles"]);
    let examples = Tensor::arange(batch.inputs.packing.starts.size()[0], (Kind::Int64, Device::Cpu));
    let drawn = |step| {
        let draw = luthier_trainer::nn::Draw { seed: 1, step, examples: &examples };
        let context =
            Context { packing: &batch.inputs.packing, kind: Kind::Float, draw: Some(draw), kept: None };
        values(&model.forward(&batch.inputs, &context))
    };
    assert_eq!(drawn(1), drawn(1));
    assert!(distance(&drawn(1), &drawn(2)) > 1e-6);
}
