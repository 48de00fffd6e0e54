//! The trouble cases of conversations and masks, each with the answer that is stated as right. What needs a model is tested with
//! the trainer; here it is the tokens, and how many of them are targets.

use std::path::{Path, PathBuf};

use formats::ProblemKind;
use formats::chat::{
    Content, Encoded, EncodedRows, Encoder, Example, Loss, Message, Role, read_chats, survey,
};
use formats::chat_template::ChatTemplate;
use formats::tokenizer::Tokenizer;

use crate::common::case;

/// A checkpoint's tokenizer and template.
struct Model {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Model {
    fn load(folder: &Path) -> Self {
        let tokenizer = Tokenizer::load(folder).unwrap();
        let template = ChatTemplate::load(folder, tokenizer.special_tokens().clone()).unwrap();
        Self { tokenizer, template }
    }

    fn encoder(&self, max_length: usize) -> Encoder<'_> {
        Encoder {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            max_length,
            loss: Loss::Assistant,
            file: "data.jsonl",
        }
    }

    fn encode(&self, data: &Path, max_length: usize) -> EncodedRows {
        self.encoder(max_length).encode_rows(&read(data)).unwrap()
    }
}

fn model(name: &str) -> Option<Model> {
    case(name).map(|folder| Model::load(&folder))
}

fn read(path: &Path) -> Vec<Example> {
    read_chats(path, path.file_name().unwrap().to_str().unwrap(), None).unwrap()
}

fn targets(rows: &EncodedRows) -> Vec<usize> {
    rows.rows.iter().map(Encoded::targets).collect()
}

/// Labels as transformers has them: -100 where a token is no target.
fn labels(row: &Encoded) -> Vec<i64> {
    row.ids.iter().zip(&row.counts).map(|(id, counts)| if *counts { i64::from(*id) } else { -100 }).collect()
}

#[test]
fn case_17_each_chat_row_gets_its_verdict_with_line_and_field() {
    let Some(folder) = case("17_chat_rows") else { return };
    let path = folder.join("chats.jsonl");
    let survey = survey(&path, "chats.jsonl", None);
    let found: Vec<(u64, &str, ProblemKind)> = survey
        .problems
        .listed
        .iter()
        .map(|problem| (problem.line.unwrap().first, problem.column.as_deref().unwrap(), problem.kind))
        .collect();
    use ProblemKind::{Conversation, InvalidValue, MissingText, UnknownLayout};
    assert_eq!(
        found,
        [
            (2, "messages", Conversation),
            (3, "messages", Conversation),
            (4, "messages", Conversation),
            (6, "messages[1].role", InvalidValue),
            (7, "messages[1].content", MissingText),
            (8, "messages[1].content", InvalidValue),
            (9, "messages[0].role", InvalidValue),
            (10, "messages", InvalidValue),
            (12, "messages", UnknownLayout),
        ]
    );
    let said = |line: u64| {
        let problem =
            survey.problems.listed.iter().find(|problem| problem.line.unwrap().first == line).unwrap();
        problem.message.clone()
    };
    assert_eq!(said(2), "there are no messages");
    assert_eq!(said(3), "there is no assistant turn to learn from");
    assert_eq!(said(6), "there is no role `bot`");
    assert_eq!(said(7), "the text is null");
    assert_eq!(said(8), "expected a text, found a number");
    assert_eq!(said(9), "who speaks is missing");
    assert_eq!(said(10), "expected a list of messages, found a text");
    assert!(said(12).starts_with("there is no `messages`; the row has `conversations`"));
    assert_eq!((survey.rows, survey.unusable), (3, 9));
    assert_eq!(survey.notices.len(), 1);
    assert!(
        survey.notices[0]
            .starts_with("1 row (line 5): the conversation ends with a turn that is not the assistant's")
    );
    assert_eq!(read_chats(&path, "chats.jsonl", None).unwrap_err(), survey.problems, "a job is refused");
}

#[test]
fn case_17_of_line_11_the_second_answer_alone_is_a_target() {
    let (Some(folder), Some(model)) = (case("17_chat_rows"), model("_models/llama_tied")) else { return };
    let lines = std::fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    let (_dir, path) = crate::common::file("line.jsonl", lines.lines().nth(10).unwrap());
    let rows = model.encode(&path, 64);
    assert_eq!(
        labels(&rows.rows[0]),
        [-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 7, 12]
    );
    assert_eq!(rows.rows[0].ids, [11, 8, 4, 12, 11, 9, 5, 12, 11, 8, 6, 12, 11, 9, 7, 12]);
}

#[test]
fn case_17_share_gpt_rows_are_conversations() {
    let Some(folder) = case("17_chat_rows") else { return };
    let examples = read(&folder.join("sharegpt_only.jsonl"));
    assert_eq!(examples.len(), 2);
    assert_eq!(
        examples[1].content,
        Content::Chat(vec![Message::new(Role::User, "c"), Message::new(Role::Assistant, "d")])
    );
}

#[test]
fn case_26_a_text_is_ten_targets_and_three_end_marks() {
    let (Some(folder), Some(model)) = (case("26_tied_head"), model("_models/llama_tied")) else { return };
    let rows = model.encode(&folder.join("texts.jsonl"), 64);
    assert_eq!(targets(&rows), [4, 5, 4]);
    assert_eq!(rows.rows[0].ids, [4, 4, 4, 5, 2]);
}

#[test]
fn case_32_a_tokenizer_without_a_pad_token_still_has_an_end_mark() {
    let Some(model) = model("32_no_pad_token/no_pad") else { return };
    assert_eq!(
        (model.tokenizer.pad_id(), model.tokenizer.eos_id(), model.tokenizer.bos_id()),
        (None, Some(2), Some(1))
    );
}

#[test]
fn case_34_a_gpt2_checkpoint_has_the_same_mask() {
    let Some(folder) = case("34_lora_targets") else { return };
    let rows = Model::load(&folder.join("gpt2_tiny")).encode(&folder.join("chats.jsonl"), 64);
    assert_eq!(targets(&rows), [4, 3]);
}

#[test]
fn case_37_no_end_mark_stands_between_prompt_and_completion() {
    let Some(folder) = case("37_prompt_boundary") else { return };
    let rows = Model::load(&folder.join("adds_bos_eos")).encode(&folder.join("pairs.jsonl"), 64);
    assert_eq!(rows.rows[0].ids, [1, 5, 5, 5, 5, 4, 4, 2]);
    assert_eq!(labels(&rows.rows[0]), [-100, -100, -100, -100, -100, 4, 4, 2]);
    assert_eq!(targets(&rows), [3]);
}

#[test]
fn case_38_a_prompt_that_fills_the_window_is_left_out_and_counted() {
    let (Some(folder), Some(model)) = (case("38_prompt_fills_window"), model("_models/llama_tied")) else {
        return;
    };
    let rows = model.encode(&folder.join("one_long.jsonl"), 8);
    assert_eq!((rows.rows.len(), rows.left_out, targets(&rows)), (1, 1, vec![3]));
    assert_eq!(rows.numbers, [1]);
    assert_eq!(
        rows.notices(8),
        ["1 of 2 rows have nothing to learn within 8 tokens and are left out (line 1)"]
    );
    let problem = model.encoder(8).encode_rows(&read(&folder.join("all_long.jsonl"))).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "data.jsonl: no row has anything to learn within 8 tokens; choose a greater max_length, or shorten the prompts"
    );
}

#[test]
fn case_40_there_is_one_beginning_mark() {
    let Some(folder) = case("40_double_bos") else { return };
    let model = Model::load(&folder.join("bos_twice"));
    let chat = model.encode(&folder.join("chat.jsonl"), 64);
    assert_eq!(chat.rows[0].ids, [1, 11, 8, 4, 12, 11, 9, 5, 12]);
    assert_eq!(targets(&chat), [2]);
    let plain = model.encode(&folder.join("plain.jsonl"), 64);
    assert_eq!(plain.rows[0].ids, [1, 4, 5, 2]);
    let prompt = model.encoder(64).prompt(&[Message::new(Role::User, "a")], None).unwrap();
    assert_eq!(prompt, [1, 11, 8, 4, 12, 11, 9]);
}

#[test]
fn case_43_two_texts_have_five_targets() {
    let (Some(folder), Some(model)) = (case("43_packing"), model("_models/llama_attn")) else { return };
    let rows = model.encode(&folder.join("docs.jsonl"), 16);
    assert_eq!(targets(&rows), [2, 3]);
    assert_eq!(rows.rows[0].ids, [4, 4, 2]);
}

#[test]
fn case_44_each_answer_and_its_end_are_targets() {
    let (Some(folder), Some(model)) = (case("44_gradient_accumulation"), model("_models/llama_tied")) else {
        return;
    };
    let rows = model.encode(&folder.join("two_rows.jsonl"), 64);
    assert_eq!(targets(&rows), [4, 7], "11 in all");
    assert_eq!(rows.rows[0].ids, [11, 8, 5, 12, 11, 9, 4, 4, 4, 12]);
    assert_eq!(labels(&rows.rows[0])[5..], [-100, 4, 4, 4, 12]);
    assert_eq!(targets(&model.encode(&folder.join("seven_rows.jsonl"), 64)), [2, 3, 2, 4, 2, 3, 2]);
    assert_eq!(targets(&model.encode(&folder.join("three_rows.jsonl"), 64)), [2, 3, 2]);
}

#[test]
fn case_46_steps_of_one_row_have_their_targets() {
    let Some(folder) = case("46_nan_loss") else { return };
    let rows = Model::load(&folder.join("nan_row")).encode(&folder.join("rows.jsonl"), 64);
    assert_eq!(targets(&rows), [4, 2, 3, 2]);
}

#[test]
fn case_47_an_evaluation_has_nineteen_targets() {
    let Some(folder) = case("47_eval_batch_size") else { return };
    for name in ["_models/llama_tied", "_models/llama_attn"] {
        let Some(model) = model(name) else { return };
        let rows = model.encode(&folder.join("eval.jsonl"), 64);
        assert_eq!(targets(&rows), [2, 7, 5, 2, 3]);
        assert_eq!(targets(&rows).iter().sum::<usize>(), 19);
    }
}

#[test]
fn case_49_the_rows_for_an_adapter_have_eleven_targets() {
    let (Some(folder), Some(model)) = (case("49_lora_merge"), model("_models/llama_tied")) else { return };
    assert_eq!(targets(&model.encode(&folder.join("chats.jsonl"), 64)), [4, 7]);
}

#[test]
fn cases_56_58_59_and_61_are_read_and_masked() {
    let Some(model) = model("_models/llama_tied") else { return };
    let check = |data: PathBuf, model: &Model, each: usize| {
        let examples = read(&data);
        let rows = model.encode(&data, 64);
        assert_eq!((rows.rows.len(), rows.left_out, rows.truncated), (examples.len(), 0, 0));
        assert!(targets(&rows).iter().all(|count| *count == each), "{data:?}: {:?}", targets(&rows));
    };
    for name in ["56_worker_killed", "58_database_restart", "59_browser_closed"] {
        let Some(folder) = case(name) else { return };
        check(folder.join("slow.jsonl"), &model, 21);
    }
    let Some(folder) = case("61_failure_is_failure") else { return };
    check(folder.join("chats.jsonl"), &Model::load(&folder.join("good_model")), 3);
}
