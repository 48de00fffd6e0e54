//! The card of an artefact that is a folder: what it is, how near it is to the model, how it is used.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use store::spec::{Export, Format, JobSpec, Task};

/// `README.md` of an export, with the model's own card below.
pub fn card(model: &Path, spec: &JobSpec, wanted: Export, certificate: &Value) -> Result<String> {
    let tag = spec.task.as_str();
    let library = if wanted.format == Format::Adapter { "peft" } else { "transformers" };
    let name = &spec.base_model;
    let mut card = format!(
        "---\nlibrary_name: {library}\npipeline_tag: {tag}\ntags:\n- luthier\n---\n\n# {name} as {wanted}\n\nExported with \
         Luthier {}, then loaded again and compared with the model on {}.\n\n",
        env!("CARGO_PKG_VERSION"),
        certificate["replayed"]["about"].as_str().unwrap_or_default(),
    );
    let reasons: Vec<&str> =
        certificate["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        let _ = writeln!(card, "**Not ready**: {}\n", reasons.join(" "));
    }
    let number =
        |value: &Value| value.as_f64().map_or("undefined".to_owned(), |number| format!("{number:.6}"));
    let _ = writeln!(card, "| | model | export |\n| --- | --- | --- |");
    for metric in certificate["metrics"].as_array().into_iter().flatten() {
        let (name, own, other) = (metric["name"].as_str(), &metric["model"], &metric["artifact"]);
        let _ = writeln!(card, "| {} | {} | {} |", name.unwrap_or_default(), number(own), number(other));
    }
    let bytes = &certificate["bytes"];
    let _ = writeln!(card, "| bytes | {} | {} |\n", bytes["model"], bytes["artifact"]);
    let largest = number(&certificate["logits"]["largest_difference"]);
    let _ = writeln!(
        card,
        "Largest difference of logits: {largest}. All that was measured is in `certificate.json`.\n"
    );
    for notice in certificate["notices"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(card, "{notice}\n");
    }
    card.push_str(&usage(spec.task, wanted.format));
    if let Ok(own) = std::fs::read_to_string(model.join("README.md")) {
        let _ = writeln!(card, "\n# The model's own card\n\n{}", without_header(&own).trim());
    }
    Ok(card)
}

fn usage(task: Task, format: Format) -> String {
    let (class, tag, call) = match task {
        Task::TextGeneration => ("AutoModelForCausalLM", "text-generation", "ask(\"…\", max_new_tokens=64)"),
        Task::TextClassification => {
            ("AutoModelForSequenceClassification", "text-classification", "ask(\"…\")")
        }
        Task::SentenceSimilarity => ("AutoModel", "feature-extraction", "ask(\"…\")"),
        Task::Translation | Task::Summarization | Task::TextToText => {
            ("AutoModelForSeq2SeqLM", task.as_str(), "ask(\"…\")")
        }
        Task::QuestionAnswering => {
            ("AutoModelForQuestionAnswering", "question-answering", "ask(question=\"…\", context=\"…\")")
        }
        Task::TokenClassification => {
            ("AutoModelForTokenClassification", "token-classification", "ask(\"…\")")
        }
    };
    let code = match format {
        Format::Adapter => {
            let config = match task {
                Task::TextClassification | Task::QuestionAnswering | Task::TokenClassification => {
                    ", config=AutoConfig.from_pretrained(folder), ignore_mismatched_sizes=True"
                }
                _ => "",
            };
            format!(
                "from peft import PeftModel\nfrom transformers import AutoConfig, {class}, AutoTokenizer, pipeline\n\nfolder \
                 = \"path/to/this/folder\"\nbase = {class}.from_pretrained(\"path/to/the/base\"{config})\nmodel = \
                 PeftModel.from_pretrained(base, folder).merge_and_unload()\nask = pipeline(\"{tag}\", model=model, \
                 tokenizer=AutoTokenizer.from_pretrained(folder))\nprint({call})"
            )
        }
        _ => format!(
            "from transformers import pipeline\n\nask = pipeline(\"{tag}\", \
             model=\"path/to/this/folder\")\nprint({call})"
        ),
    };
    format!("## Use\n\n```python\n{code}\n```\n")
}

/// A card without what stands between the two lines `---` at its beginning.
fn without_header(card: &str) -> &str {
    let rest = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    rest.map_or(card, |(_, rest)| rest)
}
