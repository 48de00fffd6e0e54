//! The `optimizer` of a request.

use serde_json::{Map, Value};

use crate::spec::reader::Reader;
use crate::spec::{AdjustLr, Optimizer, SpecError};

#[derive(Clone, Copy)]
enum Name {
    Sgd,
    Adam,
    Adamw,
    Rmsprop,
    Lion,
    Adafactor,
    Muon,
    Adamw8bit,
    SparseAdam,
}

const NAMES: [(&str, Name); 9] = [
    ("sgd", Name::Sgd),
    ("adam", Name::Adam),
    ("adamw", Name::Adamw),
    ("rmsprop", Name::Rmsprop),
    ("lion", Name::Lion),
    ("adafactor", Name::Adafactor),
    ("muon", Name::Muon),
    ("adamw_8bit", Name::Adamw8bit),
    ("sparse_adam", Name::SparseAdam),
];

/// `"adamw"` or `{"name": "adamw", "betas": [0.9, 0.999]}`.
pub(super) fn read(reader: &mut Reader) -> Result<Option<Optimizer>, SpecError> {
    let path = reader.at("optimizer");
    let plain;
    let fields = match reader.value("optimizer") {
        None => return Ok(None),
        Some(Value::Object(fields)) => fields,
        Some(Value::String(name)) => {
            plain = Map::from_iter([("name".to_owned(), name.as_str().into())]);
            &plain
        }
        Some(other) => return Err(reader.wrong("optimizer", "a name or an object with a name", other)),
    };
    let mut inner = Reader::new(&path, fields);
    let Some(name) = inner.word("name", &NAMES)? else {
        let known = NAMES.map(|(name, _)| name).join(", ");
        return Err(inner.error("name", format!("is missing; known are {known}")));
    };
    let made = settings(&mut inner, name)?;
    inner.finish()?;
    Ok(Some(made))
}

fn settings(inner: &mut Reader, name: Name) -> Result<Optimizer, SpecError> {
    Ok(match name {
        Name::Sgd => Optimizer::Sgd {
            momentum: number(inner, "momentum", 0.0)?,
            dampening: number(inner, "dampening", 0.0)?,
            nesterov: flag(inner, "nesterov", false)?,
        },
        Name::Adam => Optimizer::Adam {
            betas: betas(inner)?,
            eps: number(inner, "eps", 1e-8)?,
            amsgrad: flag(inner, "amsgrad", false)?,
        },
        Name::Adamw => Optimizer::Adamw {
            betas: betas(inner)?,
            eps: number(inner, "eps", 1e-8)?,
            amsgrad: flag(inner, "amsgrad", false)?,
        },
        Name::Rmsprop => Optimizer::Rmsprop {
            alpha: number(inner, "alpha", 0.99)?,
            eps: number(inner, "eps", 1e-8)?,
            momentum: number(inner, "momentum", 0.0)?,
            centered: flag(inner, "centered", false)?,
        },
        Name::Lion => Optimizer::Lion { betas: pair(inner, "betas", (0.9, 0.99))? },
        Name::Adafactor => Optimizer::Adafactor {
            eps: pair(inner, "eps", (1e-30, 1e-3))?,
            clip_threshold: number(inner, "clip_threshold", 1.0)?,
            decay_rate: number(inner, "decay_rate", -0.8)?,
            beta1: inner.number("beta1")?,
            scale_parameter: flag(inner, "scale_parameter", true)?,
            relative_step: flag(inner, "relative_step", true)?,
            warmup_init: flag(inner, "warmup_init", false)?,
        },
        Name::Muon => Optimizer::Muon {
            momentum: number(inner, "momentum", 0.95)?,
            nesterov: flag(inner, "nesterov", true)?,
            ns_steps: inner.whole32("ns_steps")?.unwrap_or(5),
            adjust_lr: adjust_lr(inner)?,
            adamw_lr_scale: number(inner, "adamw_lr_scale", 1.0)?,
            betas: betas(inner)?,
            eps: number(inner, "eps", 1e-8)?,
        },
        Name::Adamw8bit => Optimizer::Adamw8bit { betas: betas(inner)?, eps: number(inner, "eps", 1e-8)? },
        Name::SparseAdam => Optimizer::SparseAdam { betas: betas(inner)?, eps: number(inner, "eps", 1e-8)? },
    })
}

fn number(reader: &mut Reader, name: &'static str, default: f64) -> Result<f64, SpecError> {
    Ok(reader.number(name)?.unwrap_or(default))
}

fn flag(reader: &mut Reader, name: &'static str, default: bool) -> Result<bool, SpecError> {
    Ok(reader.flag(name)?.unwrap_or(default))
}

fn betas(reader: &mut Reader) -> Result<(f64, f64), SpecError> {
    pair(reader, "betas", (0.9, 0.999))
}

fn pair(reader: &mut Reader, name: &'static str, default: (f64, f64)) -> Result<(f64, f64), SpecError> {
    let Some(value) = reader.value(name) else {
        return Ok(default);
    };
    let pair = value.as_array().and_then(|items| match items.as_slice() {
        [first, second] => Some((first.as_f64()?, second.as_f64()?)),
        _ => None,
    });
    pair.ok_or_else(|| reader.wrong(name, "a list of two numbers", value))
}

fn adjust_lr(reader: &mut Reader) -> Result<AdjustLr, SpecError> {
    let names = [("original", AdjustLr::Original), ("match_rms_adamw", AdjustLr::MatchRmsAdamw)];
    Ok(reader.word("adjust_lr", &names)?.unwrap_or_default())
}
