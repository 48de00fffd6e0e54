//! The body of a request for a job, field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use store::FileId;
use store::spec::{Device, PreferenceLoss, ProblemType, Reader, Resources, Split, Task};

use crate::{Error, Result};

/// What was asked for, as far as that can be told without looking at data and model.
#[derive(Debug)]
pub struct CreateJob {
    pub model: String,
    pub training_file: FileId,
    pub validation_file: Option<FileId>,
    pub test_file: Option<FileId>,
    pub suffix: Option<String>,
    pub name: String,
    pub seed: Option<u32>,
    pub metadata: BTreeMap<String, String>,
    pub priority: i32,
    /// What to learn; `None` for what the model is there for.
    pub task: Option<Task>,
    pub problem_type: Option<ProblemType>,
    pub columns: Roles,
    pub split: Split,
    pub hyperparameters: Map<String, Value>,
    /// Where the hyperparameters stood in the request, for messages about them.
    pub hyperparameters_at: &'static str,
    pub resources: Resources,
}

/// What the answers of rows are, by the rule that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Right ones, to be learnt as they are.
    Right,
    /// Pairs of a better and a worse one.
    Pairs,
    /// Single ones that are desirable or not; pairs are taken apart.
    Labelled,
}

/// Columns that were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub label: Option<String>,
    pub anchor: Option<String>,
    pub positive: Option<String>,
    pub negative: Vec<String>,
    pub text1: Option<String>,
    pub text2: Option<String>,
    pub score: Option<String>,
    pub context: Option<String>,
    pub question: Option<String>,
    pub answers: Option<String>,
    pub answer_start: Option<String>,
    pub is_impossible: Option<String>,
    pub source: Option<String>,
    pub target: Option<String>,
    pub tokens: Option<String>,
    pub tags: Option<String>,
    pub entities: Option<String>,
}

impl Roles {
    /// Whether columns have roles that tagged words do not have.
    pub fn has_others(&self) -> bool {
        let Roles { text_pair, label, anchor, positive, text1, text2, score, .. } = self;
        let Roles { context, question, answers, answer_start, is_impossible, source, target, .. } = self;
        let of_texts = [text_pair, label, anchor, positive, text1, text2, score, source, target];
        let of_questions = [context, question, answers, answer_start, is_impossible];
        !self.negative.is_empty() || of_texts.iter().chain(&of_questions).any(|column| column.is_some())
    }
}

/// Fields that say who a job is, not what it does.
#[derive(Debug)]
pub struct Labels {
    pub suffix: Option<String>,
    pub name: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub priority: i32,
}

impl CreateJob {
    /// What the rows are asked to be.
    pub fn answers(&self) -> Answers {
        match self.hyperparameters.get("preference").filter(|preference| !preference.is_null()) {
            None => Answers::Right,
            Some(preference) if is_unpaired(&preference["loss"]) => Answers::Labelled,
            Some(_) => Answers::Pairs,
        }
    }

    /// Reads a body; unknown fields are refused with the nearest known one.
    pub fn read(body: &Map<String, Value>) -> Result<CreateJob> {
        let mut reader = Reader::new("", body);
        let model = reader.text("model")?.ok_or_else(|| needed("model", "the id of a model"))?.to_owned();
        let training_file = file(&mut reader, "training_file")?
            .ok_or_else(|| needed("training_file", "the id of an uploaded file"))?;
        let validation_file = file(&mut reader, "validation_file")?;
        let test_file = file(&mut reader, "test_file")?;
        let labels = Labels::read(&mut reader)?;
        let (hyperparameters, hyperparameters_at) = hyperparameters(&mut reader)?;
        let job = CreateJob {
            model,
            training_file,
            validation_file,
            test_file,
            suffix: labels.suffix,
            name: labels.name.unwrap_or_default(),
            metadata: labels.metadata,
            priority: labels.priority,
            seed: seed(&mut reader, "seed")?,
            task: task(&mut reader)?,
            problem_type: problem_type(&mut reader)?,
            columns: columns(&mut reader)?,
            split: split(&mut reader)?,
            resources: resources(&mut reader)?,
            hyperparameters,
            hyperparameters_at,
        };
        refuse_what_is_not_there(&mut reader)?;
        reader.finish()?;
        Ok(job)
    }
}

impl Labels {
    /// Reads suffix, name, metadata and priority.
    pub fn read(reader: &mut Reader) -> Result<Labels> {
        let suffix = reader.text("suffix")?.map(str::to_owned);
        if suffix.as_ref().is_some_and(|suffix| !(1..=64).contains(&suffix.chars().count())) {
            return Err(Error::invalid("suffix", "must have 1 to 64 characters"));
        }
        Ok(Labels {
            suffix,
            name: reader.text("name")?.map(str::to_owned),
            metadata: metadata(reader)?,
            priority: priority(reader)?,
        })
    }
}

fn needed(param: &str, what: &str) -> Error {
    Error::invalid(param, format!("`{param}` is missing: give {what}"))
}

fn file(reader: &mut Reader, name: &'static str) -> Result<Option<FileId>> {
    let Some(id) = reader.text(name)? else {
        return Ok(None);
    };
    // An id that cannot be one names no file: 404 as for one that was deleted, and not the 400 of a wrong column.
    let missing =
        || Error::NotFound { message: format!("there is no file \"{id}\""), param: Some(name.to_owned()) };
    id.parse().map(Some).map_err(|_| missing())
}

fn seed(reader: &mut Reader, name: &'static str) -> Result<Option<u32>> {
    match reader.whole(name)? {
        Some(seed) if seed > 2_147_483_647 => {
            Err(Error::invalid(reader.at(name), format!("must be 0 to 2147483647, found {seed}")))
        }
        seed => Ok(seed.map(|seed| seed as u32)),
    }
}

fn metadata(reader: &mut Reader) -> Result<BTreeMap<String, String>> {
    let wrong = |message: String| Error::invalid("metadata", message);
    let Some(value) = reader.value("metadata") else {
        return Ok(BTreeMap::new());
    };
    let pairs = value.as_object().ok_or_else(|| wrong("expected an object of texts".to_owned()))?;
    if pairs.len() > 16 {
        return Err(wrong(format!("may have 16 pairs, found {}", pairs.len())));
    }
    let pair = |(key, value): (&String, &Value)| match value.as_str() {
        _ if key.chars().count() > 64 => Err(wrong("a key may have 64 characters".to_owned())),
        Some(text) if text.chars().count() <= 512 => Ok((key.clone(), text.to_owned())),
        Some(_) => Err(wrong(format!("the value of \"{key}\" has more than 512 characters"))),
        None => Err(wrong(format!("the value of \"{key}\" is no text"))),
    };
    pairs.iter().map(pair).collect()
}

fn priority(reader: &mut Reader) -> Result<i32> {
    match reader.value("priority") {
        None => Ok(0),
        Some(value) => match value.as_i64() {
            Some(priority @ -1000..=1000) => Ok(priority as i32),
            _ => Err(Error::invalid(
                "priority",
                format!("must be a whole number from -1000 to 1000, found {value}"),
            )),
        },
    }
}

fn task(reader: &mut Reader) -> Result<Option<Task>> {
    Ok(reader.word("task", &Task::ALL.map(|task| (task.as_str(), task)))?)
}

fn problem_type(reader: &mut Reader) -> Result<Option<ProblemType>> {
    Ok(reader.word(
        "problem_type",
        &[
            ("single_label", ProblemType::SingleLabel),
            ("multi_label", ProblemType::MultiLabel),
            ("regression", ProblemType::Regression),
            ("single_label_classification", ProblemType::SingleLabel),
            ("multi_label_classification", ProblemType::MultiLabel),
        ],
    )?)
}

fn columns(reader: &mut Reader) -> Result<Roles> {
    let Some(mut inner) = reader.object("columns")? else {
        return Ok(Roles::default());
    };
    let roles = Roles {
        text: inner.text("text")?.map(str::to_owned),
        text_pair: inner.text("text_pair")?.map(str::to_owned),
        label: inner.text("label")?.map(str::to_owned),
        anchor: inner.text("anchor")?.map(str::to_owned),
        positive: inner.text("positive")?.map(str::to_owned),
        negative: negatives(&mut inner)?,
        text1: inner.text("text1")?.map(str::to_owned),
        text2: inner.text("text2")?.map(str::to_owned),
        score: inner.text("score")?.map(str::to_owned),
        context: inner.text("context")?.map(str::to_owned),
        question: inner.text("question")?.map(str::to_owned),
        answers: inner.text("answers")?.map(str::to_owned),
        answer_start: inner.text("answer_start")?.map(str::to_owned),
        is_impossible: inner.text("is_impossible")?.map(str::to_owned),
        source: inner.text("source")?.map(str::to_owned),
        target: inner.text("target")?.map(str::to_owned),
        tokens: inner.text("tokens")?.map(str::to_owned),
        tags: inner.text("tags")?.map(str::to_owned),
        entities: inner.text("entities")?.map(str::to_owned),
    };
    inner.finish()?;
    Ok(roles)
}

/// One column or a list of them.
fn negatives(reader: &mut Reader) -> Result<Vec<String>> {
    let expected = "the name of a column, or a list of them";
    match reader.value("negative") {
        None => Ok(Vec::new()),
        Some(Value::String(name)) => Ok(vec![name.clone()]),
        Some(value @ Value::Array(names)) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| reader.wrong("negative", expected, value).into()),
        Some(other) => Err(reader.wrong("negative", expected, other).into()),
    }
}

fn split(reader: &mut Reader) -> Result<Split> {
    let mut split = Split::default();
    if let Some(mut inner) = reader.object("validation_split")? {
        split.fraction = inner.number("fraction")?.unwrap_or(split.fraction);
        split.test_fraction = inner.number("test_fraction")?.unwrap_or(split.test_fraction);
        split.stratify = inner.flag("stratify")?.unwrap_or(split.stratify);
        split.seed = seed(&mut inner, "seed")?.unwrap_or(split.seed);
        inner.finish()?;
    }
    Ok(split)
}

fn resources(reader: &mut Reader) -> Result<Resources> {
    let mut resources = Resources::default();
    if let Some(mut inner) = reader.object("resources")? {
        let devices = [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda)];
        resources.device = inner.word("device", &devices)?.unwrap_or(resources.device);
        resources.devices = inner.whole32("devices")?.unwrap_or(resources.devices);
        resources.tensor_parallel = inner.whole32("tensor_parallel")?.unwrap_or(resources.tensor_parallel);
        resources.pipeline_stages = inner.whole32("pipeline_stages")?.unwrap_or(resources.pipeline_stages);
        resources.shard_optimizer = inner.flag("shard_optimizer")?.unwrap_or(resources.shard_optimizer);
        resources.threads = inner.whole32("threads")?.unwrap_or(resources.threads);
        inner.finish()?;
    }
    Ok(resources)
}

/// OpenAI's ways to learn, and one of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Supervised,
    Dpo,
    Kto,
}

/// The settings, from `method` or from the older `hyperparameters`; `method` wins.
fn hyperparameters(reader: &mut Reader) -> Result<(Map<String, Value>, &'static str)> {
    let older = reader.value("hyperparameters");
    let (value, at, method) = match reader.object("method")? {
        None => (older, "hyperparameters", Method::Supervised),
        Some(mut method) => {
            let kind = method_of(&mut method)?;
            let (name, at) = match kind {
                Method::Supervised => ("supervised", "method.supervised.hyperparameters"),
                Method::Dpo => ("dpo", "method.dpo.hyperparameters"),
                Method::Kto => ("kto", "method.kto.hyperparameters"),
            };
            let mut value = None;
            if let Some(mut own) = method.object(name)? {
                value = own.value("hyperparameters");
                own.finish()?;
            }
            method.finish()?;
            if let (Some(Value::Object(own)), Some(Value::Object(older))) = (value, older)
                && let Some(name) = older.keys().find(|name| !own.contains_key(*name))
            {
                return Err(Error::invalid(
                    format!("hyperparameters.{name}"),
                    format!("is not read beside `method`: give it as `{at}.{name}`"),
                ));
            }
            (value.or(older), at, kind)
        }
    };
    let fields = match value {
        None => Map::new(),
        Some(Value::Object(fields)) => fields.clone(),
        Some(other) => return Err(Error::invalid(at, format!("expected an object, found {other}"))),
    };
    match method {
        Method::Supervised => Ok((fields, at)),
        Method::Dpo | Method::Kto => Ok((with_preference(fields, at, method)?, at)),
    }
}

fn method_of(method: &mut Reader) -> Result<Method> {
    match method.text("type")? {
        None | Some("supervised") => Ok(Method::Supervised),
        Some("dpo") => Ok(Method::Dpo),
        Some("kto") => Ok(Method::Kto),
        Some("reinforcement") => Err(Error::invalid(
            "method.type",
            "\"reinforcement\" is not supported; say \"supervised\", with rows that show the right answers, \"dpo\", with \
             pairs of a better and a worse one, or \"kto\", with answers that are desirable or not",
        )),
        Some(other) => Err(Error::invalid(
            "method.type",
            format!("\"{other}\" is not known; known are supervised, dpo and kto"),
        )),
    }
}

/// OpenAI's `beta`, and the weights of KTO, as fields of our `preference`, which may stand beside them.
fn with_preference(mut fields: Map<String, Value>, at: &str, method: Method) -> Result<Map<String, Value>> {
    let own: &[&str] = match method {
        Method::Kto => &["beta", "desirable_weight", "undesirable_weight"],
        _ => &["beta"],
    };
    let lifted: Vec<_> = own.iter().filter_map(|name| Some((*name, fields.remove(*name)?))).collect();
    let preference = fields.entry("preference").or_insert_with(|| Value::Object(Map::new()));
    if preference.is_null() {
        *preference = Value::Object(Map::new());
    }
    // Anything else is refused where the settings are read.
    let Some(preference) = preference.as_object_mut() else { return Ok(fields) };
    for (name, value) in lifted.into_iter().filter(|(_, value)| *value != "auto" && !value.is_null()) {
        if preference.insert(name.to_owned(), value).is_some_and(|other| !other.is_null()) {
            let message = "is given in `preference` as well; give one of them";
            return Err(Error::invalid(format!("{at}.{name}"), message));
        }
    }
    let rule = preference.get("loss").filter(|loss| !loss.is_null());
    match (method, rule.map(is_unpaired)) {
        (Method::Kto, None) => drop(preference.insert("loss".to_owned(), "kto".into())),
        (Method::Kto, Some(false)) => return Err(other_rules(at, "kto", "pairs of answers", "dpo")),
        (Method::Dpo, Some(true)) => return Err(other_rules(at, "dpo", "single answers", "kto")),
        _ => {}
    }
    Ok(fields)
}

/// Whether this is the name of a rule for single answers.
fn is_unpaired(loss: &Value) -> bool {
    PreferenceLoss::ALL.into_iter().any(|rule| rule.is_unpaired() && loss == rule.name())
}

fn other_rules(at: &str, method: &str, of: &str, right: &str) -> Error {
    let rules: Vec<&str> = PreferenceLoss::ALL
        .into_iter()
        .filter(|rule| rule.is_unpaired() == (method == "kto"))
        .map(PreferenceLoss::name)
        .collect();
    let message = format!(
        "is a rule for {of}, of the method \"{right}\"; the rules of \"{method}\" are {}",
        rules.join(", ")
    );
    Error::invalid(format!("{at}.preference.loss"), message)
}

/// Fields of the API that this version cannot obey: refused rather than passed over.
fn refuse_what_is_not_there(reader: &mut Reader) -> Result<()> {
    let empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(flag) => !flag,
        _ => false,
    };
    for name in ["integrations", "gate"] {
        if reader.value(name).is_some_and(|value| !empty(value)) {
            return Err(Error::invalid(
                name,
                format!("`{name}` is not supported by this version; leave it out"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(extra: Value) -> Result<CreateJob> {
        let mut body = json!({"model": "minilm", "training_file": FileId::new()});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        CreateJob::read(body.as_object().unwrap())
    }

    fn refusal(extra: Value) -> Value {
        read(extra).unwrap_err().to_json()["error"].clone()
    }

    #[test]
    fn both_places_of_hyperparameters_are_read_and_method_wins() {
        let old = read(json!({"hyperparameters": {"n_epochs": 1}})).unwrap();
        assert_eq!(old.hyperparameters["n_epochs"], 1);
        let method = json!({"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}});
        let both = read(json!({"hyperparameters": {"n_epochs": 1}, "method": method})).unwrap();
        assert_eq!(both.hyperparameters["n_epochs"], 2);
        let method = json!({"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}});
        let apart = refusal(json!({"hyperparameters": {"label_smoothing": 0.1}, "method": method}));
        assert_eq!(apart["param"], "hyperparameters.label_smoothing");
    }

    #[test]
    fn dpo_is_a_preference_with_openais_beta() {
        let dpo = |own: Value| read(json!({"method": {"type": "dpo", "dpo": {"hyperparameters": own}}}));
        let asked = dpo(json!({"beta": 0.2, "n_epochs": 1})).unwrap();
        assert_eq!(asked.hyperparameters["preference"], json!({"beta": 0.2}));
        assert!(!asked.hyperparameters.contains_key("beta"));
        let usual = dpo(json!({"beta": "auto", "preference": {"loss": "ipo"}})).unwrap();
        assert_eq!(usual.hyperparameters["preference"], json!({"loss": "ipo"}));
        let bare = read(json!({"method": {"type": "dpo"}})).unwrap();
        assert_eq!(bare.hyperparameters["preference"], json!({}));
        let twice = dpo(json!({"beta": 0.2, "preference": {"beta": 0.1}})).unwrap_err().to_json();
        assert_eq!(twice["error"]["param"], "method.dpo.hyperparameters.beta");
    }

    #[test]
    fn a_mistyped_field_is_refused_with_the_nearest_one() {
        let error = refusal(json!({"colums": {"text": "a"}}));
        assert_eq!(error["param"], "colums");
        assert!(error["message"].as_str().unwrap().contains("\"columns\""), "{error}");
    }

    #[test]
    fn what_is_not_there_is_refused_and_empty_is_not_asked_for() {
        assert_eq!(refusal(json!({"integrations": [{"type": "wandb"}]}))["param"], "integrations");
        assert_eq!(refusal(json!({"method": {"type": "reinforcement"}}))["param"], "method.type");
        read(json!({"integrations": [], "gate": null})).unwrap();
    }

    #[test]
    fn metadata_and_suffix_have_the_documented_sizes() {
        assert_eq!(refusal(json!({"suffix": "x".repeat(65)}))["param"], "suffix");
        assert_eq!(refusal(json!({"metadata": {"k": "v".repeat(513)}}))["param"], "metadata");
        assert_eq!(refusal(json!({"metadata": {"k": 1}}))["param"], "metadata");
        assert_eq!(read(json!({"metadata": {"team": "a"}})).unwrap().metadata["team"], "a");
        assert_eq!(refusal(json!({"seed": 2_147_483_648u64}))["param"], "seed");
    }

    #[test]
    fn a_file_id_that_cannot_be_one_is_a_missing_file() {
        let error = read(json!({"training_file": "file-doesnotexist"})).unwrap_err();
        assert_eq!(error.status(), 404);
    }
}
