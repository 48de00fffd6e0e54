//! Which tokens of a row are targets.

use std::fs;

use formats::chat::{Content, Encoded, Encoder, Example, Loss, Message, Role};
use formats::chat_template::{ChatTemplate, SpecialTokens};
use formats::tokenizer::Tokenizer;
use formats::{LineRange, Problem, ProblemKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::common::{Random, root};

/// A tokenizer of which every character is a token, and so are the marks of the templates.
fn characters(extra: &Value) -> Tokenizer {
    let marks = [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|end|>",
        "<|user|>",
        "<|assistant|>",
        "<|endoftext|>",
        "<eos>",
    ];
    let folder = tempfile::tempdir().unwrap();
    let added: Vec<Value> = marks
        .iter()
        .enumerate()
        .map(|(id, mark)| {
            json!({"id": id, "content": mark, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let mut vocab: Map<String, Value> =
        marks.iter().enumerate().map(|(id, mark)| ((*mark).to_owned(), json!(id))).collect();
    for (place, mark) in ["｜", "▁"].iter().enumerate() {
        vocab.insert((*mark).to_owned(), json!(50 + place));
    }
    for code in (10..127_u8).chain([0xe9]) {
        vocab.insert(char::from(code).to_string(), json!(100 + u32::from(code)));
    }
    let tokenizer = json!({"version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "</s>"}});
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), extra.to_string()).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn plain() -> Tokenizer {
    characters(
        &json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}),
    )
}

fn template(source: &str) -> ChatTemplate {
    let tokens: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>")]
        .map(|(name, token)| (name.to_owned(), token.to_owned()))
        .into();
    ChatTemplate::new(source, "chat_template.jinja", tokens).unwrap()
}

/// The template of a family that is compared with transformers.
fn family(name: &str) -> ChatTemplate {
    let text = fs::read(root().join("formats/tests/fixtures/chat_templates.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let family =
        expected["families"].as_array().unwrap().iter().find(|family| family["name"] == name).unwrap();
    let tokens = serde_json::from_value(family["tokens"].clone()).unwrap();
    ChatTemplate::new(family["template"].as_str().unwrap(), name, tokens).unwrap()
}

fn example(content: Content) -> Example {
    Example { row: 0, lines: LineRange::one(3), content, tools: None }
}

fn chat(turns: &[(Role, &str)]) -> Example {
    example(Content::Chat(turns.iter().map(|(role, text)| Message::new(*role, *text)).collect()))
}

fn encoder<'a>(tokenizer: &'a Tokenizer, template: &'a ChatTemplate) -> Encoder<'a> {
    Encoder {
        tokenizer,
        template: Some(template),
        max_length: 1000,
        loss: Loss::Assistant,
        file: "data.jsonl",
    }
}

/// The text with what counts in brackets.
fn bracketed(tokenizer: &Tokenizer, row: &Encoded) -> String {
    let mut out = String::new();
    let mut before = false;
    for (id, counts) in row.ids.iter().zip(row.counts.iter().copied()) {
        if counts != before {
            out.push(if counts { '⟦' } else { '⟧' });
        }
        out.push_str(&tokenizer.token(*id).unwrap());
        before = counts;
    }
    if before {
        out.push('⟧');
    }
    out
}

fn encoded(template: &ChatTemplate, example: &Example) -> Result<String, Problem> {
    let tokenizer = plain();
    let row = encoder(&tokenizer, template).encode(example)?;
    assert_eq!(row.ids.len(), row.counts.len());
    Ok(bracketed(&tokenizer, &row))
}

use Role::{Assistant, System, Tool, User};

#[test]
fn what_the_assistant_says_and_what_ends_it_counts() {
    let talk =
        chat(&[(System, "s"), (User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d"), (User, "e")]);
    let cases = [
        (
            "smollm2",
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>\n⟧<|im_start|>user\ne<|im_end|>\n",
        ),
        (
            "llama-2",
            "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST]⟦ b </s>⟧<s>[INST] c [/INST]⟦ d </s>⟧<s>[INST] e [/INST]",
        ),
        (
            "phi-3",
            "<|system|>\ns<|end|>\n<|user|>\na<|end|>\n<|assistant|>\n⟦b<|end|>\n⟧<|user|>\nc<|end|>\n<|assistant|>\n⟦d<|end|>\n⟧<|user|>\ne<|end|>\n<|endoftext|>",
        ),
        (
            "phi-4",
            "<|im_start|>system<|im_sep|>s<|im_end|><|im_start|>user<|im_sep|>a<|im_end|><|im_start|>assistant<|im_sep|>⟦b<|im_end|>⟧<|im_start|>user<|im_sep|>c<|im_end|><|im_start|>assistant<|im_sep|>⟦d<|im_end|>⟧<|im_start|>user<|im_sep|>e<|im_end|>",
        ),
    ];
    for (name, expected) in cases {
        assert_eq!(encoded(&family(name), &talk).unwrap(), expected, "{name}");
    }
}

/// Qwen3 writes reasoning, or an empty place for it, in the last turn alone.
#[test]
fn turns_that_are_written_otherwise_later_are_found_all_the_same() {
    let qwen = family("qwen3");
    let talk = chat(&[
        (User, "a"),
        (Assistant, "<think>\nx\n</think>\n\nb"),
        (User, "c"),
        (Assistant, "<think>\ny\n</think>\n\nd"),
    ]);
    assert_eq!(
        encoded(&qwen, &talk).unwrap(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n\
         ⟦<think>\ny\n</think>\n\nd<|im_end|>\n⟧"
    );
    let repeated =
        chat(&[(User, "b"), (Assistant, "b"), (User, "b"), (Assistant, "bb"), (User, "b"), (Assistant, "")]);
    assert_eq!(
        encoded(&qwen, &repeated).unwrap(),
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n\
         ⟦bb<|im_end|>\n⟧<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\n<|im_end|>\n⟧"
    );
}

/// DeepSeek opens the reasoning in the prompt, and writes none in turns that are over.
#[test]
fn a_prompt_that_opens_reasoning_is_left_out_where_the_turn_has_none() {
    let talk = chat(&[(User, "a"), (Assistant, "<think>x</think>b"), (User, "c"), (Assistant, "d")]);
    assert_eq!(
        encoded(&family("deepseek"), &talk).unwrap(),
        "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>⟦b<｜end▁of▁sentence｜>⟧<｜User｜>c<｜Assistant｜>⟦d<｜end▁of▁sentence｜>⟧"
    );
}

#[test]
fn reasoning_and_calls_between_tools_count() {
    let mut calls = Message::new(Assistant, "");
    calls.rest.insert("tool_calls".to_owned(), json!([{"function": {"name": "f", "arguments": {"x": 1}}}]));
    calls.content = None;
    let messages = vec![
        Message::new(User, "a"),
        calls,
        Message::new(Tool, "r"),
        Message::new(Assistant, "b"),
        Message::new(User, "c"),
        Message::new(Assistant, "d"),
    ];
    let text = encoded(&family("qwen3"), &example(Content::Chat(messages.clone()))).unwrap();
    assert_eq!(
        text,
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>\n⟧\
         <|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧\
         <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nd<|im_end|>\n⟧"
    );
    let text = encoded(&family("qwen2.5"), &example(Content::Chat(messages))).unwrap();
    assert_eq!(text.matches('⟦').count(), 3, "{text}");
}

#[test]
fn a_turn_with_the_weight_0_never_counts() {
    let mut talk = chat(&[(User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d")]);
    let Content::Chat(messages) = &mut talk.content else { unreachable!() };
    messages[1].counts = false;
    let tokenizer = plain();
    for (name, first, second) in [
        ("smollm2", "assistant\nb<|im_end|>", "⟦d<|im_end|>\n⟧"),
        ("qwen3", "assistant\nb<|im_end|>", "⟦<think>\n\n</think>\n\nd<|im_end|>\n⟧"),
        ("phi-4", "<|im_sep|>b<|im_end|>", "⟦d<|im_end|>⟧"),
    ] {
        let template = family(name);
        let text = encoded(&template, &talk).unwrap();
        assert!(text.contains(first) && text.ends_with(second), "{name}: {text}");
        let all = Encoder { loss: Loss::All, ..encoder(&tokenizer, &template) };
        let row = all.encode(&talk).unwrap();
        let text = bracketed(&tokenizer, &row);
        assert!(text.contains("⟧b<|im_end|>") && text.ends_with('⟧'), "{name}: {text}");
        assert_eq!(text.matches('⟦').count(), 2, "{name}: {text}");
    }
}

#[test]
fn all_tokens_count_but_the_first_where_that_is_asked_for() {
    let (tokenizer, template) = (plain(), family("llama-2"));
    let all = Encoder { loss: Loss::All, ..encoder(&tokenizer, &template) };
    let row = all.encode(&chat(&[(User, "a"), (Assistant, "b")])).unwrap();
    assert_eq!(bracketed(&tokenizer, &row), "<s>⟦[INST] a [/INST] b </s>⟧");
    let row = all
        .encode(&example(Content::Completion { prompt: "ab".to_owned(), completion: "c".to_owned() }))
        .unwrap();
    assert_eq!(bracketed(&tokenizer, &row), "a⟦bc</s>⟧");
}

#[test]
fn a_mask_that_is_not_certain_is_refused() {
    let cases = [
        // Earlier turns are shortened to nothing.
        (
            "{% for m in messages %}<{{ m.role }}>{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}|{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
            "does not write what the assistant says",
        ),
        // The end of a turn depends on what follows, with nothing in common.
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ 'END' if loop.last else 'GOES ON' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
            "it ends the turn otherwise",
        ),
        // What comes before changes with the length, and there is no prompt to look for.
        (
            "{{ messages|length }}{% for m in messages %}{{ m.content }}.{% endfor %}",
            "where this one begins is lost",
        ),
    ];
    let talk = chat(&[(User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d")]);
    for (source, why) in cases {
        let problem = encoded(&template(source), &talk).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::ChatTemplate);
        assert_eq!((problem.line, problem.file.as_str()), (Some(LineRange::one(3)), "data.jsonl"));
        assert!(problem.message.contains(why), "{problem}");
        assert!(problem.column.as_deref().unwrap().starts_with("messages["), "{problem}");
        let tokenizer = plain();
        let template = template(source);
        assert!(
            Encoder { loss: Loss::All, ..encoder(&tokenizer, &template) }.encode(&talk).is_ok(),
            "all tokens need no mask"
        );
    }
    let uneven = template(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% generation %}!{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    );
    assert_eq!(encoded(&uneven, &talk).unwrap(), "a⟦b!⟧c⟦d!⟧");
    let mut weighted = talk.clone();
    let Content::Chat(messages) = &mut weighted.content else { unreachable!() };
    messages[1].counts = false;
    assert!(
        encoded(&uneven, &weighted)
            .unwrap_err()
            .message
            .contains("another number of {% generation %} blocks")
    );
}

#[test]
fn a_template_without_a_length_in_front_is_found_behind_one() {
    let numbered = template(
        "{{ messages|length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    );
    let talk = chat(&[(Assistant, "x"), (User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d")]);
    assert_eq!(
        encoded(&numbered, &talk).unwrap(),
        "5<assistant>⟦x<eos>⟧<user>a<eos><assistant>⟦b<eos>⟧<user>c<eos><assistant>⟦d<eos>⟧"
    );
}

#[test]
fn what_the_template_refuses_is_told_with_the_datas_line_and_the_message() {
    let problem =
        encoded(&family("mistral-v1"), &chat(&[(User, "a"), (User, "b"), (Assistant, "c")])).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "data.jsonl, line 3, `messages[1]`: the chat template (mistral-v1, line 1) refuses it: Roles must take turns!; change the \
         conversation, or choose another template"
    );
    let tokenizer = plain();
    let without = Encoder {
        tokenizer: &tokenizer,
        template: None,
        max_length: 9,
        loss: Loss::Assistant,
        file: "data.jsonl",
    };
    let problem = without.encode(&chat(&[(User, "a"), (Assistant, "b")])).unwrap_err();
    assert!(problem.to_string().contains("choose a template by name"), "{problem}");
    assert!(without.encode(&example(Content::Text("a".to_owned()))).is_ok(), "a text needs none");
}

#[test]
fn an_end_mark_follows_once_and_is_cut_with_the_rest() {
    let tokenizer = plain();
    let mut encoder = Encoder {
        tokenizer: &tokenizer,
        template: None,
        max_length: 100,
        loss: Loss::Assistant,
        file: "data.jsonl",
    };
    let text = |encoder: &Encoder<'_>, text: &str| {
        let row = encoder.encode(&example(Content::Text(text.to_owned()))).unwrap();
        (bracketed(&tokenizer, &row), row.truncated)
    };
    assert_eq!(text(&encoder, "ab"), ("a⟦b</s>⟧".to_owned(), false));
    assert_eq!(text(&encoder, "ab</s>"), ("a⟦b</s>⟧".to_owned(), false));
    encoder.max_length = 2;
    assert_eq!(text(&encoder, "ab"), ("a⟦b⟧".to_owned(), true));
    encoder.max_length = 0;
    assert_eq!(text(&encoder, "ab"), (String::new(), true));
    encoder.max_length = 4;
    let rows = [("ab", "cd"), ("abcd", "e"), ("", "xy")].map(|(prompt, completion)| {
        example(Content::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() })
    });
    let encoded = encoder.encode_rows(&rows).unwrap();
    let texts: Vec<String> = encoded.rows.iter().map(|row| bracketed(&tokenizer, row)).collect();
    assert_eq!(texts, ["ab⟦cd⟧", "x⟦y</s>⟧"]);
    assert_eq!((encoded.left_out, encoded.truncated), (1, 1));
    assert_eq!(
        encoded.notices(4),
        [
            "1 of 3 rows have nothing to learn within 4 tokens and are left out (line 3)",
            "1 of 3 rows are cut to 4 tokens"
        ]
    );
}

#[test]
fn a_preference_is_the_prompt_with_each_answer() {
    let (tokenizer, template) = (plain(), family("smollm2"));
    let pair = Content::Preference {
        prompt: vec![Message::new(System, "s"), Message::new(User, "a")],
        chosen: vec![Message::new(Assistant, "b")],
        rejected: vec![Message::new(Assistant, "c")],
    };
    let encoder = encoder(&tokenizer, &template);
    let encoded = encoder.encode_pair(&example(pair.clone())).unwrap();
    let start = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(bracketed(&tokenizer, &encoded.chosen), format!("{start}⟦b<|im_end|>\n⟧"));
    assert_eq!(bracketed(&tokenizer, &encoded.rejected), format!("{start}⟦c<|im_end|>\n⟧"));
    assert_eq!(encoder.encode_pairs(&[example(pair.clone())]).unwrap().rows.len(), 1);
    assert!(
        encoder.encode(&example(pair)).is_err()
            && encoder.encode_pair(&chat(&[(User, "a"), (Assistant, "b")])).is_err()
    );
}

fn unpaired(prompt: &str, completion: &str, desirable: bool) -> Content {
    let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
    Content::Unpaired { answer: Box::new(Content::Completion { prompt, completion }), desirable }
}

#[test]
fn an_answer_can_be_put_after_another_prompt_before_it_is_cut() {
    let (tokenizer, template) = (plain(), family("smollm2"));
    let encoder = Encoder { max_length: 4, ..encoder(&tokenizer, &template) };
    let rows = [unpaired("ab", "cdef", true), unpaired("x", "y", false), unpaired("long one", "z", true)];
    let rows: Vec<Example> = rows.into_iter().map(example).collect();
    let encoded = encoder.encode_unpaired(&rows).unwrap();
    assert_eq!((encoded.left_out, encoded.truncated), (1, 1));
    let [first, second] = encoded.rows.as_slice() else { panic!("{encoded:?}") };
    assert_eq!((first.desirable, second.desirable), (true, false));
    assert_eq!(bracketed(&tokenizer, &first.cut(4)), "ab⟦cd⟧");
    assert_eq!(bracketed(&tokenizer, &first.answered_by(second, 9)), "ab⟦y</s>⟧");
    assert_eq!(bracketed(&tokenizer, &second.answered_by(first, 4)), "x⟦cde⟧");
    assert!(encoder.encode(&rows[0]).unwrap_err().to_string().contains("method kto"));
    assert!(encoder.encode_answers(&chat(&[(User, "a"), (Assistant, "b")])).is_err());

    let pair = Content::Preference {
        prompt: vec![Message::new(User, "a")],
        chosen: vec![Message::new(Assistant, "b")],
        rejected: vec![Message::new(Assistant, "c")],
    };
    let answers = Encoder { max_length: 99, ..encoder }.encode_unpaired(&[example(pair)]).unwrap();
    assert_eq!(answers.numbers, [0, 0]);
    let start = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
    let texts: Vec<String> = answers.rows.iter().map(|row| bracketed(&tokenizer, &row.cut(999))).collect();
    assert!(texts[0].ends_with(&format!("{start}⟦b<|im_end|>\n⟧")), "{texts:?}");
    assert!(texts[1].ends_with(&format!("{start}⟦c<|im_end|>\n⟧")), "{texts:?}");
    assert_eq!((answers.rows[0].desirable, answers.rows[1].desirable), (true, false));
}

#[test]
fn what_is_shown_of_a_row_are_its_tokens_and_marks() {
    let (tokenizer, template) = (plain(), family("smollm2"));
    let encoder = Encoder { max_length: 40, ..encoder(&tokenizer, &template) };
    let mut silent = chat(&[(User, "é a"), (Assistant, "b\n"), (User, "c"), (Assistant, "d")]);
    let Content::Chat(messages) = &mut silent.content else { unreachable!() };
    messages[1].counts = false;
    let rows = [
        chat(&[(System, "s"), (User, "é a"), (Assistant, "b\n"), (User, "c"), (Assistant, "d")]),
        silent,
        example(Content::Completion { prompt: "ab".to_owned(), completion: "c".to_owned() }),
        example(Content::Text("é a text".to_owned())),
        example(unpaired("ab", "cd", false)),
    ];
    for row in rows {
        for loss in [Loss::Assistant, Loss::All] {
            let encoder = Encoder { loss, ..encoder };
            let shown = encoder.show(&row).unwrap();
            let [shown] = shown.as_slice() else { panic!("{shown:?}") };
            let content = match &row.content {
                Content::Unpaired { answer, .. } => answer.as_ref().clone(),
                other => other.clone(),
            };
            let kept = encoder.encode(&example(content.clone())).unwrap();
            let whole = Encoder { max_length: usize::MAX, ..encoder }.encode(&example(content)).unwrap();
            let ids: Vec<u32> = shown.tokens().map(|token| token.id).collect();
            assert_eq!(ids, whole.ids);
            let joined = matches!(row.content, Content::Text(_));
            let counts: Vec<bool> = shown.tokens().map(|token| token.counts).collect();
            let expected = if joined { &whole } else { &kept };
            assert_eq!(&counts[..expected.ids.len()], expected.counts);
            assert!(counts[expected.ids.len()..].iter().all(|counts| !counts));
            let cut = shown.tokens().filter(|token| token.cut).count();
            assert_eq!(cut, if joined { 0 } else { ids.len() - kept.ids.len() });
            let text: String = shown.tokens().map(|token| token.text.as_str()).collect();
            assert_eq!(text, tokenizer.decode(&ids, true).unwrap());
        }
    }
}

#[test]
fn the_turns_of_a_row_are_shown_apart() {
    let (tokenizer, template) = (plain(), family("smollm2"));
    let encoder = encoder(&tokenizer, &template);
    let mut talk = chat(&[(System, "s"), (User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d")]);
    let Content::Chat(messages) = &mut talk.content else { unreachable!() };
    messages[2].counts = false;
    let shown = encoder.show(&talk).unwrap();
    let turns: Vec<(&str, bool, String)> = shown[0]
        .turns
        .iter()
        .map(|turn| (turn.role, turn.silent, turn.tokens.iter().map(|token| token.text.as_str()).collect()))
        .collect();
    let text = |role: &str, words: &str| format!("<|im_start|>{role}\n{words}<|im_end|>\n");
    assert_eq!(
        turns,
        [
            ("system", false, text("system", "s")),
            ("user", false, text("user", "a")),
            ("assistant", true, text("assistant", "b")),
            ("user", false, text("user", "c")),
            ("assistant", false, text("assistant", "d")),
        ]
    );
    let pair = Content::Preference {
        prompt: vec![Message::new(User, "a")],
        chosen: vec![Message::new(Assistant, "b")],
        rejected: vec![Message::new(Assistant, "c")],
    };
    let both = encoder.show(&example(pair)).unwrap();
    assert_eq!(both.iter().map(|shown| shown.answer).collect::<Vec<_>>(), [Some("chosen"), Some("rejected")]);
}

#[test]
fn rows_can_be_encoded_on_several_threads_at_once() {
    let (tokenizer, template) = (plain(), family("qwen3"));
    let encoder = encoder(&tokenizer, &template);
    let talk = chat(&[(User, "a"), (Assistant, "b")]);
    let expected = encoder.encode(&talk).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(encoder.encode(&talk).unwrap(), expected)));
        }
    });
}

#[test]
fn tokens_are_told_by_bytes_and_come_back_as_text() {
    let tokenizer = plain();
    let tokens = tokenizer.encode_plain("é<eos>a").unwrap();
    assert_eq!(tokens.offsets, [0..2, 2..7, 7..8]);
    assert_eq!(tokenizer.decode(&tokens.ids, true).unwrap(), "é<eos>a");
    assert_eq!(tokenizer.decode(&tokens.ids, false).unwrap(), "éa");
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.token_id("<eos>")),
        (Some(0), Some(1), Some(8))
    );
    assert_eq!(tokenizer.special_tokens()["eos_token"], "</s>");
    assert!(tokenizer.leading_ids().is_empty());
    let bert = Tokenizer::load(&root().join("trainer/tests/fixtures/bert")).unwrap();
    let cls = bert.token_id("[CLS]").unwrap();
    assert_eq!(bert.leading_ids(), [cls]);
}

#[derive(Deserialize)]
struct Masked {
    tokenizer: String,
    family: String,
    conversation: String,
    ids: Vec<u32>,
    mask: Vec<u8>,
}

/// Byte-level pieces and pieces of a unigram model, with templates that mark what the assistant says: transformers'
/// `return_assistant_tokens_mask`.
#[test]
fn masks_are_those_of_transformers() {
    let text = fs::read(root().join("formats/tests/fixtures/chat_templates.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let masks: Vec<Masked> = serde_json::from_value(expected["masks"].clone()).unwrap();
    assert!(masks.len() > 20);
    for case in masks {
        let folder = tempfile::tempdir().unwrap();
        let source = root().join("trainer/tests/fixtures").join(&case.tokenizer).join("tokenizer.json");
        fs::copy(source, folder.path().join("tokenizer.json")).unwrap();
        fs::write(
            folder.path().join("tokenizer_config.json"),
            r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#,
        )
        .unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let template = family(&case.family).at(expected["now"].as_str().unwrap().parse().unwrap());
        let turns = expected["conversations"][&case.conversation]["messages"].as_array().unwrap();
        let turn = |turn: &Value| {
            let role = serde_json::from_value(turn["role"].clone()).unwrap();
            Message::new(role, turn["content"].as_str().unwrap())
        };
        let talk = example(Content::Chat(turns.iter().map(turn).collect()));
        let row = encoder(&tokenizer, &template).encode(&talk).unwrap();
        let mask: Vec<u8> = row.counts.iter().map(|counts| u8::from(*counts)).collect();
        assert_eq!(
            (row.ids, mask),
            (case.ids, case.mask),
            "{}, {}, {}",
            case.tokenizer,
            case.family,
            case.conversation
        );
    }
}

/// The text of what counts.
fn counted(tokenizer: &Tokenizer, row: &Encoded) -> String {
    let ids = row.ids.iter().zip(&row.counts).filter(|(_, counts)| **counts).map(|(id, _)| *id);
    ids.map(|id| tokenizer.token(id).unwrap()).collect()
}

/// Conversations of random lengths and words through every template: either the mask holds all that the assistant says and nothing
/// that others say, or there is none.
#[test]
fn in_every_family_all_of_the_assistants_words_count_and_no_others() {
    let text = fs::read(root().join("formats/tests/fixtures/chat_templates.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let names = expected["families"]
        .as_array()
        .unwrap()
        .iter()
        .map(|family| family["name"].as_str().unwrap().to_owned());
    let mut templates: Vec<(String, ChatTemplate)> =
        names.map(|name| (name.clone(), family(&name))).collect();
    for named in formats::chat_template::named_templates() {
        let tokens: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>")]
            .map(|(name, token)| (name.to_owned(), token.to_owned()))
            .into();
        templates.push((format!("named {}", named.name), ChatTemplate::named(named.name, tokens).unwrap()));
    }
    let tokenizer = plain();
    let mut random = Random(5);
    for (name, template) in &templates {
        let mut masks = 0;
        for _ in 0..60 {
            let mut messages = Vec::new();
            let (mut said, mut unsaid) = (Vec::new(), Vec::new());
            for turn in 0..1 + random.below(4) {
                messages.push(Message::new(User, words(&mut random, turn, 'U')));
                let mut answer = Message::new(Assistant, words(&mut random, turn, 'A'));
                answer.counts = turn == 0 || random.below(4) > 0;
                if random.below(3) == 0 {
                    let content = answer.content.take().unwrap();
                    answer.content = Some(format!("<think>\nT{turn}\n</think>\n\n{content}"));
                }
                let answer_text =
                    answer.content.as_deref().unwrap().rsplit("</think>").next().unwrap().trim().to_owned();
                if answer.counts { &mut said } else { &mut unsaid }.push(answer_text);
                unsaid.push(messages[messages.len() - 1].content.as_deref().unwrap().trim().to_owned());
                messages.push(answer);
            }
            if random.below(4) == 0 {
                messages.push(Message::new(User, "Ulast"));
                unsaid.push("Ulast".to_owned());
            }
            let talk = example(Content::Chat(messages));
            let row = encoder(&tokenizer, template)
                .encode(&talk)
                .unwrap_or_else(|problem| panic!("{name}: {problem}\n{talk:?}"));
            let counted = counted(&tokenizer, &row);
            let mut rest = counted.as_str();
            for text in &said {
                let place = rest
                    .find(text.as_str())
                    .unwrap_or_else(|| panic!("{name}: {text:?} is not in {counted:?}"));
                rest = &rest[place + text.len()..];
            }
            for text in &unsaid {
                assert!(!counted.contains(text.as_str()), "{name}: {text:?} is in {counted:?}");
            }
            for mark in ["user", "<|system|>", "[INST]", "Instruction", "<|user|>"] {
                assert!(!counted.contains(mark), "{name}: {mark} is in {counted:?}");
            }
            masks += 1;
        }
        assert_eq!(masks, 60, "{name}");
    }
}

/// Words that tell the turn, with blanks and repeats around them.
fn words(random: &mut Random, turn: usize, who: char) -> String {
    let around = ["", " ", "\n", "x", "<", "b b", "assistant", "\n\n", ">"];
    let (before, after) = (around[random.below(around.len())], around[random.below(around.len())]);
    format!("{before}{who}{turn}{who}{after}")
}
