//! The `lora` of a request.

use serde_json::Value;

use crate::spec::adapter::{Adapter, AllLinear, Quantization, Targets};
use crate::spec::reader::Reader;
use crate::spec::{SpecError, request};

/// The learning rate that `learning_rate_multiplier` multiplies where an adapter is trained: its `B` begins at 0, and
/// steps that suit whole weights are small for it.
pub const LEARNING_RATE: f64 = 4.0 * request::BASE_LEARNING_RATE;

/// `true` for all defaults, or an object.
pub(super) fn read(reader: &mut Reader) -> Result<Option<Adapter>, SpecError> {
    let path = reader.at("lora");
    let fields = match reader.value("lora") {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => return Ok(Some(Adapter::default())),
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(reader.wrong("lora", "true or an object such as {\"rank\": 8}", other)),
    };
    let mut inner = Reader::new(&path, fields);
    let default = Adapter::default();
    let adapter = Adapter {
        rank: inner.whole32("rank")?.unwrap_or(default.rank),
        alpha: inner.number("alpha")?.unwrap_or(default.alpha),
        dropout: inner.number("dropout")?.unwrap_or(default.dropout),
        targets: targets(&mut inner)?.unwrap_or(default.targets),
        rslora: inner.flag("rslora")?.unwrap_or(default.rslora),
        dora: inner.flag("dora")?.unwrap_or(default.dora),
        quantization: inner.word("quantization", &[("nf4", Quantization::Nf4)])?,
        merge: inner.flag("merge")?.unwrap_or(default.merge),
    };
    inner.finish()?;
    Ok(Some(adapter))
}

/// `"all-linear"`, or a list of names.
fn targets(reader: &mut Reader) -> Result<Option<Targets>, SpecError> {
    let expected = "\"all-linear\" or a list of names of layers";
    match reader.value("targets") {
        None => Ok(None),
        Some(Value::String(word)) if word == "all-linear" => Ok(Some(Targets::All(AllLinear::AllLinear))),
        Some(Value::Array(names)) => {
            let names: Option<Vec<String>> =
                names.iter().map(|name| Some(name.as_str()?.to_owned())).collect();
            names
                .map(|names| Some(Targets::Named(names)))
                .ok_or_else(|| reader.error("targets", format!("expected {expected}")))
        }
        Some(other) => Err(reader.wrong("targets", expected, other)),
    }
}
