//! What a language model learns of a conversation, and how that is written.

use formats::chat_template::named_templates;
use serde_json::{Map, Value};
use store::spec::{JobSpec, Preference};

use super::{Kind, Setting, Values, field, named};
use crate::pages::view::text::setting;

/// The choice for a template that is written into the form.
const OWN: &str = "jinja";

/// Where the settings of all rules, of rules of pairs and of those of single answers mean something.
const RULES: &str = "preference.loss=sigmoid,robust,ipo,hinge,orpo,cpo,simpo,kto,apo_zero_unpaired";
const PAIRS: &str = "preference.loss=sigmoid,robust,ipo,hinge,orpo,cpo,simpo";
const SINGLE: &str = "preference.loss=kto,apo_zero_unpaired";

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "loss_on",
        "Learns",
        "Which part of a conversation counts in the loss. Prompts are not learnt beside their completions unless all is.",
        Kind::Choice(&[("assistant", "What the assistant says"), ("all", "All of it")]),
    ),
    field(
        "chat_template",
        "Chat template",
        "How conversations are written as text. A model that was made for chats brings its own; others need one.",
        Kind::Choice(&[
            ("", "The checkpoint's own"),
            ("chatml", "chatml"),
            ("alpaca", "alpaca"),
            ("zephyr", "zephyr"),
            ("llama-3", "llama-3"),
            ("llama-2", "llama-2"),
            ("mistral", "mistral"),
            ("gemma", "gemma"),
            ("phi-3", "phi-3"),
            (OWN, "Written below"),
        ]),
    ),
    field(
        "preference.loss",
        "Learns from preferences",
        "Rows with `prompt`, `chosen` and `rejected`: the better answer is made likelier than the worse. DPO is the usual rule. \
         KTO takes single answers as well: rows with `prompt`, `completion` and `label`, true or false.",
        Kind::Choice(&[
            ("", "No, answers as they are"),
            ("sigmoid", "DPO"),
            ("robust", "Robust DPO"),
            ("ipo", "IPO"),
            ("hinge", "SLiC, a hinge"),
            ("orpo", "ORPO"),
            ("cpo", "CPO"),
            ("simpo", "SimPO"),
            ("kto", "KTO, single answers"),
            ("apo_zero_unpaired", "APO-zero, single answers"),
        ]),
    ),
    field(
        "preference.beta",
        "Beta",
        "How closely the model keeps to where it began. 0.1 is usual, SimPO takes 2 and more.",
        Kind::Number,
    )
    .when(RULES),
    field(
        "preference.desirable_weight",
        "Weight of desirable answers",
        "Where they are fewer than the others, so much more that number times weight comes out 1 to 1.33 times as large.",
        Kind::Number,
    )
    .when(SINGLE),
    field(
        "preference.undesirable_weight",
        "Weight of undesirable answers",
        "The same for the others. One of the two weights is 1.",
        Kind::Number,
    )
    .when(SINGLE),
    field(
        "preference.sft_weight",
        "Weight of the better answers' own loss",
        "Added to the rule. Empty for the rule's own.",
        Kind::Number,
    )
    .when(PAIRS),
    field("chat_template.jinja", "Template in Jinja", "As transformers renders it.", Kind::Long)
        .when("chat_template=jinja"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let (choice, jinja) = match spec.training.chat_template.as_deref() {
        None => ("", ""),
        Some(name) if named_templates().iter().any(|template| template.name == name) => (name, ""),
        Some(jinja) => (OWN, jinja),
    };
    let preference = spec.training.preference.clone();
    let rule = preference.as_ref().map_or("", |preference| preference.loss.name());
    let Preference { beta, sft_weight, desirable_weight, undesirable_weight, .. } =
        preference.unwrap_or_default();
    named([
        ("preference.loss", rule.to_owned()),
        ("preference.beta", setting(beta)),
        ("preference.desirable_weight", setting(desirable_weight)),
        ("preference.undesirable_weight", setting(undesirable_weight)),
        ("preference.sft_weight", sft_weight.map(setting).unwrap_or_default()),
        ("loss_on", spec.training.loss_on.name().to_owned()),
        ("chat_template", choice.to_owned()),
        ("chat_template.jinja", jinja.to_owned()),
    ])
}

/// Makes the API's `chat_template` of the two inputs.
pub(super) fn join(fields: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
    match fields.remove("chat_template") {
        Some(Value::Object(mut own)) => {
            fields.extend(own.remove(OWN).map(|jinja| ("chat_template".to_owned(), jinja)));
        }
        Some(Value::String(word)) if word == OWN => {
            return Err(("chat_template.jinja", "Write the template, or choose one by name.".to_owned()));
        }
        Some(name) => drop(fields.insert("chat_template".to_owned(), name)),
        None => {}
    }
    Ok(())
}
