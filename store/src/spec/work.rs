//! What a job is there for.

use std::fmt;

pub use formats::gguf::Kind as NumberKind;
use serde::{Deserialize, Serialize};

use super::SpecError;

/// What a job does with its model and rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Tunes the model on the rows.
    #[default]
    Train,
    /// Writes the model in another format, and compares what was written with it on the rows held out for validation.
    Export(Export),
}

impl Work {
    /// The word used in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Work::Train => "train",
            Work::Export(_) => "export",
        }
    }

    /// Whether it is a fine-tune.
    pub fn is_train(&self) -> bool {
        *self == Work::Train
    }
}

/// An artefact to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// What is written.
    pub format: Format,
    /// How numbers are kept; none for an adapter, whose numbers stay what they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<NumberKind>,
}

/// The formats of artefacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A checkpoint in Hugging Face layout; an adapter is merged into its base.
    Safetensors,
    /// The adapter alone, as peft saves it.
    Adapter,
    /// One file for llama.cpp.
    Gguf,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Format::Safetensors, Format::Adapter, Format::Gguf];

    /// The word used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Adapter => "adapter",
            Format::Gguf => "gguf",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        Format::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// How numbers can be kept in it, the usual way first.
    pub fn kinds(self) -> &'static [NumberKind] {
        use NumberKind::{Bf16, F16, F32, Q4KM, Q8_0};
        match self {
            Format::Safetensors => &[F32, F16, Bf16],
            Format::Adapter => &[],
            Format::Gguf => &[F16, F32, Bf16, Q8_0, Q4KM],
        }
    }
}

impl Export {
    /// A format with its kind of numbers, the usual one where none is asked for.
    pub fn new(format: Format, kind: Option<NumberKind>) -> Result<Self, SpecError> {
        let kinds = format.kinds();
        match kind {
            Some(kind) if !kinds.contains(&kind) => {
                let message = match kinds {
                    [] => "an adapter's numbers stay what they are; leave it out".to_owned(),
                    _ => {
                        let known: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                        format!(
                            "numbers of {} can be {}, found {}",
                            format.as_str(),
                            known.join(", "),
                            kind.name()
                        )
                    }
                };
                Err(SpecError::new("kind", message))
            }
            _ => Ok(Export { format, kind: kind.or_else(|| kinds.first().copied()) }),
        }
    }
}

/// "gguf q4_k_m", "adapter".
impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.as_str())?;
        self.kind.map_or(Ok(()), |kind| write!(f, " {}", kind.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_its_own_kinds_of_numbers() {
        let gguf = Export::new(Format::Gguf, None).unwrap();
        assert_eq!(gguf.to_string(), "gguf f16");
        assert_eq!(Export::new(Format::Adapter, None).unwrap().to_string(), "adapter");
        let wrong = Export::new(Format::Safetensors, Some(NumberKind::Q8_0)).unwrap_err();
        assert_eq!(wrong.to_string(), "kind: numbers of safetensors can be f32, f16, bf16, found q8_0");
        assert!(Export::new(Format::Adapter, Some(NumberKind::F16)).is_err());
    }

    #[test]
    fn work_is_written_by_its_name() {
        let work = Work::Export(Export::new(Format::Gguf, Some(NumberKind::Q4KM)).unwrap());
        let json = serde_json::to_value(&work).unwrap();
        assert_eq!(json, serde_json::json!({"export": {"format": "gguf", "kind": "q4_k_m"}}));
        assert_eq!(serde_json::from_value::<Work>(json).unwrap(), work);
        assert_eq!(serde_json::to_value(Work::Train).unwrap(), "train");
    }
}
