//! Conversations, prompts and texts as rows of a file.

use formats::chat::{Content, Example, Layout, Message, Role, Survey, read_chat, read_chats, survey};
use formats::{ProblemKind, Problems};
use serde_json::{Value, json};

use crate::common::{Random, file};

fn read_as(name: &str, content: &str, layout: Option<Layout>) -> Result<Vec<Example>, Problems> {
    let (_folder, path) = file(name, content);
    read_chats(&path, name, layout)
}

fn read(content: &str) -> Result<Vec<Example>, Problems> {
    read_as("data.jsonl", content, None)
}

fn one(row: &Value) -> Example {
    read(&row.to_string()).unwrap().remove(0)
}

fn surveyed(content: &str) -> Survey {
    let (_folder, path) = file("data.jsonl", content);
    survey(&path, "data.jsonl", None)
}

/// Field and message of each problem of one row.
fn wrong(row: &Value) -> Vec<(String, String)> {
    let problems = read(&row.to_string()).unwrap_err();
    let pair =
        |problem: formats::Problem| (problem.column.map(String::from).unwrap_or_default(), problem.message);
    problems.listed.into_iter().map(pair).collect()
}

fn chat(example: &Example) -> Vec<(Role, &str, bool)> {
    let Content::Chat(messages) = &example.content else { panic!("{example:?}") };
    turns(messages)
}

fn turns(messages: &[Message]) -> Vec<(Role, &str, bool)> {
    messages
        .iter()
        .map(|message| (message.role, message.content.as_deref().unwrap_or("-"), message.counts))
        .collect()
}

#[test]
fn each_layout_is_told_by_its_keys() {
    let rows = [
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            Layout::Messages,
        ),
        (
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
            Layout::ShareGpt,
        ),
        (json!({"instruction": "a", "input": "", "output": "b"}), Layout::Alpaca),
        (json!({"prompt": "a", "completion": "b"}), Layout::PromptCompletion),
        (json!({"text": "a"}), Layout::Text),
        (json!({"prompt": "a", "completion": "b", "label": true}), Layout::Unpaired),
        // A class is no verdict.
        (json!({"prompt": "a", "completion": "b", "label": "sport"}), Layout::PromptCompletion),
        (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), Layout::Preference),
        (
            json!({"input": {"messages": [{"role": "user", "content": "a"}]}, "preferred_output": [{"role": "assistant", "content": "b"}],
            "non_preferred_output": [{"role": "assistant", "content": "c"}]}),
            Layout::Preference,
        ),
    ];
    for (row, layout) in rows {
        let survey = surveyed(&row.to_string());
        assert_eq!(
            (survey.layout, survey.rows, survey.problems.total),
            (Some(layout), 1, 0),
            "{row}: {:?}",
            survey.problems
        );
        assert!(survey.is_usable());
        assert_eq!(read_as("data.jsonl", &row.to_string(), Some(layout)).unwrap().len(), 1);
    }
}

#[test]
fn all_roles_text_parts_and_weights_are_read() {
    let example = one(&json!({"messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "name": "eva", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "content": "c", "weight": 0},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "d", "weight": 1.0}],
        "tools": [{"type": "function", "function": {"name": "f"}}], "parallel_tool_calls": false}));
    use Role::{Assistant, Developer, Tool, User};
    assert_eq!(
        chat(&example),
        [
            (Developer, "s", false),
            (User, "ab", false),
            (Assistant, "-", true),
            (Tool, "2", false),
            (Assistant, "c", false),
            (User, "", false),
            (Assistant, "d", true)
        ]
    );
    let Content::Chat(messages) = &example.content else { unreachable!() };
    assert_eq!(messages[1].rest["name"], "eva");
    assert_eq!(
        messages[2].rest["tool_calls"][0]["function"]["arguments"],
        json!({"x": 1}),
        "not a text that holds JSON"
    );
    assert!(!messages[4].rest.contains_key("weight"));
    assert_eq!(example.tools, Some(json!([{"type": "function", "function": {"name": "f"}}])));
}

#[test]
fn share_gpt_and_alpaca_become_conversations() {
    let share = one(
        &json!({"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
        {"from": "user", "value": "c"}, {"from": "assistant", "value": "d", "weight": 0}, {"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]}),
    );
    use Role::{Assistant, System, User};
    assert_eq!(
        chat(&share),
        [
            (System, "s", false),
            (User, "a", false),
            (Assistant, "b", true),
            (User, "c", false),
            (Assistant, "d", false),
            (User, "e", false),
            (Assistant, "f", true)
        ]
    );
    assert_eq!(
        chat(&one(&json!({"instruction": "a", "output": "b"}))),
        [(User, "a", false), (Assistant, "b", true)]
    );
    assert_eq!(
        chat(&one(&json!({"instruction": "a", "input": "i", "output": "b"}))),
        [(User, "a\n\ni", false), (Assistant, "b", true)]
    );
}

#[test]
fn prompts_are_texts_or_messages() {
    let text = one(&json!({"prompt": "", "completion": " b"}));
    assert_eq!(text.content, Content::Completion { prompt: String::new(), completion: " b".to_owned() });
    let messages = one(
        &json!({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "d"}]}),
    );
    use Role::{Assistant, User};
    assert_eq!(
        chat(&messages),
        [(User, "a", false), (Assistant, "b", false), (User, "c", false), (Assistant, "d", true)],
        "the prompt's answers are not learnt"
    );
    let wrong = wrong(&json!({"prompt": "a", "completion": [{"role": "assistant", "content": "d"}]}));
    assert_eq!(wrong[0].0, "completion");
}

#[test]
fn preferences_are_a_prompt_and_two_answers() {
    use Role::{Assistant, User};
    let parts = |row: Value| {
        let Content::Preference { prompt, chosen, rejected } = one(&row).content else { panic!() };
        [prompt, chosen, rejected].map(|messages| {
            turns(&messages)
                .into_iter()
                .map(|(role, text, counts)| (role, text.to_owned(), counts))
                .collect::<Vec<_>>()
        })
    };
    let (user, answer) = (
        |text: &str| json!({"role": "user", "content": text}),
        |text: &str| json!({"role": "assistant", "content": text}),
    );
    let expected = [
        vec![(User, "a".to_owned(), false)],
        vec![(Assistant, "b".to_owned(), true)],
        vec![(Assistant, "c".to_owned(), true)],
    ];
    let rows = [
        json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
        json!({"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]}),
        json!({"prompt": "a", "chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]}),
        json!({"chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]}),
        json!({"input": {"messages": [user("a")]}, "preferred_output": [answer("b")], "non_preferred_output": [answer("c")]}),
    ];
    for row in rows {
        assert_eq!(parts(row.clone()), expected, "{row}");
    }
    assert_eq!(wrong(&json!({"chosen": "b", "rejected": "c"}))[0].0, "prompt");
    assert_eq!(wrong(&json!({"prompt": "a", "chosen": [user("x")], "rejected": "c"}))[0].0, "chosen");
    let same = surveyed(&json!({"prompt": "a", "chosen": "b", "rejected": "b"}).to_string());
    assert!(same.notices[0].contains("both answers are the same"), "{:?}", same.notices);
}

#[test]
fn labelled_answers_are_read_as_texts_and_as_messages_and_counted() {
    let chat = json!({"prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}], "label": false});
    let Content::Unpaired { answer, desirable } = one(&chat).content else { panic!() };
    let Content::Chat(messages) = *answer else { panic!() };
    assert!(!desirable);
    assert_eq!(turns(&messages), [(Role::User, "a", false), (Role::Assistant, "b", true)]);
    let csv = "prompt,completion,label\na,b,True\nc,d,false\ne,f,TRUE\n";
    let (_folder, path) = file("answers.csv", csv);
    let survey = survey(&path, "answers.csv", None);
    assert_eq!((survey.layout, survey.rows), (Some(Layout::Unpaired), 3));
    assert_eq!((survey.desirable, survey.undesirable), (2, 1));
    let shown: Vec<_> =
        survey.preview[1].turns.iter().map(|turn| (turn.role.as_str(), turn.counts)).collect();
    assert_eq!(shown, [("prompt", false), ("undesirable", false)]);

    let wrong = "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n\
        {\"prompt\": \"a\", \"completion\": \"b\", \"label\": 1}\n{\"prompt\": \"a\", \"label\": true}\n";
    let problems = read(wrong).unwrap_err();
    let found: Vec<(u64, String, String)> = problems
        .listed
        .iter()
        .map(|wrong| {
            (
                wrong.line.unwrap().first,
                wrong.column.clone().unwrap_or_default().into(),
                wrong.message.clone(),
            )
        })
        .collect();
    let expected = [
        (2, "label", "the label is missing"),
        (3, "label", "expected true or false, found 1"),
        (4, "completion", "the text is missing"),
    ];
    assert_eq!(found, expected.map(|(line, field, message)| (line, field.to_owned(), message.to_owned())));
}

#[test]
fn one_row_of_a_file_is_read_alone() {
    let (_folder, path) = file("data.jsonl", "{\"text\": \"a\"}\n{\"text\": 5}\n{\"text\": \"c\"}\n");
    let at = |row| read_chat(&path, "data.jsonl", Layout::Text, row);
    let third = at(2).unwrap().unwrap();
    assert_eq!((third.row, third.lines.first, &third.content), (2, 3, &Content::Text("c".to_owned())));
    assert!(at(1).unwrap_err().to_string().contains("line 2, `text`"));
    assert_eq!(at(3), Ok(None));
}

#[test]
fn lists_in_a_csv_are_json() {
    let csv = "messages,id\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"b\"\"}]\",1\n\"[{\",2\na: b,3\n";
    let problems = read_as("data.csv", csv, None).unwrap_err();
    let kinds: Vec<_> =
        problems.listed.iter().map(|problem| (problem.line.unwrap().first, problem.kind)).collect();
    assert_eq!(kinds, [(3, ProblemKind::InvalidJson), (4, ProblemKind::InvalidValue)]);
    let csv = "instruction,input,output\n\"a, b\",,c\n";
    assert_eq!(chat(&read_as("data.csv", csv, None).unwrap()[0])[0].1, "a, b");
    let problems = read_as("data.csv", "prompt,completion\na,\n", None).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "data.csv, line 2, `completion`: the text is missing; fill it in or remove the row"
    );
    let list = r#"[{"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": 5}]"#;
    let problems = read_as("data.json", list, None).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "data.json, line 2, `completion`: expected a text, found a number; write one text"
    );
}

#[test]
fn each_wrong_key_is_named_by_its_place() {
    let user = json!({"role": "user", "content": "a"});
    let with = |assistant: Value| json!({"messages": [user.clone(), assistant]});
    let cases = [
        (with(json!("b")), "messages[1]", "expected a message, found a text"),
        (with(json!({"role": 5, "content": "b"})), "messages[1].role", "expected a role, found a number"),
        (
            with(json!({"role": "Assistant", "content": "b"})),
            "messages[1].role",
            "there is no role `Assistant`",
        ),
        (with(json!({"role": "assistant"})), "messages[1].content", "the text is missing"),
        (
            with(json!({"role": "assistant", "content": [{"type": "image_url", "image_url": {}}]})),
            "messages[1].content[0]",
            "expected a part of type `text`, found `image_url`",
        ),
        (
            with(json!({"role": "assistant", "content": [5]})),
            "messages[1].content[0]",
            "expected a part of type `text`, found `text`",
        ),
        (
            with(json!({"role": "assistant", "content": "b", "weight": 0.5})),
            "messages[1].weight",
            "expected the weight 0 or 1",
        ),
        (
            with(json!({"role": "assistant", "content": "b", "weight": true})),
            "messages[1].weight",
            "expected the weight 0 or 1",
        ),
        (
            with(json!({"role": "assistant", "content": "b\u{0}"})),
            "messages[1].content",
            "the text holds the character U+0000, which no tokenizer or database keeps",
        ),
        (
            with(json!({"role": "assistant", "content": null, "tool_calls": []})),
            "messages[1].content",
            "the text is null",
        ),
        (
            with(json!({"role": "assistant", "content": null, "tool_calls": {}})),
            "messages[1].tool_calls",
            "expected a list of calls, found an object",
        ),
        (
            with(json!({"role": "assistant", "content": null, "tool_calls": [{"function": 5}]})),
            "messages[1].tool_calls[0]",
            "the call has no name of a function",
        ),
        (
            with(json!({"role": "assistant", "content": null, "tool_calls": [5]})),
            "messages[1].tool_calls[0]",
            "the call has no name of a function",
        ),
        (
            with(json!({"role": "assistant", "content": "b", "weight": 0})),
            "messages",
            "no assistant turn counts: each has the weight 0",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]}),
            "messages[0].weight",
            "only the assistant's turns have a weight",
        ),
        (json!({"messages": {"role": "user"}}), "messages", "expected a list of messages, found an object"),
        (
            json!({"conversations": [{"from": "bot", "value": "a"}]}),
            "conversations[0].from",
            "there is no role `bot`",
        ),
        (json!({"conversations": [{"from": "human"}]}), "conversations[0].value", "the text is missing"),
        (
            json!({"messages": [user.clone(), {"role": "assistant", "content": "b"}], "tools": {}}),
            "tools",
            "expected a list of tools",
        ),
        (
            json!({"messages": [user.clone(), {"role": "assistant", "content": "b"}], "tools": [5]}),
            "tools",
            "expected a list of tools",
        ),
        (
            json!({"input": {}, "preferred_output": "a", "non_preferred_output": "b"}),
            "input.messages",
            "there is no list of messages",
        ),
        (json!({"instruction": "a", "output": " "}), "output", "the text is missing"),
        (json!({"prompt": "a", "completion": "", "label": true}), "completion", "the text is missing"),
        (
            json!({"prompt": [user.clone()], "completion": [user.clone()], "label": false}),
            "completion",
            "there is no assistant turn to learn from",
        ),
        (json!({"text": ["a"]}), "text", "expected a text, found a list"),
    ];
    for (row, field, message) in cases {
        assert_eq!(wrong(&row), [(field.to_owned(), message.to_owned())], "{row}");
    }
}

#[test]
fn a_file_without_a_known_layout_names_the_keys_it_has() {
    let problems = read("{\"question\": \"a\", \"answer\": \"b\"}\n").unwrap_err();
    assert_eq!(problems.listed[0].kind, ProblemKind::UnknownLayout);
    assert!(problems.to_string().contains("they have `question`, `answer`"), "{problems}");
    let mixed = read("{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\"}\n")
        .unwrap_err();
    assert_eq!(mixed.total, 2);
    assert_eq!(
        mixed.to_string(),
        "data.jsonl, line 2, `text`: there is no `text`; the row has `prompt`, `completion`, another layout than the file's; \
         write all rows in one layout (and 1 more)"
    );
    let stated = read_as("data.jsonl", "{\"text\": \"a\"}\n", Some(Layout::Messages)).unwrap_err();
    assert!(stated.to_string().contains("there is no `messages`; the row has `text`"), "{stated}");
    assert_eq!(read("").unwrap_err().listed[0].kind, ProblemKind::EmptyFile);
    assert_eq!(read("[]").unwrap_err().listed[0].kind, ProblemKind::NoRows);
    assert_eq!(read("not json\n").unwrap_err().listed[0].kind, ProblemKind::InvalidJson);
}

#[test]
fn a_survey_counts_and_bounds_what_it_lists() {
    let good = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ä"}, {"role": "assistant", "content": "bc"}], "tools": [{}], "id": 1}"#;
    let bad = r#"{"messages": [{"role": "x", "content": 5}]}"#;
    let survey = surveyed(&format!("{good}\n{}{good}\n", format!("{bad}\n").repeat(200)));
    assert_eq!((survey.rows, survey.unusable, survey.turns, survey.counted_turns), (2, 200, 6, 2));
    assert_eq!((survey.with_system, survey.with_tools, survey.characters), (2, 2, 8));
    assert_eq!((survey.problems.total, survey.problems.listed.len()), (400, 100));
    assert_eq!(survey.notices, ["keys that are not used: id"]);
    assert!(!survey.is_usable());
}

#[test]
fn no_row_makes_the_reader_panic() {
    let mut random = Random(23);
    let keys = [
        "messages",
        "conversations",
        "prompt",
        "completion",
        "chosen",
        "rejected",
        "input",
        "preferred_output",
        "non_preferred_output",
        "text",
        "instruction",
        "output",
        "tools",
        "system",
        "role",
        "content",
        "from",
        "value",
        "weight",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "type",
    ];
    let words = [
        "user",
        "assistant",
        "system",
        "tool",
        "human",
        "gpt",
        "",
        "{",
        "[1",
        "[]",
        "{\"a\": 1}",
        "text",
        "\u{0}",
        "é",
    ];
    for _ in 0..300 {
        let rows: Vec<String> = (0..20).map(|_| odd(&mut random, &keys, &words, 0).to_string()).collect();
        let content = rows.join("\n");
        let (_folder, path) = file("data.jsonl", &content);
        let survey = survey(&path, "data.jsonl", None);
        assert_eq!(read_chats(&path, "data.jsonl", None).is_ok(), survey.is_usable());
        for layout in [
            Layout::Messages,
            Layout::ShareGpt,
            Layout::Alpaca,
            Layout::PromptCompletion,
            Layout::Text,
            Layout::Preference,
            Layout::Unpaired,
        ] {
            let _ = read_chats(&path, "data.jsonl", Some(layout));
        }
    }
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(&deep).is_err());
}

/// A JSON value put together at random, an object on the outside.
fn odd(random: &mut Random, keys: &[&str], words: &[&str], depth: usize) -> Value {
    let kind = if depth == 0 { 0 } else { random.below(if depth > 4 { 6 } else { 9 }) + 1 };
    match kind {
        0 | 7 | 9 => {
            let count = 1 + random.below(4);
            Value::Object(
                (0..count)
                    .map(|_| (keys[random.below(keys.len())].to_owned(), odd(random, keys, words, depth + 1)))
                    .collect(),
            )
        }
        8 => Value::Array((0..random.below(4)).map(|_| odd(random, keys, words, depth + 1)).collect()),
        1 => Value::Null,
        2 => Value::Bool(true),
        3 => json!(random.below(3)),
        _ => json!(words[random.below(words.len())]),
    }
}
