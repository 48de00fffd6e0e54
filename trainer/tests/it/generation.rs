//! Jobs of text generation: every family under every way to train, and what transformers says of the finished model.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

use crate::common::{self, Job, gloo, json_of, make_decoder, reference_python, run};
use luthier_trainer::job::Outcome;
use luthier_trainer::job::control::{Asked, Control};
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
pub(crate) fn job(model: &str, training: Value) -> Job {
    let mut all = json!({"max_steps": 12, "batch_size": 5, "learning_rate": 1e-3, "precision": "fp32",
        "chat_template": TEMPLATE, "samples": {"rows": 0}});
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

pub(crate) fn finished(model: &str, training: &Value, resources: &Value) -> Job {
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
fn the_curves_have_openais_columns_and_a_row_a_step() {
    let job = finished("llama", &json!({"max_steps": 6, "eval_every": {"steps": 3}}), &json!({}));
    let mut csv = csv::Reader::from_path(job.path("out/model/metrics.csv")).unwrap();
    let heads: Vec<String> = csv.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(
        heads[..5],
        ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    );
    for own in ["epoch", "learning_rate", "grad_norm", "eval_perplexity"] {
        assert!(heads.iter().any(|head| head == own), "{own} in {heads:?}");
    }
    let rows: Vec<Vec<Option<f64>>> = csv
        .records()
        .map(|row| {
            row.unwrap().iter().map(|cell| (!cell.is_empty()).then(|| cell.parse().unwrap())).collect()
        })
        .collect();
    let column = |at: usize| -> Vec<(u64, f64)> {
        rows.iter().filter_map(|row| Some((row[0]? as u64, row[at]?))).collect()
    };
    assert_eq!(rows.len(), 6);
    assert_eq!(column(1), job.curve("train", "loss"));
    assert_eq!(column(2), job.curve("train", "mean_token_accuracy"));
    assert_eq!(column(3), job.curve("eval", "loss"));
    assert_eq!(column(4), job.curve("eval", "mean_token_accuracy"));
    assert_eq!(column(3).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6]);
    assert!(column(2).iter().all(|(_, accuracy)| (0.0..=1.0).contains(accuracy)));
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

/// Looks at finished jobs, all in one process: it takes longer to start than to look.
pub(crate) fn transformers_agrees(python: &str, jobs: &[Job]) {
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

/// Steps of samples, and what was asked and answered, by attempt.
fn samples(job: &Job, attempt: u64) -> Vec<(u64, Vec<Value>)> {
    let events = job.events();
    let told = events.iter().filter(|event| event["kind"] == "samples" && event["attempt"] == attempt);
    told.map(|event| {
        (event["step"].as_u64().unwrap(), event["values"]["samples"].as_array().unwrap().clone())
    })
    .collect()
}

/// What `luthier-trainer generate` answers to prompts of samples: text, tokens and how it ended.
fn generated(folder: &Path, adapter: Option<&Path>, prompts: &[Value], tokens: u64) -> Vec<Value> {
    let mut child = common::generate(folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["ready"], true);
    let mut questions = child.stdin.take().unwrap();
    let answers = prompts.iter().enumerate().map(|(id, prompt)| {
        let name = if prompt.is_array() { "messages" } else { "prompt" };
        let question = json!({name: prompt, "adapter": adapter, "template": prompt.is_array().then_some(TEMPLATE),
            "temperature": 0, "max_tokens": tokens});
        writeln!(questions, "{}", json!({"id": id, "generate": question})).unwrap();
        let (mut text, mut finish) = (String::new(), Value::Null);
        loop {
            let line = next();
            assert!(line["error"].is_null(), "{line}");
            text.push_str(line["text"].as_str().unwrap_or_default());
            if !line["finish"].is_null() {
                finish = line["finish"].clone();
            }
            if !line["done"].is_null() {
                break json!([text, finish, line["done"]["completion_tokens"]]);
            }
        }
    });
    let answers = answers.collect();
    drop(questions);
    assert!(child.wait().unwrap().success());
    answers
}

#[test]
fn samples_are_what_the_saved_model_writes() {
    let own = json!([
        "good film",
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "bad film"}],
    ]);
    let asked = json!({"prompts": own, "rows": 2, "max_tokens": 9});
    let ways = [
        json!({"eval_every": {"steps": 5}}),
        json!({"eval_every": {"steps": 5}, "precision": "bf16"}),
        json!({"eval_every": {"steps": 5}, "lora": {"rank": 4, "dropout": 0.2}, "learning_rate": 1e-2}),
    ];
    for training in ways {
        let mut training = training;
        training["samples"] = asked.clone();
        let job = finished("llama", &training, &json!({}));
        let told = samples(&job, 1);
        let steps: Vec<u64> = told.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [0, 5, 10, 12], "{training}");
        let prompts: Vec<Value> = told[0].1.iter().map(|sample| sample["prompt"].clone()).collect();
        assert_eq!(prompts[0], json!([{"role": "user", "content": "good film"}]));
        assert_eq!(prompts[1], own[1]);
        // The first two validation rows, with the answers that they have there.
        let expected: Vec<&Value> = told[0].1.iter().map(|sample| &sample["expected"]).collect();
        assert_eq!(expected, [&Value::Null, &Value::Null, &json!("good0"), &json!("bad1")]);
        assert_eq!(told[0].1[3]["row"], 1);
        let (base, tuned) = (job.path("model"), job.path("out/model"));
        let is_adapter = !training["lora"].is_null();
        let folder = if is_adapter { &base } else { &tuned };
        let best = json_of(job.path("out/result.json"))["best_step"].as_u64().unwrap();
        for (step, told) in &told {
            let found: Vec<Value> =
                told.iter().map(|said| json!([said["answer"], said["finish"], said["tokens"]])).collect();
            let right = match *step {
                0 => generated(&base, None, &prompts, 9),
                step if step == best => generated(folder, is_adapter.then_some(&tuned), &prompts, 9),
                _ => continue,
            };
            assert_eq!(found, right, "step {step} of {training}");
        }
        assert_ne!(told[0].1, told[3].1, "{training}");
    }
}

#[test]
fn a_job_with_samples_has_the_bits_of_one_without_and_repeats_them() {
    for training in [
        json!({"eval_every": {"steps": 4}, "keep_checkpoints": 9, "dropout": 0.1}),
        json!({"eval_every": {"steps": 4}, "keep_checkpoints": 9, "gradient_checkpointing": true,
            "lora": {"rank": 4, "dropout": 0.2}, "learning_rate": 1e-2}),
    ] {
        let with = |samples: Value| {
            let mut training = training.clone();
            training["samples"] = samples;
            let job = job("llama", training);
            assert!(matches!(job.run(), Outcome::Succeeded(_)));
            job
        };
        let drawn = json!({"temperature": 1.0, "seed": 3, "max_tokens": 12});
        let (plain, asked) = (with(json!({"rows": 0})), with(drawn));
        assert!(samples(&plain, 1).is_empty());
        assert_eq!(samples(&asked, 1).len(), 4);
        assert_eq!(distance(&plain, &asked), 0.0);
        let file = if training["lora"].is_null() { "model.safetensors" } else { "adapter_model.safetensors" };
        let weights = |job: &Job| std::fs::read(job.path("out/model").join(file)).unwrap();
        assert!(weights(&plain) == weights(&asked), "{training}");
        // Killed before its first checkpoint, it begins again; after one it goes on.
        for lost in [vec!["checkpoints"], vec!["checkpoints/step-00000008", "checkpoints/step-00000012"]] {
            let lost_all = lost.len() == 1;
            for folder in lost {
                std::fs::remove_dir_all(asked.path("out").join(folder)).ok();
            }
            std::fs::remove_file(asked.path("out/result.json")).unwrap();
            let attempt = 1 + asked.events().last().unwrap()["attempt"].as_u64().unwrap();
            assert!(matches!(asked.run_under(&Control::default(), attempt as u32), Outcome::Succeeded(_)));
            let (first, again) = (samples(&asked, 1), samples(&asked, attempt));
            assert_eq!(again.len(), if lost_all { 4 } else { 2 });
            assert!(first.ends_with(&again), "{training}: {again:?} after {first:?}");
        }
    }
}

#[test]
fn prompts_come_from_every_kind_of_row_and_what_is_not_asked_is_told() {
    let write = |job: &Job, rows: &[Value]| {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        job.write("data/train.jsonl", &text);
        job.write("data/validation.jsonl", &text);
    };
    let first = |job: &Job| {
        assert!(matches!(job.run(), Outcome::Succeeded(_)));
        samples(job, 1)[0].1.clone()
    };
    let said = |job: &Job| -> Vec<String> {
        job.events().iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
    };
    let training = |samples: Value| json!({"max_steps": 1, "max_length": 24, "samples": samples});

    let texts = job("llama", training(json!({"max_tokens": 4})));
    write(&texts, &[json!({"text": "film was good and long"}), json!({"text": "film was bad"})]);
    let told = first(&texts);
    let whole =
        |said: &Value| format!("{}{}", said["prompt"].as_str().unwrap(), said["expected"].as_str().unwrap());
    assert!("film was good and long".starts_with(&whole(&told[0])), "{told:?}");
    assert!(!told[0]["expected"].as_str().unwrap().is_empty());

    let pairs = job("llama", training(json!({"max_tokens": 4})));
    pairs.change(|spec| spec["training"]["preference"] = json!({"loss": "orpo"}));
    let pair = |word: &str| json!({"prompt": "film", "chosen": format!("good {word}"), "rejected": "bad"});
    // The same prompt twice is asked once.
    write(&pairs, &[pair("a"), pair("b")]);
    let told = first(&pairs);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["prompt"], json!([{"role": "user", "content": "film"}]));
    assert_eq!(told[0]["expected"], "good a");

    let completions = job("llama", training(json!({"prompts": ["film"], "rows": 1, "max_tokens": 4})));
    write(
        &completions,
        &[
            json!({"prompt": "good film ".repeat(40), "completion": "x"}),
            json!({"prompt": "bad", "completion": " film"}),
        ],
    );
    let told = first(&completions);
    assert_eq!((&told[0]["prompt"], &told[1]["prompt"]), (&json!("film"), &json!("bad")));
    assert_eq!(told[1]["expected"], " film");
    let passed = said(&completions);
    assert!(
        passed.iter().any(|line| line.contains("1 prompts of validation rows leave no room")),
        "{passed:?}"
    );

    let long = job("llama", json!({"max_steps": 1, "samples": {"prompts": ["film ".repeat(80), "film"]}}));
    assert_eq!(first(&long).len(), 1);
    assert!(
        said(&long)
            .iter()
            .any(|line| line.contains("samples.prompts[0] has") && line.contains("context is 64"))
    );

    let without = job("llama", json!({"max_steps": 1, "samples": {}}));
    without.change(|spec| {
        spec["data"] = json!({"train": "train.jsonl"});
        spec["split"] = json!({"fraction": 0.0});
    });
    assert!(matches!(without.run(), Outcome::Succeeded(_)));
    assert!(
        said(&without).iter().any(|line| line.contains("there are no validation rows to take prompts from"))
    );

    let refused = job(
        "llama",
        json!({"samples": {"prompts": ["film"]},
        "chat_template": "{% if messages|length < 2 %}{{ raise_exception('say more') }}{% endif %}{% for m in messages \
                          %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"}),
    );
    let (code, message) = refused.failure();
    assert!(code == "bad_prompt" && message.contains("say more"), "{code}: {message}");
}

#[test]
fn with_several_processes_the_first_copy_answers_and_a_divided_model_says_why_not() {
    if !gloo() {
        return;
    }
    let training = json!({"max_steps": 2, "samples": {"rows": 2, "max_tokens": 4}});
    let alone = finished("llama", &training, &json!({}));
    let copies = finished("llama", &training, &json!({"devices": 2}));
    let (alone, told) = (samples(&alone, 1), samples(&copies, 1));
    assert_eq!((alone.len(), told.len()), (2, 2));
    assert_eq!(alone[0], told[0]);
    let stages = finished("llama", &training, &json!({"devices": 2, "pipeline_stages": 2}));
    assert!(samples(&stages, 1).is_empty());
    let why = stages.events().into_iter().filter(|event| {
        event["message"].as_str().is_some_and(|message| message.contains("lies in several processes"))
    });
    assert_eq!(why.count(), 1);
}
