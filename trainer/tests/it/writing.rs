//! Texts that a model writes: as transformers' `generate` writes them (values by `fixtures/make_decoders.py`), alone and in company.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::rc::Rc;

use crate::common::{self, Job, distance, fixture, greedy, json_of, make_decoder, values};
use luthier_trainer::generate::{
    Engine, Event, Finish, Format, Reader, Request, Sampling, Told, Voice, Voices,
};
use luthier_trainer::models::Inputs;
use luthier_trainer::nn::{Context, KeyValues, Packing};
use serde_json::{Value, json};
use tch::{Device, Tensor};

/// Families and their variants. Angles of `dynamic` and `longrope` go by the length of the sequence, so that what is kept of
/// earlier tokens is not what a run of the whole would make (transformers' cache does the same).
const MODELS: [&str; 16] = [
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gpt_neox_sequential",
    "llama",
    "llama_bias",
    "llama_linear",
    "llama_tied",
    "llama_yarn",
    "mistral",
    "phi3",
    "phi3_partial",
    "qwen2_window",
    "qwen3",
    "smollm3",
];

/// A checkpoint with its tokenizer; nothing ends an answer.
fn folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    make_decoder(dir.path(), name);
    let mut config = json_of(dir.path().join("config.json"));
    config["eos_token_id"] = Value::Null;
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    // It names an end mark as well.
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    dir
}

fn open(name: &str) -> (Voices, tempfile::TempDir) {
    let dir = folder(name);
    (Voices::open(dir.path(), Device::Cpu).unwrap(), dir)
}

/// What became of each answer.
#[derive(Default, Debug, PartialEq)]
struct Answer {
    text: String,
    told: Vec<Told>,
    finish: Option<Finish>,
}

type Answers = BTreeMap<(u64, usize), Answer>;

/// Takes steps until all is written; `each` is called before each of them.
fn run(engine: &mut Engine, mut each: impl FnMut(usize, &mut Engine)) -> Answers {
    let mut answers = Answers::new();
    for number in 0.. {
        each(number, engine);
        if engine.is_idle() {
            break;
        }
        for (id, event) in engine.step() {
            match event {
                Event::Text { choice, text, told } => {
                    let answer = answers.entry((id, choice)).or_default();
                    answer.text.push_str(&text);
                    answer.told.extend(told);
                }
                Event::Finished(choice, finish) => {
                    answers.entry((id, choice)).or_default().finish = Some(finish);
                }
                Event::Done(..) => {}
                Event::Failed(failure) => panic!("{id}: {failure}"),
            }
        }
    }
    answers
}

fn one(request: Request) -> Answer {
    let id = request.id;
    let mut engine = Engine::new(Device::Cpu);
    engine.add(request).unwrap();
    run(&mut engine, |_, _| {}).remove(&(id, 0)).unwrap()
}

fn ids(answer: &Answer) -> Vec<u32> {
    answer.told.iter().map(|told| told.id).collect()
}

#[test]
fn greedy_continuations_are_those_of_transformers_alone_and_together() {
    for name in MODELS {
        let (mut voices, _dir) = open(name);
        let voice = voices.get(None).unwrap();
        let said = json_of(fixture(&format!("expected/decoders/{name}.json")));
        let cases: Vec<(Vec<u32>, Vec<u32>)> = said["continuations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| {
                let list = |field: &str| serde_json::from_value(case[field].clone()).unwrap();
                (list("prompt"), list("continuation"))
            })
            .collect();
        let mut engine = Engine::new(Device::Cpu);
        // Each joins while the others are at work.
        let together = run(&mut engine, |step, engine| {
            if let Some((prompt, right)) = cases.get(step / 3).filter(|_| step % 3 == 0) {
                engine.add(greedy(&voice, step as u64, prompt, right.len())).unwrap();
            }
        });
        for (at, (prompt, right)) in cases.iter().enumerate() {
            let alone = one(greedy(&voice, at as u64 * 3, prompt, right.len()));
            assert_eq!(&ids(&alone), right, "{name} after {} tokens", prompt.len());
            // To the last bit: log-probabilities too.
            assert_eq!(together[&(at as u64 * 3, 0)], alone, "{name} after {} tokens", prompt.len());
        }
    }
}

/// Prompts of so many tokens.
fn prompts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let prompt = |(number, &length): (usize, &usize)| {
        (0..length).map(|at| 1 + ((at * 37 + number * 101) % 280) as u32).collect()
    };
    lengths.iter().enumerate().map(prompt).collect()
}

/// What each of these prompts is answered to when it is alone.
fn alone(voice: &Rc<Voice>, prompts: &[Vec<u32>], limit: usize) -> Vec<Answer> {
    prompts.iter().map(|prompt| one(greedy(voice, 0, prompt, limit))).collect()
}

/// Answers of a whole engine by number.
fn together(voice: &Rc<Voice>, prompts: &[Vec<u32>], limit: usize) -> (Vec<Answer>, usize) {
    let mut engine = Engine::new(Device::Cpu);
    for (number, prompt) in prompts.iter().enumerate() {
        engine.add(greedy(voice, number as u64, prompt, limit)).unwrap();
    }
    let mut steps = 0;
    let mut answers = run(&mut engine, |step, _| steps = step);
    ((0..prompts.len()).map(|number| answers.remove(&(number as u64, 0)).unwrap()).collect(), steps)
}

#[test]
fn prompts_are_read_together_and_change_nothing_in_each_other() {
    let short = prompts(&[1, 2, 5, 9, 16, 17, 23, 31, 33, 40, 48, 50]);
    for name in MODELS {
        let (mut voices, _dir) = open(name);
        let voice = voices.get(None).unwrap();
        let (found, steps) = together(&voice, &short, 6);
        assert_eq!(steps, 5, "{name}: all are read in the first step");
        // To the last bit: log-probabilities too.
        assert_eq!(found, alone(&voice, &short, 6), "{name}");
    }
}

#[test]
fn long_prompts_are_read_in_parts_that_others_do_not_change() {
    let dir = folder("llama");
    let mut config = json_of(dir.path().join("config.json"));
    config["max_position_embeddings"] = json!(1024);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut voices = Voices::open(dir.path(), Device::Cpu).unwrap();
    let voice = voices.get(None).unwrap();
    let mixed = prompts(&[300, 3, 128, 129, 257, 64, 1, 500, 127]);
    let right = alone(&voice, &mixed, 5);
    assert_eq!(together(&voice, &mixed, 5).0, right);
    // While answers are written, and in another order.
    let mut engine = Engine::new(Device::Cpu);
    let found = run(&mut engine, |step, engine| {
        if let Some(number) = mixed.len().checked_sub(1 + step / 2).filter(|_| step % 2 == 0) {
            engine.add(greedy(&voice, number as u64, &mixed[number], 5)).unwrap();
        }
    });
    for (number, right) in right.iter().enumerate() {
        assert_eq!(&found[&(number as u64, 0)], right, "{number}");
    }
}

#[test]
fn one_prompt_that_cannot_be_read_fails_alone() {
    let (mut voices, _dir) = open("llama");
    let voice = voices.get(None).unwrap();
    let mut engine = Engine::new(Device::Cpu);
    let good = [1, 156, 17, 139];
    engine.add(greedy(&voice, 0, &good, 4)).unwrap();
    // No such token.
    engine.add(greedy(&voice, 1, &[1, 100_000], 4)).unwrap();
    engine.add(greedy(&voice, 2, &good, 4)).unwrap();
    let mut failed = Vec::new();
    let mut texts = BTreeMap::<u64, Vec<u32>>::new();
    while !engine.is_idle() {
        for (id, event) in engine.step() {
            match event {
                Event::Text { told, .. } => {
                    texts.entry(id).or_default().extend(told.iter().map(|told| told.id))
                }
                Event::Failed(_) => failed.push(id),
                _ => {}
            }
        }
    }
    let right = ids(&one(greedy(&voice, 0, &good, 4)));
    assert_eq!(failed, [1]);
    assert_eq!(texts, BTreeMap::from([(0, right.clone()), (2, right)]));
}

#[test]
fn answers_under_an_adapter_do_not_depend_on_who_else_asks() {
    let short = prompts(&[1, 2, 5, 9, 17, 33, 40, 50]);
    for lora in
        [json!({"rank": 4}), json!({"rank": 4, "dora": true}), json!({"rank": 4, "quantization": "nf4"})]
    {
        let adapter = tuned_by(lora.clone());
        let (mut voices, _dir) = open("llama");
        let voice = voices.get(Some(&adapter.path("out/model"))).unwrap();
        assert_eq!(together(&voice, &short, 6).0, alone(&voice, &short, 6), "{lora}");
    }
}

#[test]
fn what_is_kept_gives_the_logits_of_the_whole() {
    let inputs = json_of(fixture("expected/decoders/inputs.json"));
    let sequence: Vec<i64> = serde_json::from_value(inputs["sequences"][5].clone()).unwrap();
    let _guard = tch::no_grad_guard();
    for name in MODELS {
        let (mut voices, _dir) = open(name);
        let voice = voices.get(None).unwrap();
        let states = |part: &[i64], kept: Option<&KeyValues>| {
            let input_ids = Tensor::from_slice(part);
            let past = kept.map_or(0, KeyValues::tokens);
            let packing = Packing::continuing(&[past], &[part.len() as i64], Device::Cpu);
            let token_type_ids = input_ids.zeros_like();
            let inputs = Inputs { token_type_ids, input_ids, answer_ids: None, packing };
            let list: Vec<&KeyValues> = kept.into_iter().collect();
            let context = match kept {
                Some(_) => Context::continuing(&inputs.packing, &list),
                None => Context::evaluation(&inputs.packing),
            };
            let top = voice.model.forward(&inputs, &context);
            list.iter().for_each(|kept| kept.count(part.len() as i64));
            voice.model.vocabulary().unwrap().logits(&top)
        };
        let whole = states(&sequence, None);
        for parts in [vec![1; 40], vec![7, 1, 1, 20, 11], vec![39, 1]] {
            let (kept, mut at) = (KeyValues::new(), 0);
            let mut logits = Vec::new();
            for part in &parts {
                logits.push(states(&sequence[at..at + part], Some(&kept)));
                at += part;
            }
            let off = distance(&values(&Tensor::cat(&logits, 0)), &values(&whole));
            assert!(off < 2e-5, "{name} in {parts:?}: {off}");
        }
    }
}

#[test]
fn an_answer_ends_at_a_stop_string_which_is_not_shown() {
    let (mut voices, _dir) = open("llama");
    let voice = voices.get(None).unwrap();
    let whole = one(greedy(&voice, 0, &[1, 156, 17, 139], 24));
    assert_eq!(whole.finish, Some(Finish::Length));
    let letters: Vec<char> = whole.text.chars().collect();
    let stop: String = letters[6..9].iter().collect();
    let at = whole.text.find(&stop).unwrap();
    let mut request = greedy(&voice, 0, &[1, 156, 17, 139], 24);
    request.stops = vec!["no such text".to_owned(), stop];
    let stopped = one(request);
    assert_eq!((stopped.text.as_str(), stopped.finish), (&whole.text[..at], Some(Finish::Stop)));
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let (mut voices, _dir) = open("qwen3");
    let voice = voices.get(None).unwrap();
    let write = |seed| {
        let sampling = Sampling { temperature: 0.9, top_p: 0.9, ..Sampling::default() };
        let mut engine = Engine::new(Device::Cpu);
        engine.add(Request { choices: 3, sampling, seed, ..greedy(&voice, 1, &[1, 5, 9], 12) }).unwrap();
        run(&mut engine, |_, _| {})
    };
    let (first, again, other) = (write(7), write(7), write(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_ne!(first[&(1, 0)].text, first[&(1, 1)].text);
    // The log-probabilities are the model's own, whatever the temperature.
    let told = &first[&(1, 2)].told;
    let mut forced = greedy(&voice, 1, &[&[1, 5, 9], ids(&first[&(1, 2)]).as_slice()].concat(), 0);
    forced.echo = true;
    let echoed = one(forced);
    for (told, again) in told.iter().zip(&echoed.told[3..]) {
        assert!((told.logprob.unwrap() - again.logprob.unwrap()).abs() < 1e-4);
    }
}

#[test]
fn an_echo_tells_what_the_model_thought_of_the_prompt() {
    let (mut voices, _dir) = open("llama");
    let voice = voices.get(None).unwrap();
    let mut request = greedy(&voice, 4, &[1, 156, 17, 139], 2);
    (request.echo, request.logprobs) = (true, Some(3));
    let answer = one(request);
    assert_eq!(answer.told.len(), 6);
    assert_eq!(answer.told[0].logprob, None);
    let last = &answer.told[5];
    assert_eq!((last.top.len(), last.top[0].id), (3, last.id));
    assert_eq!(last.top[0].logprob, last.logprob);
}

#[test]
fn output_keeps_to_a_schema() {
    let (mut voices, _dir) = open("llama");
    let voice = voices.get(None).unwrap();
    let schema = json!({
        "type": "object",
        "properties": {"kind": {"enum": ["saw", "plane"]}, "sharp": {"type": "boolean"}},
        "required": ["kind", "sharp"],
        "additionalProperties": false,
    });
    for seed in 0..4 {
        let mut request = greedy(&voice, 1, &[1, 156, 17, 139], 60);
        request.sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        (request.seed, request.format) = (seed, Some(Format::Schema(schema.clone())));
        let answer = one(request);
        assert_eq!(answer.finish, Some(Finish::Stop), "{}", answer.text);
        let read: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(
            ["saw", "plane"].contains(&read["kind"].as_str().unwrap()) && read["sharp"].is_boolean(),
            "{read}"
        );
    }
    let mut request = greedy(&voice, 1, &[1], 5);
    request.format = Some(Format::Schema(json!({"type": "no such type"})));
    let error = Engine::new(Device::Cpu).add(request).unwrap_err();
    assert!(error.to_string().contains("JSON schema"), "{error}");
}

#[test]
fn a_cancelled_request_ends_at_once_and_the_others_go_on() {
    let (mut voices, _dir) = open("llama");
    let voice = voices.get(None).unwrap();
    let mut engine = Engine::new(Device::Cpu);
    engine.add(greedy(&voice, 1, &[1, 4], 50)).unwrap();
    engine.add(greedy(&voice, 2, &[1, 5], 10)).unwrap();
    let answers = run(&mut engine, |step, engine| {
        if step == 4 {
            engine.cancel(1);
        }
    });
    assert_eq!(answers[&(1, 0)].finish, Some(Finish::Cancelled));
    assert!(answers[&(1, 0)].told.len() < 8);
    assert_eq!((answers[&(2, 0)].finish, answers[&(2, 0)].told.len()), (Some(Finish::Length), 10));
}

/// A short fine-tune of the llama of the fixtures with an adapter.
fn tuned(merge: bool) -> Job {
    tuned_by(json!({"rank": 4, "alpha": 64.0, "targets": "all-linear", "merge": merge}))
}

/// The same with an adapter of these settings.
fn tuned_by(lora: Value) -> Job {
    let job = Job::of(json!({
        "task": "text-generation",
        "data": {"train": "train.jsonl"},
        "training": {"max_steps": 6, "batch_size": 4, "learning_rate": 2e-2, "precision": "fp32", "lora": lora},
        "resources": {"threads": 1},
    }));
    let from = folder("llama");
    common::copy_folder(from.path(), &job.path("model"));
    let row = |number: usize| json!({"text": format!("a line of text {number}")}).to_string();
    let rows: Vec<String> = (0..24).map(row).collect();
    job.write("data/train.jsonl", &rows.join("\n"));
    job.run();
    job
}

#[test]
fn an_adapter_on_a_base_writes_what_the_merged_model_writes() {
    let (adapter, merged) = (tuned(false), tuned(true));
    let (mut voices, _dir) = open("llama");
    let before = voices.parameters();
    let (plain, tuned) = (voices.get(None).unwrap(), voices.get(Some(&adapter.path("out/model"))).unwrap());
    // The base's weights are there once.
    assert_eq!(voices.parameters(), before);
    let mut merged = Voices::open(&merged.path("out/model"), Device::Cpu).unwrap();
    let whole = merged.get(None).unwrap();
    let prompt = [1, 156, 17, 139];
    // Base and adapter in one engine at the same time.
    let mut engine = Engine::new(Device::Cpu);
    engine.add(greedy(&plain, 1, &prompt, 20)).unwrap();
    engine.add(greedy(&tuned, 2, &prompt, 20)).unwrap();
    let both = run(&mut engine, |_, _| {});
    let alone = one(greedy(&plain, 1, &prompt, 20));
    assert_eq!(both[&(1, 0)], alone);
    let right = one(greedy(&whole, 2, &prompt, 20));
    assert_eq!(ids(&both[&(2, 0)]), ids(&right));
    assert_ne!(ids(&right), ids(&alone));
    for (found, right) in both[&(2, 0)].told.iter().zip(&right.told) {
        assert!((found.logprob.unwrap() - right.logprob.unwrap()).abs() < 1e-4);
    }
    assert!(voices.forget(&adapter.path("out/model")) && !voices.forget(Path::new("/none")));
}

#[test]
fn of_many_adapters_those_not_asked_for_the_longest_give_way_and_those_at_work_do_not() {
    let adapter = tuned(false);
    let places: Vec<tempfile::TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let folders: Vec<&Path> = places.iter().map(tempfile::TempDir::path).collect();
    for folder in &folders {
        let from = adapter.path("out/model");
        for name in ["adapter_config.json", "adapter_model.safetensors", "config.json"] {
            std::fs::copy(from.join(name), folder.join(name)).unwrap();
        }
    }
    let bytes = std::fs::metadata(folders[0].join("adapter_model.safetensors")).unwrap().len();
    let (voices, _dir) = open("llama");
    // Room for two, counted without the head of their file.
    let mut voices = voices.with_room(2 * bytes);
    voices.get(Some(folders[0])).unwrap();
    voices.get(Some(folders[1])).unwrap();
    voices.get(Some(folders[0])).unwrap();
    assert!(voices.take_dropped().is_empty());
    let at_work = voices.get(Some(folders[2])).unwrap();
    assert_eq!(voices.take_dropped(), [folders[1]]);
    voices.get(Some(folders[1])).unwrap();
    assert_eq!(voices.take_dropped(), [folders[0]], "the one at work came later, and stays in any case");
    let prompt = [1, 156, 17, 139];
    let before = one(greedy(&at_work, 1, &prompt, 8));
    // Without any room only what is at work stays.
    let mut voices = voices.with_room(0);
    let newest = voices.get(Some(folders[0])).unwrap();
    assert_eq!(voices.take_dropped(), [folders[1]]);
    drop((at_work, newest));
    let again = voices.get(Some(folders[1])).unwrap();
    let mut dropped = voices.take_dropped();
    dropped.sort();
    let mut right = [folders[0], folders[2]];
    right.sort_unstable();
    assert_eq!(dropped, right);
    // Loaded again, it says the same.
    assert_eq!(one(greedy(&again, 1, &prompt, 8)), before);
}

#[test]
fn the_process_answers_lines_with_lines() {
    let dir = folder("llama");
    let mut child = common::generate(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let ready = next();
    assert_eq!(
        (&ready["ready"], &ready["context"], &ready["device"]),
        (&json!(true), &json!(64), &json!("cpu"))
    );
    let mut questions = child.stdin.take().unwrap();
    let mut ask = |line: Value| writeln!(questions, "{line}").unwrap();
    let refused = [
        (json!({"id": 2, "generate": {"prompt": vec![5; 64]}}), "context is 64", "prompt"),
        (json!({"id": 3, "generate": {"prompt": [5, 288]}}), "token 288", "prompt"),
        (
            json!({"id": 4, "generate": {"messages": [{"role": "bard", "content": "a"}]}}),
            "role",
            "messages[0].role",
        ),
        (
            json!({"id": 5, "generate": {"messages": [{"role": "user", "content": "a"}]}}),
            "no chat template",
            "messages",
        ),
        (json!({"id": 6, "generate": {"prompt": "a", "temperature": -1}}), "temperature", "temperature"),
        (json!({"id": 7, "generate": {}}), "nothing to answer", "messages"),
        (json!({"id": 8, "generate": {"prompt": []}}), "no tokens", ""),
        (json!({"id": 9, "embed": {"inputs": ["a", [5, 288]]}}), "Input 1 has token 288", "input"),
        (json!({"id": 10, "generate": {"prompt": "a", "adapter": "/no/such/folder"}}), "no adapter", ""),
        (json!({"id": 11, "jump": 1}), "Not a request", ""),
    ];
    for (line, words, param) in refused {
        ask(line.clone());
        let answer = next();
        assert_eq!(answer["id"], line["id"]);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert_eq!(answer["error"]["param"].as_str().unwrap_or_default(), param, "{message}");
    }
    ask(json!({"id": 12, "embed": {"inputs": ["ab", [5, 6, 7]], "normalize": true}}));
    let embedded = next();
    let vector: Vec<f64> = serde_json::from_value(embedded["embeddings"][1].clone()).unwrap();
    assert_eq!(vector.len(), 32);
    assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    let chat = json!([{"role": "user", "content": "ab"}]);
    ask(
        json!({"id": 20, "generate": {"messages": chat, "template": "chatml", "temperature": 0, "max_tokens": 3}}),
    );
    let started = next();
    assert!(started["started"]["prompt_tokens"].as_u64().unwrap() > 4, "{started}");
    let mut text = String::new();
    loop {
        let line = next();
        assert_eq!(line["id"], 20);
        text.push_str(line["text"].as_str().unwrap_or_default());
        if !line["done"].is_null() {
            assert_eq!(line["done"]["completion_tokens"], 3);
            break;
        }
    }
    assert!(!text.is_empty());
    drop(questions);
    assert!(child.wait().unwrap().success());
}

/// Values by `fixtures/make_preferences.py`.
#[test]
fn embeddings_are_those_of_sentence_transformers() {
    let ranking = json_of(fixture("preferences/ranking.json"));
    let reader = Reader::open(&fixture("bert_encoder"), Device::Cpu).unwrap();
    let texts: Vec<String> = ranking["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|texts| texts[1].as_str().unwrap().to_owned())
        .collect();
    let found: Vec<f64> =
        reader.embed(&texts, true, Device::Cpu).unwrap().concat().into_iter().map(f64::from).collect();
    let right = common::numbers(&ranking["embeddings"]);
    for (row, (found, right)) in found.chunks(32).zip(right.chunks(32)).enumerate() {
        let off = distance(found, right);
        // The fifth text was cut to 24 tokens there, and is not cut here.
        assert!(off < 1e-5 || row == 4, "text {row}: {off}");
    }
}
