//! Chat templates, compared with what transformers' `apply_chat_template` renders (`tests/fixtures/make_chat_templates.py`).

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use formats::ProblemKind;
use formats::chat::{Message, Role};
use formats::chat_template::{ChatTemplate, SpecialTokens, named_templates};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::common::root;

#[derive(Deserialize)]
struct Expected {
    now: String,
    conversations: BTreeMap<String, Conversation>,
    families: Vec<Family>,
    features: Vec<Feature>,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Map<String, Value>>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Family {
    name: String,
    tokens: SpecialTokens,
    template: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
    spans: Option<Vec<(usize, usize)>>,
}

#[derive(Deserialize)]
struct Feature {
    template: String,
    text: Option<String>,
}

fn expected() -> Expected {
    let path = root().join("formats/tests/fixtures/chat_templates.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn messages(written: &[Map<String, Value>]) -> Vec<Message> {
    written.iter().map(message).collect()
}

fn message(written: &Map<String, Value>) -> Message {
    let mut rest = written.clone();
    let role = serde_json::from_value(rest.remove("role").unwrap()).unwrap();
    let content = rest.remove("content").and_then(|content| content.as_str().map(str::to_owned));
    Message { role, content, counts: role == Role::Assistant, rest }
}

fn said(role: Role, text: &str) -> Message {
    Message::new(role, text)
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "chat_template.jinja", SpecialTokens::new()).unwrap()
}

#[test]
fn every_family_renders_as_transformers_does() {
    let expected = expected();
    let now = expected.now.parse().unwrap();
    assert!(expected.families.len() >= 15);
    let mut wrong = Vec::new();
    for family in &expected.families {
        let template =
            ChatTemplate::new(&family.template, &family.name, family.tokens.clone()).unwrap().at(now);
        for case in &family.cases {
            let conversation = &expected.conversations[&case.name];
            let made = template.render(
                &messages(&conversation.messages),
                conversation.tools.as_ref(),
                case.add_generation_prompt,
            );
            let title = format!("{}, {}, prompt {}", family.name, case.name, case.add_generation_prompt);
            match (&case.text, made) {
                (Some(text), Ok(made)) if *text == made.text => {
                    if let Some(spans) = &case.spans {
                        let chars = |at: usize| made.text[..at].chars().count();
                        let found: Vec<_> =
                            made.assistant.iter().map(|span| (chars(span.start), chars(span.end))).collect();
                        assert_eq!(&found, spans, "{title}");
                    }
                }
                (None, Err(problem)) => assert_refused(&problem.to_string(), case.error.as_deref(), &title),
                (text, made) => wrong.push(format!("{title}:\n{text:?}\n{made:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// What `raise_exception` says is said again; errors of Python itself have words of their own.
fn assert_refused(problem: &str, error: Option<&str>, title: &str) {
    let error = error.unwrap();
    if !error.contains("dict object") && !error.starts_with("TypeError") {
        assert!(problem.contains(error), "{title}: {problem}");
    }
}

#[test]
fn jinja_and_python_are_those_that_templates_are_written_for() {
    let expected = expected();
    let now = expected.now.parse().unwrap();
    let tools = expected.conversations["tools"].tools.clone();
    let messages = messages(&expected.conversations["tools"].messages);
    let tokens: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
        .map(|(name, token)| (name.to_owned(), token.to_owned()))
        .into();
    let mut wrong = Vec::new();
    for feature in &expected.features {
        let made = ChatTemplate::new(&feature.template, "t", tokens.clone())
            .and_then(|template| template.at(now).render(&messages, tools.as_ref(), false));
        match (&feature.text, made) {
            (Some(text), Ok(made)) if *text == made.text => {}
            (None, Err(_)) => {}
            (text, made) => {
                wrong.push(format!("{}\n{text:?}\n{:?}", feature.template, made.map(|made| made.text)))
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn a_problem_says_what_was_raised_at_which_message_and_where_in_the_template() {
    let source = "{% for m in messages %}\n{% if m.role == 'system' %}\n{{ raise_exception('No ' ~ m.role ~ '!') }}\n{% endif %}\n{% endfor %}";
    let messages = [said(Role::User, "a"), said(Role::System, "b")];
    let problem = template(source).render(&messages, None, false).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::ChatTemplate);
    assert_eq!(
        problem.to_string(),
        "chat_template.jinja, line 3: the chat template refuses the conversation at messages[1]: No system!; change the \
         conversation, or choose another template"
    );
}

#[test]
fn a_template_that_is_no_jinja_is_refused_with_its_line() {
    for (source, line) in [
        ("a\n{% if %}", 2),
        ("{{ a }}\n\n{% for m in messages %}", 3),
        ("{% generation %}{{ 'a' }", 1),
        ("{{ (( }}", 1),
    ] {
        let problem = ChatTemplate::new(source, "chat_template.jinja", SpecialTokens::new()).err().unwrap();
        assert_eq!(
            (problem.kind, problem.line.map(|line| line.first)),
            (ProblemKind::ChatTemplate, Some(line)),
            "{problem}"
        );
    }
}

/// Each of these would take hours, or all memory, where nothing bounds it.
#[test]
fn a_hostile_template_ends_soon_and_small() {
    let doubling = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x OP ns.x %}{% endfor %}";
    let nested =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let sources = [
        doubling.replace("OP", "~"),
        doubling.replace("OP", "+"),
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x * 1000 %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}".to_owned(),
        format!("{nested}{{{{ ns.x | tojson }}}}"),
        format!("{nested}{{{{ ns.x }}}}"),
        format!("{nested}{{{{ ns.x | string }}}}"),
        "{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "text ".repeat(10_000)),
        format!("{{% set x %}}{{% for i in range(100000) %}}{}{{% endfor %}}{{% endset %}}", "text ".repeat(10_000)),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] + [] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x}.items() %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] | map('list') %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x[:] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x | reverse %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(100_000)),
        format!("{{{{ x{} }}}}", ".x".repeat(100_000)),
        format!("{{{{ x{} }}}}", "|list".repeat(100_000)),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(40_000)),
        format!("{{% if x {} %}}{{% endif %}}", "if x else y ".repeat(40_000)),
        format!("{{{{ 1{} }}}}", " ** 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(490)),
        format!("{{{{ x{} }}}}", "|list".repeat(490)),
        format!("{{{{ 1{} }}}}", " ** 1".repeat(490)),
        format!("{{{{ x{} }}}}", " if x else y".repeat(240)),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(190)),
        format!("{}{}", "{% if x %}".repeat(40_000), "{% endif %}".repeat(40_000)),
        "{{ [1] * 1000000000000 }}".to_owned(),
        "{% set x = [1] * 1000000000000 %}{{ x | list | length }}".to_owned(),
        "{{ range(1000000000000) | list }}".to_owned(),
        "{{ 'a' | indent(1000000000000) }}{{ 'x' * 100000000 * 100000000 }}".to_owned(),
        "{{ 'a' | center(100000000000) }}".to_owned(),
        "{{ '%100000000000s' | format('a') }}".to_owned(),
        "{{ '{:100000000000}'.format('a') }}".to_owned(),
        "{{ '{:{}}'.format('a', 1000000000000) }}".to_owned(),
        "{{ '%*d' | format(1000000000000, 1) }}".to_owned(),
        "{{ (2 ** 100000000) }}".to_owned(),
        "{{ [1,2] | batch(100000000000, 'x') }}{{ [1] | slice(100000000000) }}".to_owned(),
    ];
    for source in sources {
        let started = Instant::now();
        let short: String = source.chars().take(120).collect();
        let outcome = ChatTemplate::new(&source, "t", SpecialTokens::new())
            .and_then(|template| template.render(&[said(Role::User, "a")], None, false));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{short}: {took:?}");
        match outcome {
            Ok(made) => assert!(made.text.len() < 100 << 20, "{short}: {} bytes", made.text.len()),
            Err(problem) => println!("{short}: {problem}"),
        }
    }
}

#[test]
fn a_template_sees_nothing_but_the_conversation() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% extends 'a' %}",
        "{% import 'a' as b %}",
        "{{ ''.__class__ }}x{{ debug() }}",
    ] {
        let outcome = ChatTemplate::new(source, "t", SpecialTokens::new())
            .and_then(|template| template.render(&[said(Role::User, "a")], None, false));
        assert!(outcome.is_err(), "{source}");
    }
}

#[test]
fn no_template_makes_it_panic() {
    let pieces = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        "+",
        "~",
        "*",
        "'",
        "\"",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "messages",
        " if ",
        " is ",
        " not ",
        "a",
        "1",
        ".",
        "|",
        "tojson",
        "generation",
        "endgeneration",
        "raw",
        "endraw",
        " for m in messages",
        "endfor",
        "set x=",
        "é",
        "\n",
        "\\",
        ",",
        ":",
        "%",
        "/",
        "trim",
        "endif",
        "[0]",
        ".content",
    ];
    let mut random = crate::common::Random(7);
    for _ in 0..20_000 {
        let source: String = (0..random.below(24)).map(|_| pieces[random.below(pieces.len())]).collect();
        if let Ok(template) = ChatTemplate::new(&source, "t", SpecialTokens::new()) {
            let _ = template.render(&[said(Role::User, "a"), said(Role::Assistant, "b")], None, true);
        }
    }
}

#[test]
fn named_templates_render_and_mark_what_the_assistant_says() {
    let tokens: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>")]
        .map(|(name, token)| (name.to_owned(), token.to_owned()))
        .into();
    let messages = [
        said(Role::System, "Be brief."),
        said(Role::User, "Hi"),
        said(Role::Assistant, "Hello"),
        said(Role::User, "Bye"),
        said(Role::Assistant, "See you"),
    ];
    assert!(named_templates().len() >= 8);
    for named in named_templates() {
        let template = ChatTemplate::named(named.name, tokens.clone()).unwrap();
        assert!(template.marks_assistant());
        let made = template.render(&messages, None, false).unwrap();
        let spoken: Vec<&str> = made.assistant.iter().map(|span| &made.text[span.clone()]).collect();
        assert_eq!(spoken.len(), 2, "{}", named.name);
        assert!(
            spoken[0].trim().starts_with("Hello") && spoken[1].trim().starts_with("See you"),
            "{}: {spoken:?}",
            named.name
        );
        assert!(
            spoken[1].trim_end().len() > "See you".len(),
            "{}: the end of a turn is said too",
            named.name
        );
        assert!(made.text.contains("Be brief.") && made.text.contains("Bye"), "{}", named.name);
        let open = template.render(&messages[..2], None, true).unwrap().text;
        assert!(made.text.starts_with(&open), "{}: {open:?} is no beginning of {:?}", named.name, made.text);
        assert_eq!(made.assistant[0].start, open.len(), "{}", named.name);
    }
    assert_eq!(
        ChatTemplate::named("chatml", tokens.clone())
            .unwrap()
            .render(&messages[1..3], None, true)
            .unwrap()
            .text,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
    let problem = ChatTemplate::named("chat-ml", tokens).err().unwrap();
    assert!(problem.message.contains("chatml, alpaca"), "{problem}");
}

#[test]
fn the_checkpoints_own_template_is_found_in_each_of_its_places() {
    let folder = tempfile::tempdir().unwrap();
    let load = || ChatTemplate::load(folder.path(), SpecialTokens::new());
    let config = |template: Value| {
        fs::write(
            folder.path().join("tokenizer_config.json"),
            json!({ "chat_template": template }).to_string(),
        )
        .unwrap()
    };
    assert!(load().unwrap().is_none());
    config(Value::Null);
    assert!(load().unwrap().is_none());
    config(json!("one"));
    assert_eq!(load().unwrap().unwrap().source(), "one");
    config(json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]));
    assert_eq!(load().unwrap().unwrap().source(), "two");
    config(json!([{"name": "tool_use", "template": "tools"}, {"name": "rag"}]));
    assert!(load().err().unwrap().message.contains("entry 1"));
    config(json!([{"name": "tool_use", "template": "tools"}]));
    let problem = load().err().unwrap();
    assert!(problem.message.contains("it has tool_use"), "{problem}");
    assert_eq!(problem.column.as_deref(), Some("chat_template"));
    config(json!(5));
    assert!(load().is_err());
    config(json!("a\n{% if %}"));
    let problem = load().err().unwrap();
    assert!(problem.message.ends_with("(line 2 of the template)") && problem.line.is_none(), "{problem}");
    fs::write(folder.path().join("chat_template.jinja"), "three").unwrap();
    assert_eq!(load().unwrap().unwrap().source(), "three");
    fs::write(folder.path().join("chat_template.jinja"), b"\xff").unwrap();
    assert!(load().err().unwrap().message.contains("not UTF-8"));
}
