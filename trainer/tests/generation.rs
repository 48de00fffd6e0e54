//! Jobs of text generation: every family under every way to train, and what transformers says of the finished model.

mod common;
mod exports;

use std::path::Path;
use std::process::Command;

use common::{Job, gloo, json_of, make_decoder, run};
use serde_json::{Value, json};

/// Writes a chat in few tokens: the tiny models have 64 positions.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt \
                        %}a:{% endif %}";

/// A family of decoders joins by a line.
const MODELS: [&str; 10] = [
    "gpt2",
    "gpt_neox",
    "llama",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3_partial",
    "gemma3_text",
];

fn chats(count: usize) -> String {
    let chat = |n: usize| {
        let word = if n.is_multiple_of(2) { "good" } else { "bad" };
        let asked = format!("{word} {}", "film ".repeat(1 + n % 4));
        let chat = json!({"messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": format!("{word}{}", n % 3)},
        ]});
        format!("{chat}\n")
    };
    (0..count).map(chat).collect()
}

/// A job on a tiny decoder and chats about films.
fn job(model: &str, training: Value) -> Job {
    let mut all = json!({"max_steps": 12, "batch_size": 5, "learning_rate": 1e-3, "precision": "fp32",
        "chat_template": TEMPLATE});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::of(json!({
        "task": "text-generation",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "training": all,
        "resources": {"threads": 1, "device": "cpu"},
    }));
    make_decoder(&job.path("model"), model);
    job.write("data/train.jsonl", &chats(23));
    job.write("data/validation.jsonl", &chats(7));
    job
}

fn finished(model: &str, training: &Value, resources: &Value) -> Job {
    let job = job(model, training.clone());
    job.change(|spec| {
        let own = spec["resources"].as_object_mut().unwrap();
        own.extend(resources.as_object().unwrap().clone());
    });
    let result = run(&job);
    assert_eq!(result["status"], "succeeded", "{model} {training} {resources}: {result}");
    job
}

/// How far curves are from those of the plain run, relative.
fn distance(one: &Job, other: &Job) -> f64 {
    [("train", "loss"), ("eval", "loss"), ("eval", "perplexity")]
        .into_iter()
        .flat_map(|(kind, value)| {
            let (a, b) = (one.curve(kind, value), other.curve(kind, value));
            assert!(!a.is_empty() && a.len() == b.len(), "{kind} {value}");
            a.into_iter().zip(b).map(|((_, a), (_, b))| (a - b).abs() / a.abs().max(1e-3))
        })
        .fold(0.0, f64::max)
}

#[test]
fn every_family_trains_alike_in_every_way() {
    let mut ways = vec![
        ("bf16", json!({"precision": "bf16"}), json!({}), 2e-2),
        ("gradient checkpointing", json!({"gradient_checkpointing": true}), json!({}), 1e-6),
        ("one row at once", json!({"batch_size": 1, "gradient_accumulation_steps": 5}), json!({}), 1e-4),
    ];
    if gloo() {
        ways.push(("2 data ranks", json!({}), json!({"devices": 2}), 1e-4));
        ways.push(("2 tensor ranks", json!({}), json!({"devices": 2, "tensor_parallel": 2}), 1e-4));
        ways.push(("2 stages", json!({}), json!({"devices": 2, "pipeline_stages": 2}), 1e-4));
    }
    let mut wrong = Vec::new();
    for model in MODELS {
        let plain = finished(model, &json!({}), &json!({}));
        let (first, last) = (plain.curve("train", "loss")[0].1, plain.curve("train", "loss")[11].1);
        assert!(last < first, "{model} learns nothing: {first} to {last}");
        // An adapter begins without a say, and learns.
        let adapted = finished(model, &json!({"lora": {"rank": 4}, "learning_rate": 1e-2}), &json!({}));
        let losses = adapted.curve("train", "loss");
        if (losses[0].1 - first).abs() > 1e-5 || losses[11].1 >= losses[0].1 {
            wrong.push(format!("{model}, LoRA: {losses:?} beside {first}"));
        }
        let config = json_of(plain.path("model/config.json"));
        for (name, training, resources, tolerance) in &ways {
            // Said by a test of its own.
            let tied = config["tie_word_embeddings"] == true && *name == "2 stages";
            let fused = ["phi3_partial", "gpt2"].contains(&model) && *name == "2 tensor ranks";
            // One head of keys and values cannot be shared.
            if tied || fused || (*name == "2 tensor ranks" && config["num_key_value_heads"] == 1) {
                continue;
            }
            let far = distance(&plain, &finished(model, training, resources));
            if far > *tolerance {
                wrong.push(format!("{model}, {name}: {far:e} apart"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cannot_be_divided_says_why() {
    if !gloo() {
        return;
    }
    let failed = |model: &str, resources: Value| {
        let job = job(model, json!({}));
        job.change(|spec| spec["resources"] = resources);
        run(&job)["message"].as_str().unwrap().to_owned()
    };
    let two = |name: &str| json!({"threads": 1, "device": "cpu", "devices": 2, name: 2});
    let tied = failed("llama_tied", two("pipeline_stages"));
    assert!(tied.contains("word embedding of this model is its output layer"), "{tied}");
    let fused = failed("phi3", two("tensor_parallel"));
    assert!(fused.contains("queries, keys and values are one matrix"), "{fused}");
    let by_column = failed("gpt2", two("tensor_parallel"));
    assert!(by_column.contains("weights are kept by column"), "{by_column}");
}

#[test]
fn a_finished_model_says_the_same_in_transformers() {
    let Some(python) = reference_python("a_finished_model_says_the_same_in_transformers") else { return };
    let mut cases: Vec<(&str, Value)> = MODELS.map(|model| (model, json!({}))).to_vec();
    cases.push(("gemma2", json!({})));
    for lora in [
        json!({"rank": 4}),
        json!({"rank": 4, "dora": true}),
        json!({"rank": 4, "merge": true}),
        json!({"rank": 4, "quantization": "nf4", "merge": true}),
    ] {
        cases.push(("llama", json!({"lora": lora, "learning_rate": 1e-2})));
    }
    for model in ["llama_tied", "qwen2", "phi3", "gemma2", "gpt2", "gpt_neox"] {
        cases.push((model, json!({"lora": {"rank": 4}, "learning_rate": 1e-2})));
    }
    for lora in [json!({"rank": 4, "merge": true}), json!({"rank": 4, "quantization": "nf4", "merge": true})]
    {
        cases.push(("gpt2", json!({"lora": lora, "learning_rate": 1e-2})));
    }
    let jobs: Vec<Job> =
        cases.iter().map(|(model, training)| finished(model, training, &json!({}))).collect();
    for job in &jobs {
        // What the model has learnt to write by comes with it.
        let template = std::fs::read_to_string(job.path("out/model/chat_template.jinja")).unwrap();
        assert_eq!(template, TEMPLATE);
    }
    let names = cases.iter().zip(&jobs).map(|(case, job)| format!("{case:?} in {:?}", job.dir));
    println!("{}", names.collect::<Vec<_>>().join("\n"));
    transformers_agrees(&python, &jobs);
}

/// The Python of the reference environment; without it the test is skipped by name, in CI it fails.
fn reference_python(test: &str) -> Option<String> {
    let python = std::env::var("LUTHIER_REFERENCE_PYTHON").ok();
    if python.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "LUTHIER_REFERENCE_PYTHON is not set, and this is CI");
        println!("SKIPPED {test}: reference venv not installed");
    }
    python
}

/// Looks at finished jobs, all in one process: it takes longer to start than to look.
fn transformers_agrees(python: &str, jobs: &[Job]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_language_model.py");
    let output = Command::new(python)
        .arg(script)
        .arg(TEMPLATE)
        .args(jobs.iter().map(|job| job.dir.path()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_job_that_was_paused_goes_on_with_the_same_bits() {
    use luthier_trainer::job::Outcome;
    use luthier_trainer::job::control::{Asked, Control};
    let whole = job("llama_tied", json!({}));
    assert!(matches!(whole.run(), Outcome::Succeeded(_)));
    let paused = job("llama_tied", json!({}));
    let control = Control::default();
    control.ask(Asked::Pause);
    assert!(matches!(paused.run_under(&control, 1), Outcome::Paused(_)));
    assert!(matches!(paused.run_under(&Control::default(), 2), Outcome::Succeeded(_)));
    assert_eq!(distance(&whole, &paused), 0.0);
}

#[test]
fn plain_texts_are_joined_and_cut_into_blocks() {
    let job = job("llama", json!({"max_length": 16, "max_steps": 3}));
    let texts: String = (0..9).map(|n| format!("{{\"text\": \"film {n} was good\"}}\n")).collect();
    job.write("data/train.jsonl", &texts);
    job.write("data/validation.jsonl", &texts);
    let result = run(&job);
    assert_eq!(result["status"], "succeeded", "{result}");
    let said: Vec<String> =
        job.events().iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect();
    let rows = said.iter().find(|message| message.starts_with("train: ")).unwrap();
    // Each block but the last has 16 tokens, of which 15 are foretold.
    let numbers: Vec<u64> =
        rows.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [blocks, tokens, counted] = numbers[..] else { panic!("{rows}") };
    assert_eq!(tokens.div_ceil(16), blocks, "{rows}");
    assert_eq!(counted, tokens - blocks, "{rows}");
}

#[test]
fn wrong_data_is_named_by_line_and_field() {
    let line = |messages: Value| format!("{}\n", json!({"messages": messages}));
    let good = chats(1);
    for (text, parts) in [
        (
            format!("{good}{}", line(json!([{"role": "bot", "content": "x"}]))),
            vec!["train.jsonl", "line 2", "messages[0].role"],
        ),
        (format!("{good}{}", line(json!([{"role": "user", "content": "x"}]))), vec!["line 2", "assistant"]),
        (
            format!(
                "{good}{}",
                line(json!([{"role": "user", "content": 7}, {"role": "assistant", "content": "x"}]))
            ),
            vec!["line 2", "messages[0].content"],
        ),
        (String::new(), vec!["train.jsonl"]),
    ] {
        let job = job("llama", json!({}));
        job.write("data/train.jsonl", &text);
        let (_, message) = job.failure();
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
    let failing = job("llama", json!({"chat_template": "{{ raise_exception('no system role here') }}"}));
    assert!(failing.failure().1.contains("no system role here"));
    let without = job("llama", json!({"chat_template": null}));
    assert!(without.failure().1.contains("template"));
    let long = job("llama", json!({"max_length": 65}));
    assert!(long.failure().1.contains("64 positions"));
}
