//! A real language model, SmolLM2-135M-Instruct, says what transformers says (`make soak`).

use std::path::PathBuf;
use std::process::Command;

use crate::common::{distance, greedy, json_of, values};
use formats::chat::messages_of;
use luthier_trainer::generate::{Engine, Event, Voices};
use luthier_trainer::models::Inputs;
use luthier_trainer::nn::{Context, Packing};
use luthier_trainer::tensors;
use serde_json::Value;
use tch::{Device, Tensor};

#[test]
#[ignore = "fetches a model and takes minutes: `make soak`"]
fn smollm2_gives_transformers_logits_within_1e_3_and_64_greedy_tokens() {
    let (Ok(python), Ok(model)) =
        (std::env::var("LUTHIER_REFERENCE_PYTHON"), std::env::var("LUTHIER_LANGUAGE_MODEL"))
    else {
        panic!("`make soak` sets LUTHIER_REFERENCE_PYTHON and LUTHIER_LANGUAGE_MODEL");
    };
    let (model, dir) = (PathBuf::from(model), tempfile::tempdir().unwrap());
    let (said, logits) = (dir.path().join("said.json"), dir.path().join("logits.safetensors"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/say_prompts.py");
    let ended = Command::new(python).arg(script).args([&model, &said, &logits]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let logits: Vec<(String, Tensor)> = tensors::load(&logits).unwrap();
    let mut voices = Voices::open(&model, Device::Cpu).unwrap();
    let voice = voices.get(None).unwrap();
    let mut wrong = Vec::new();
    let said = json_of(said);
    for (number, prompt) in said["prompts"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<u32> = serde_json::from_value(prompt["ids"].clone()).unwrap();
        let messages: Vec<Value> = serde_json::from_value(prompt["messages"].clone()).unwrap();
        let messages = messages_of(&messages, "messages").unwrap();
        let rendered = voice.template.as_ref().unwrap().render(&messages, None, true).unwrap();
        assert_eq!(voice.tokenizer.encode_plain(&rendered.text).unwrap().ids, ids, "prompt {number}");

        let input_ids = Tensor::from_slice(&ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
        let packing = Packing::continuing(&[0], &[ids.len() as i64], Device::Cpu);
        let token_type_ids = input_ids.zeros_like();
        let inputs = Inputs { token_type_ids, input_ids, answer_ids: None, packing };
        let top = tch::no_grad(|| voice.model.forward(&inputs, &Context::evaluation(&inputs.packing)));
        let last = top.narrow(0, ids.len() as i64 - 1, 1);
        let found = tch::no_grad(|| voice.model.vocabulary().unwrap().logits(&last));
        let name = format!("logits.{number}");
        let right = &logits.iter().find(|(other, _)| *other == name).unwrap().1;
        let off = distance(&values(&found.view([-1])), &values(right));
        if off.is_nan() || off > 1e-3 {
            wrong.push(format!("prompt {number}: logits are off by {off}"));
        }

        let right: Vec<u32> = serde_json::from_value(prompt["continuation"].clone()).unwrap();
        let mut engine = Engine::new(Device::Cpu);
        engine.add(greedy(&voice, 1, &ids, 64)).unwrap();
        let mut found = Vec::new();
        while !engine.is_idle() {
            for (_, event) in engine.step() {
                if let Event::Text { told, .. } = event {
                    found.extend(told.iter().map(|told| told.id));
                }
            }
        }
        // Here the token that ends an answer is no part of it.
        let right: Vec<u32> = right.into_iter().take_while(|id| !voice.ends.contains(id)).collect();
        if found != right {
            let same = found.iter().zip(&right).take_while(|(a, b)| a == b).count();
            wrong.push(format!("prompt {number}: {same} of {} tokens are the same", right.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
