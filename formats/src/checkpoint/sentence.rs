//! What sentence-transformers keeps beside a checkpoint: how the states of a text's tokens become one vector.
//!
//! `modules.json` lists the modules in their order: the transformer itself, which has to lie at the root, a pooling whose
//! settings are in a folder of its own, and often one that normalizes. A folder without the list is taken for a transformer
//! under mean pooling, as sentence-transformers takes it.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::folder::read_json;
use crate::problem::{Problem, ProblemKind};

/// The list of modules.
pub const MODULES: &str = "modules.json";
/// Settings of the transformer module: the longest text, and whether texts are put into lower case.
pub const TRANSFORMER_CONFIG: &str = "sentence_bert_config.json";
/// Settings of the whole: versions, prompts, how vectors are compared.
pub const SENTENCE_CONFIG: &str = "config_sentence_transformers.json";
/// Where the settings of the pooling are written.
const POOLING: &str = "1_Pooling";

/// One way from the states of a text's tokens to a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The greatest number of each dimension.
    Max,
    /// Their mean.
    Mean,
    /// Their sum, divided by the root of their number.
    MeanSqrtLength,
    /// Their mean, weighted by their places counted from 1 (N. Muennighoff, "SGPT", 2022).
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Pooling {
    /// In the order in which several are put side by side.
    const ALL: [(Pooling, &'static str, &'static str); 6] = [
        (Pooling::Cls, "cls", "pooling_mode_cls_token"),
        (Pooling::Max, "max", "pooling_mode_max_tokens"),
        (Pooling::Mean, "mean", "pooling_mode_mean_tokens"),
        (Pooling::MeanSqrtLength, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
        (Pooling::WeightedMean, "weightedmean", "pooling_mode_weightedmean_tokens"),
        (Pooling::LastToken, "lasttoken", "pooling_mode_lasttoken"),
    ];

    /// sentence-transformers' name.
    pub fn name(self) -> &'static str {
        Pooling::ALL.iter().find(|(pooling, ..)| *pooling == self).map_or("", |(_, name, _)| name)
    }
}

/// How a checkpoint makes vectors of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceModel {
    /// One, or several whose vectors lie side by side.
    pub pooling: Vec<Pooling>,
    /// Whether vectors have length 1.
    pub normalizes: bool,
    /// The tokens that a text is cut to, where that is said.
    pub max_seq_length: Option<usize>,
    /// Whether texts are put into lower case first.
    pub lower_case: bool,
    /// What is put before each text, where there is something.
    pub prompt: Option<String>,
    /// Whether the folder has a list of modules, so that it is there for vectors.
    pub is_stated: bool,
}

impl Default for SentenceModel {
    fn default() -> Self {
        SentenceModel {
            pooling: vec![Pooling::Mean],
            normalizes: false,
            max_seq_length: None,
            lower_case: false,
            prompt: None,
            is_stated: false,
        }
    }
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

#[derive(Default, Deserialize)]
struct Transformer {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Prompts {
    prompts: Map<String, Value>,
    default_prompt_name: Option<String>,
}

impl SentenceModel {
    /// Reads it from a checkpoint's folder.
    ///
    /// # Errors
    /// [`ProblemKind::UnsupportedModel`] naming the module or the setting that is not computed here; what is not readable.
    pub fn read(folder: &Path) -> Result<Self, Problem> {
        let mut model = SentenceModel { is_stated: folder.join(MODULES).is_file(), ..Self::default() };
        let transformer: Transformer = optional(folder, TRANSFORMER_CONFIG)?;
        model.max_seq_length = transformer.max_seq_length.filter(|&length| length > 0);
        model.lower_case = transformer.do_lower_case;
        if !model.is_stated {
            return Ok(model);
        }
        let mut pools = true;
        for (place, module) in
            read_json::<Vec<Module>>(folder, MODULES, ProblemKind::Config)?.iter().enumerate()
        {
            // `sentence_transformers.models.Pooling`, and longer names in newer versions.
            match (place, module.r#type.rsplit('.').next().unwrap_or_default()) {
                (0, "Transformer") if module.path.is_empty() => {}
                (0, "Transformer") => {
                    let message = format!("the transformer lies in `{}`, not at the root", module.path);
                    return Err(unsupported(MODULES, message)
                        .hint("move its files to the root, with an empty `path` in modules.json"));
                }
                (1.., "Pooling") if pools => {
                    model.pooling = pooling(folder, &module.path)?;
                    pools = false;
                }
                (1.., "Normalize") => model.normalizes = true,
                (_, other) => {
                    return Err(unsupported(MODULES, format!("the module {other} is not supported"))
                        .hint("supported are a Transformer, one Pooling after it, and Normalize"));
                }
            }
        }
        let Prompts { prompts, default_prompt_name } = optional(folder, SENTENCE_CONFIG)?;
        model.prompt = default_prompt_name
            .and_then(|name| prompts.get(&name)?.as_str().map(str::to_owned))
            .filter(|prompt| !prompt.is_empty());
        if model.prompt.is_some() && !includes_prompt(folder) {
            let message = "texts have a prompt that their vectors leave out (`include_prompt` false)";
            return Err(unsupported(SENTENCE_CONFIG, message.to_owned())
                .hint("set default_prompt_name to null to go without it"));
        }
        Ok(model)
    }

    /// A text as the tokenizer gets it.
    pub fn prepared<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.lower_case {
            true => Cow::Owned(text.trim().to_lowercase()),
            false => Cow::Borrowed(text.trim()),
        }
    }

    /// The files beside the checkpoint, by name, so that sentence-transformers loads the folder: vectors of `width` numbers a
    /// pooling, texts of at most `max_seq_length` tokens. What `base` says of prompts and similarity stays.
    pub fn files(&self, base: &Path, width: u64, max_seq_length: usize) -> Vec<(String, Value)> {
        let module = |place: usize, path: &str, kind: &str| {
            json!({"idx": place, "name": place.to_string(), "path": path,
                "type": format!("sentence_transformers.models.{kind}")})
        };
        let mut modules = vec![module(0, "", "Transformer"), module(1, POOLING, "Pooling")];
        if self.normalizes {
            modules.push(module(2, "2_Normalize", "Normalize"));
        }
        let mut pooling = Map::new();
        pooling.insert("word_embedding_dimension".into(), width.into());
        for (way, _, key) in Pooling::ALL {
            pooling.insert(key.into(), self.pooling.contains(&way).into());
        }
        pooling.insert("include_prompt".into(), includes_prompt(base).into());
        let own = json!({"__version__": {}, "prompts": {}, "default_prompt_name": null,
            "similarity_fn_name": "cosine"});
        let whole = read_json::<Value>(base, SENTENCE_CONFIG, ProblemKind::Config).unwrap_or(own);
        vec![
            (MODULES.to_owned(), modules.into()),
            (format!("{POOLING}/config.json"), pooling.into()),
            (
                TRANSFORMER_CONFIG.to_owned(),
                json!({"max_seq_length": max_seq_length, "do_lower_case": self.lower_case}),
            ),
            (SENTENCE_CONFIG.to_owned(), whole),
        ]
    }
}

fn unsupported(file: &str, message: String) -> Problem {
    Problem::new(ProblemKind::UnsupportedModel, file, message)
}

/// A file that may be absent.
fn optional<T: serde::de::DeserializeOwned + Default>(folder: &Path, name: &str) -> Result<T, Problem> {
    if !folder.join(name).is_file() {
        return Ok(T::default());
    }
    read_json(folder, name, ProblemKind::Config)
}

/// Settings of a pooling: a flag a way, or `pooling_mode` with one name or several.
fn pooling(folder: &Path, path: &str) -> Result<Vec<Pooling>, Problem> {
    let file = pooling_file(path)?;
    let config: Map<String, Value> = read_json(folder, &file, ProblemKind::Config)?;
    let unknown = |name: &str| unsupported(&file, format!("the pooling `{name}` is not supported"));
    let named = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        let known = Pooling::ALL.iter().find(|(_, known, _)| *known == name);
        known.map(|(pooling, ..)| *pooling).ok_or_else(|| unknown(name))
    };
    let found: Vec<Pooling> = match config.get("pooling_mode") {
        Some(Value::Array(names)) => names.iter().map(named).collect::<Result<_, _>>()?,
        Some(name) => vec![named(name)?],
        None => {
            let is_set = |key: &str| config.get(key) == Some(&Value::Bool(true));
            let other = config.keys().find(|key| {
                key.starts_with("pooling_mode_")
                    && is_set(key)
                    && !Pooling::ALL.iter().any(|(_, _, known)| known == key)
            });
            if let Some(other) = other {
                return Err(unknown(other));
            }
            Pooling::ALL.iter().filter(|(_, _, key)| is_set(key)).map(|(pooling, ..)| *pooling).collect()
        }
    };
    Ok(if found.is_empty() { vec![Pooling::Mean] } else { found })
}

/// The settings' file below the folder; no path leads out of it.
fn pooling_file(path: &str) -> Result<String, Problem> {
    let plain = !path.starts_with('/') && !path.contains('\\') && path.split('/').all(|part| part != "..");
    if plain && !path.is_empty() {
        return Ok(format!("{}/config.json", path.trim_end_matches('/')));
    }
    let message = format!("the pooling's path `{path}` is no folder of the checkpoint");
    Err(Problem::new(ProblemKind::Config, MODULES, message).in_column("path"))
}

/// Whether prompts are part of what is pooled.
fn includes_prompt(folder: &Path) -> bool {
    let read = |name: &str| read_json::<Value>(folder, name, ProblemKind::Config).ok();
    let modules = read(MODULES).unwrap_or_default();
    let paths = modules.as_array().into_iter().flatten().filter_map(|module| module["path"].as_str());
    let files = paths.filter_map(|path| pooling_file(path).ok());
    files.filter_map(|file| read(&file)).all(|config| config["include_prompt"] != Value::Bool(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.to_string()).unwrap();
        }
        folder
    }

    fn modules(kinds: &[(&str, &str)]) -> Value {
        let module = |(path, kind): &(&str, &str)| json!({"idx": 0, "name": "0", "path": path, "type": kind});
        kinds.iter().map(module).collect()
    }

    const OLD: [(&str, &str); 3] = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ];

    #[test]
    fn a_folder_without_modules_is_under_mean_pooling() {
        let plain = folder(&[]);
        assert_eq!(SentenceModel::read(plain.path()).unwrap(), SentenceModel::default());
    }

    #[test]
    fn both_spellings_of_a_pooling_are_read_and_what_is_written_is_read_again() {
        let flags = json!({"word_embedding_dimension": 8, "pooling_mode_cls_token": true,
            "pooling_mode_mean_tokens": false});
        let old = folder(&[
            (MODULES, modules(&OLD)),
            ("1_Pooling/config.json", flags),
            (TRANSFORMER_CONFIG, json!({"max_seq_length": 40, "do_lower_case": true})),
        ]);
        let read = SentenceModel::read(old.path()).unwrap();
        assert_eq!((&read.pooling[..], read.normalizes), (&[Pooling::Cls][..], true));
        assert_eq!((read.max_seq_length, read.prepared(" Ab ").as_ref()), (Some(40), "ab"));
        let new = folder(&[
            (
                MODULES,
                modules(&[
                    ("", "sentence_transformers.base.modules.transformer.Transformer"),
                    ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
                ]),
            ),
            ("1_Pooling/config.json", json!({"pooling_mode": ["max", "lasttoken"]})),
        ]);
        let new = SentenceModel::read(new.path()).unwrap();
        assert_eq!(new.pooling, [Pooling::Max, Pooling::LastToken]);
        let files = read.files(old.path(), 8, 40);
        let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
        assert_eq!(SentenceModel::read(folder(&files).path()).unwrap(), read);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let dense = [OLD[0], OLD[1], ("2_Dense", "sentence_transformers.models.Dense")];
        let mean = json!({"pooling_mode_mean_tokens": true});
        let refused = |modules: Value, pooling: Value, rest: Value| {
            let made =
                folder(&[(MODULES, modules), ("1_Pooling/config.json", pooling), (SENTENCE_CONFIG, rest)]);
            SentenceModel::read(made.path()).unwrap_err().to_string()
        };
        assert!(refused(modules(&dense), mean.clone(), json!({})).contains("Dense"));
        let other = json!({"pooling_mode_of_tomorrow": true});
        assert!(refused(modules(&OLD), other, json!({})).contains("pooling_mode_of_tomorrow"));
        let prompted = json!({"prompts": {"query": "query: "}, "default_prompt_name": "query"});
        let outside = json!({"pooling_mode_mean_tokens": true, "include_prompt": false});
        assert!(refused(modules(&OLD), outside, prompted.clone()).contains("include_prompt"));
        let out = [OLD[0], ("../1_Pooling", "sentence_transformers.models.Pooling")];
        assert!(refused(modules(&out), mean.clone(), json!({})).contains("../1_Pooling"));
        let made =
            folder(&[(MODULES, modules(&OLD)), ("1_Pooling/config.json", mean), (SENTENCE_CONFIG, prompted)]);
        assert_eq!(SentenceModel::read(made.path()).unwrap().prompt.as_deref(), Some("query: "));
    }
}
