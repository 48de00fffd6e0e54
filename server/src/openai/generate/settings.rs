//! Fields that chats and completions have in common.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use store::spec::{Reader, SpecError};

use super::format::format_of;
use crate::Result;
use crate::inference::protocol::Generate;

/// Answers of one request.
const MOST_ANSWERS: u64 = 128;

/// Texts that end an answer.
const MOST_STOPS: usize = 16;

/// Alternatives that are told for a token.
pub const MOST_LOGPROBS: u64 = 20;

/// How an answer is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Piece by piece.
    pub stream: bool,
    /// With the counts of tokens at the end of the stream.
    pub usage: bool,
}

/// Reads how tokens are chosen.
pub fn read_settings(reader: &mut Reader, question: &mut Generate) -> Result<()> {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    set(&mut question.n, whole(reader, "n", 1..=MOST_ANSWERS)?);
    set(&mut question.temperature, number(reader, "temperature", 0.0..=2.0)?);
    set(&mut question.top_p, number(reader, "top_p", 0.0..=1.0)?);
    set(&mut question.top_k, whole(reader, "top_k", 0..=u64::from(u32::MAX))?);
    set(&mut question.min_p, number(reader, "min_p", 0.0..=1.0)?);
    set(&mut question.repetition_penalty, number(reader, "repetition_penalty", 0.01..=100.0)?);
    set(&mut question.presence_penalty, number(reader, "presence_penalty", -2.0..=2.0)?);
    set(&mut question.frequency_penalty, number(reader, "frequency_penalty", -2.0..=2.0)?);
    set(&mut question.logit_bias, logit_bias(reader)?);
    set(&mut question.stop, stops(reader)?);
    question.seed = seed(reader)?;
    question.format = format_of(reader)?;
    Ok(())
}

/// Reads `stream` and `stream_options`.
pub fn read_sending(reader: &mut Reader) -> Result<Sending> {
    let stream = reader.flag("stream")?.unwrap_or_default();
    let mut sending = Sending { stream, usage: false };
    if let Some(mut options) = reader.object("stream_options")? {
        sending.usage = options.flag("include_usage")?.unwrap_or_default();
        // Padding against guesses by length; there is none here.
        options.value("include_obfuscation");
        options.finish()?;
        if !stream {
            return Err(reader.error("stream_options", "is for streams alone; set `stream` to true").into());
        }
    }
    Ok(sending)
}

/// A number within bounds.
fn number(
    reader: &mut Reader,
    name: &'static str,
    bounds: RangeInclusive<f64>,
) -> Result<Option<f64>, SpecError> {
    let found = reader.number(name)?;
    match found.filter(|number| !bounds.contains(number)) {
        None => Ok(found),
        Some(found) => Err(outside(reader, name, *bounds.start(), *bounds.end(), found)),
    }
}

/// A whole number within bounds.
pub fn whole(
    reader: &mut Reader,
    name: &'static str,
    bounds: RangeInclusive<u64>,
) -> Result<Option<u64>, SpecError> {
    let found = reader.whole(name)?;
    match found.filter(|number| !bounds.contains(number)) {
        None => Ok(found),
        Some(found) => Err(outside(reader, name, *bounds.start(), *bounds.end(), found)),
    }
}

fn outside<T: std::fmt::Display>(reader: &Reader, name: &str, low: T, high: T, found: T) -> SpecError {
    reader.error(name, format!("must be from {low} to {high}, found {found}"))
}

fn logit_bias(reader: &mut Reader) -> Result<Option<Map<String, Value>>, SpecError> {
    let expected = "an object of token ids, each with a number from -100 to 100";
    let Some(value) = reader.value("logit_bias") else {
        return Ok(None);
    };
    let wrong = |reader: &Reader| reader.wrong("logit_bias", expected, value);
    let fields = value.as_object().ok_or_else(|| wrong(reader))?;
    for (token, bias) in fields {
        let is_right = token.parse::<u32>().is_ok()
            && bias.as_f64().is_some_and(|bias| (-100.0..=100.0).contains(&bias));
        if !is_right {
            return Err(reader.error("logit_bias", format!("expected {expected}, found \"{token}\": {bias}")));
        }
    }
    Ok(Some(fields.clone()))
}

fn stops(reader: &mut Reader) -> Result<Option<Vec<String>>, SpecError> {
    let expected = format!("a text, or a list of up to {MOST_STOPS} texts, none of them empty");
    let Some(value) = reader.value("stop") else {
        return Ok(None);
    };
    let stops: Option<Vec<String>> = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let fits = |stops: &Vec<String>| stops.len() <= MOST_STOPS && stops.iter().all(|stop| !stop.is_empty());
    Ok(Some(stops.filter(fits).ok_or_else(|| reader.wrong("stop", &expected, value))?))
}

/// Any whole number; one below 0 is taken without its sign bit.
fn seed(reader: &mut Reader) -> Result<Option<u64>, SpecError> {
    let Some(value) = reader.value("seed") else {
        return Ok(None);
    };
    let signed = || value.as_i64().map(|seed| (seed & i64::MAX).unsigned_abs());
    Ok(Some(value.as_u64().or_else(signed).ok_or_else(|| reader.wrong("seed", "a whole number", value))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inference::protocol::Input;

    fn read(body: Value) -> Result<Generate> {
        let fields = body.as_object().unwrap().clone();
        let mut question = Generate::new(Input::Prompt(json!("")));
        let mut reader = Reader::new("", &fields);
        read_settings(&mut reader, &mut question)?;
        reader.finish()?;
        Ok(question)
    }

    #[test]
    fn settings_keep_within_their_bounds() {
        let read_ok =
            read(json!({"temperature": 0, "top_k": 40, "stop": "\n", "seed": -1, "logit_bias": {"5": -100}}));
        let question = read_ok.unwrap();
        assert_eq!((question.temperature, question.top_k), (0.0, 40));
        assert_eq!((question.stop, question.seed), (vec!["\n".to_owned()], Some(u64::MAX >> 1)));
        for (name, wrong) in [
            ("temperature", json!(2.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(1.5)),
            ("n", json!(0)),
            ("n", json!(129)),
            ("presence_penalty", json!(-3)),
            ("stop", json!([""])),
            ("stop", json!(7)),
            ("stop", json!(vec!["x"; 17])),
            ("seed", json!(1.5)),
            ("logit_bias", json!({"a": 1})),
            ("logit_bias", json!({"1": 101})),
            ("min_p", json!(-0.1)),
            ("repetition_penalty", json!(0)),
        ] {
            let refused = read(json!({name: wrong.clone()})).unwrap_err();
            assert!(refused.to_string().starts_with(name), "{name} {wrong}: {refused}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_told() {
        let refused = read(json!({"temprature": 1})).unwrap_err();
        assert!(refused.to_string().contains("did you mean \"temperature\""), "{refused}");
    }
}
