//! The settings of a request that are objects, a field each.

use serde_json::Value;

use crate::spec::reader::{Reader, as_whole};
use crate::spec::{
    Balanced, BatchSampler, ClassWeights, EarlyStopping, Embedding, EmbeddingLoss, Every, Freeze, Preference,
    PreferenceLoss, QuestionAnswering, SamplePrompt, Samples, SpecError,
};

/// `"balanced"` or `{"class": weight}`.
pub(super) fn class_weights(reader: &mut Reader) -> Result<Option<ClassWeights>, SpecError> {
    match reader.value("class_weights") {
        None => Ok(None),
        Some(Value::String(word)) if word == "balanced" => Ok(Some(ClassWeights::Named(Balanced::Balanced))),
        Some(Value::Object(fields)) => fields
            .iter()
            .map(|(class, weight)| match weight.as_f64() {
                Some(number) => Ok((class.clone(), number)),
                None => Err(reader.wrong(&format!("class_weights.{class}"), "a number", weight)),
            })
            .collect::<Result<_, _>>()
            .map(|weights| Some(ClassWeights::ByName(weights))),
        Some(other) => {
            Err(reader.wrong("class_weights", "\"balanced\" or an object of class names and weights", other))
        }
    }
}

/// `{"loss": "ipo", "beta": 0.1}`.
pub(super) fn preference(reader: &mut Reader) -> Result<Option<Preference>, SpecError> {
    let Some(mut inner) = reader.object("preference")? else {
        return Ok(None);
    };
    let usual = Preference::default();
    let preference = Preference {
        loss: inner.word("loss", &PreferenceLoss::ALL.map(|loss| (loss.name(), loss)))?.unwrap_or(usual.loss),
        beta: inner.number("beta")?.unwrap_or(usual.beta),
        gamma: inner.number("gamma")?.unwrap_or(usual.gamma),
        sft_weight: inner.number("sft_weight")?,
        desirable_weight: inner.number("desirable_weight")?.unwrap_or(usual.desirable_weight),
        undesirable_weight: inner.number("undesirable_weight")?.unwrap_or(usual.undesirable_weight),
    };
    inner.finish()?;
    Ok(Some(preference))
}

/// `false` for none, or `{"prompts": ["a text", [{"role": "user", "content": "…"}]], "rows": 3, "max_tokens": 128, …}`.
pub(super) fn samples(reader: &mut Reader) -> Result<Samples, SpecError> {
    let fields = match reader.value("samples") {
        None | Some(Value::Bool(true)) => return Ok(Samples::default()),
        Some(Value::Bool(false)) => return Ok(Samples::none()),
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(reader.wrong("samples", "true, false or an object", other)),
    };
    let mut inner = Reader::new(&reader.at("samples"), fields);
    let usual = Samples::default();
    let samples = Samples {
        prompts: prompts(&mut inner)?,
        rows: inner.whole32("rows")?,
        max_tokens: inner.whole32("max_tokens")?.unwrap_or(usual.max_tokens),
        temperature: inner.number("temperature")?.unwrap_or(usual.temperature),
        seed: inner.whole32("seed")?.unwrap_or(usual.seed),
    };
    inner.finish()?;
    Ok(samples)
}

fn prompts(reader: &mut Reader) -> Result<Vec<SamplePrompt>, SpecError> {
    let list = match reader.value("prompts") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(reader.wrong("prompts", "a list of texts and of lists of messages", other));
        }
    };
    let prompt = |(number, prompt): (usize, &Value)| match prompt {
        Value::String(text) => Ok(SamplePrompt::Text(text.clone())),
        Value::Array(turns) => Ok(SamplePrompt::Messages(turns.clone())),
        other => Err(reader.wrong(&format!("prompts[{number}]"), "a text or a list of messages", other)),
    };
    list.iter().enumerate().map(prompt).collect()
}

/// `{"loss": "cosent", "scale": 20}`.
pub(super) fn embedding(reader: &mut Reader) -> Result<Option<Embedding>, SpecError> {
    let Some(mut inner) = reader.object("embedding")? else {
        return Ok(None);
    };
    let usual = Embedding::default();
    let samplers = BatchSampler::ALL.map(|sampler| (sampler.name(), sampler));
    let embedding = Embedding {
        loss: inner.word("loss", &EmbeddingLoss::ALL.map(|loss| (loss.name(), loss)))?,
        scale: inner.number("scale")?.unwrap_or(usual.scale),
        symmetric: inner.flag("symmetric")?.unwrap_or(usual.symmetric),
        batch_sampler: inner.word("batch_sampler", &samplers)?.unwrap_or(usual.batch_sampler),
    };
    inner.finish()?;
    Ok(Some(embedding))
}

/// `{"doc_stride": 128, "max_answer_length": 30}`.
pub(super) fn question_answering(reader: &mut Reader) -> Result<Option<QuestionAnswering>, SpecError> {
    let Some(mut inner) = reader.object("question_answering")? else {
        return Ok(None);
    };
    let usual = QuestionAnswering::default();
    let threshold = inner.number("null_score_difference_threshold")?;
    let settings = QuestionAnswering {
        doc_stride: inner.whole32("doc_stride")?.unwrap_or(usual.doc_stride),
        max_answer_length: inner.whole32("max_answer_length")?.unwrap_or(usual.max_answer_length),
        n_best: inner.whole32("n_best")?.unwrap_or(usual.n_best),
        null_score_difference_threshold: threshold.unwrap_or(usual.null_score_difference_threshold),
    };
    inner.finish()?;
    Ok(Some(settings))
}

pub(super) fn freeze(reader: &mut Reader) -> Result<Freeze, SpecError> {
    let Some(mut inner) = reader.object("freeze")? else {
        return Ok(Freeze::default());
    };
    let freeze = Freeze {
        embeddings: inner.flag("embeddings")?.unwrap_or(false),
        first_layers: inner.whole32("first_layers")?.unwrap_or(0),
        except_head: inner.flag("except_head")?.unwrap_or(false),
        pattern: inner.text("pattern")?.map(str::to_owned),
    };
    inner.finish()?;
    Ok(freeze)
}

pub(super) fn early_stopping(reader: &mut Reader) -> Result<Option<EarlyStopping>, SpecError> {
    let Some(mut inner) = reader.object("early_stopping")? else {
        return Ok(None);
    };
    let stopping = EarlyStopping {
        metric: inner.text("metric")?.map(str::to_owned),
        patience: inner.whole32("patience")?.unwrap_or(3),
        min_delta: inner.number("min_delta")?.unwrap_or(0.0),
    };
    inner.finish()?;
    Ok(Some(stopping))
}

/// A number of steps, `{"steps": 100}` or `{"epochs": 0.5}`.
pub(super) fn eval_every(reader: &mut Reader) -> Result<Option<Every>, SpecError> {
    let expected = "a number of steps, {\"steps\": 100} or {\"epochs\": 0.5}";
    let Some(value) = reader.value("eval_every") else {
        return Ok(None);
    };
    if let Some(steps) = as_whole(value) {
        return Ok(Some(Every::Steps(steps)));
    }
    let Some(fields) = value.as_object() else {
        return Err(reader.wrong("eval_every", expected, value));
    };
    let mut inner = Reader::new(&reader.at("eval_every"), fields);
    let every = match (inner.whole("steps")?, inner.number("epochs")?) {
        (Some(steps), None) => Every::Steps(steps),
        (None, Some(epochs)) => Every::Epochs(epochs),
        _ => return Err(reader.wrong("eval_every", expected, value)),
    };
    inner.finish()?;
    Ok(Some(every))
}
