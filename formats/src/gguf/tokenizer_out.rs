//! The metadata of a GGUF that make its tokenizer, from `tokenizer.json`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::pre::Cut;
use super::tokenizer_in::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::writer::{Entries, Entry};
use crate::checkpoint::read_json;
use crate::problem::{Problem, ProblemKind};
use crate::tokenizer::{FILE, Tokenizer};

/// Adds the tokenizer's entries; `rows` are those of the embedding, which tokens must not exceed.
pub(super) fn put(
    dir: &Path,
    rows: u32,
    entries: &mut Entries,
    notices: &mut Vec<String>,
) -> Result<(), Problem> {
    let loaded = Tokenizer::load(dir)?;
    let whole: Value = read_json(dir, FILE, ProblemKind::Tokenizer)?;
    let model = &whole["model"];
    if model["type"].as_str().unwrap_or("BPE") != "BPE" || !model["vocab"].is_object() {
        let sort = model["type"].as_str().unwrap_or("unknown");
        return Err(wrong(format!("a tokenizer of sort {sort} cannot be written into a GGUF"))
            .hint("BPE can, byte-level or SentencePiece's"));
    }
    let pieces = !has(&whole["pre_tokenizer"], "ByteLevel") && !has(&whole["normalizer"], "ByteLevel");
    let mut tokens = Tokens::of(&whole, rows as usize, pieces)?;
    let merges = merges(model)?;
    let mut put = |name: &str, entry: Entry| entries.push((format!("tokenizer.ggml.{name}"), entry));
    if pieces {
        put("model", Entry::Text("llama".to_owned()));
        put("pre", Entry::Text("default".to_owned()));
        put("add_space_prefix", Entry::Bool(adds_space(&whole)));
        put("scores", Entry::F32s(scores(&tokens, &merges)));
    } else {
        let ignores = model["ignore_merges"].as_bool().unwrap_or(false);
        let cut = Cut::of(&whole["pre_tokenizer"], ignores).map_err(|how| {
            wrong(format!("{how}, for which a GGUF has no name that is known here"))
                .hint(format!("known are {}", Cut::known()))
        })?;
        if has_flag(&whole["pre_tokenizer"], "add_prefix_space") {
            notices.push(
                "the tokenizer puts a space before a text, which readers of the GGUF will not".to_owned(),
            );
        }
        put("model", Entry::Text("gpt2".to_owned()));
        put("pre", Entry::Text(cut.names[0].to_owned()));
    }
    if !merges.is_empty() || !pieces {
        put("merges", Entry::Texts(merges.iter().map(|(left, right)| format!("{left} {right}")).collect()));
    }
    put_special(&loaded, dir, &whole, &mut tokens, &mut put);
    put("tokens", Entry::Texts(tokens.texts));
    put("token_type", Entry::I32s(tokens.sorts.into_iter().map(|sort| sort as i32).collect()));
    if let Some(template) = template(dir)? {
        entries.push(("tokenizer.chat_template".to_owned(), Entry::Text(template)));
    }
    Ok(())
}

fn wrong(message: String) -> Problem {
    Problem::new(ProblemKind::Tokenizer, FILE, message)
}

/// Whether a step of this sort is anywhere in it.
fn has(steps: &Value, sort: &str) -> bool {
    match steps {
        Value::Object(fields) => steps["type"] == sort || fields.values().any(|field| has(field, sort)),
        Value::Array(list) => list.iter().any(|step| has(step, sort)),
        _ => false,
    }
}

fn has_flag(steps: &Value, flag: &str) -> bool {
    match steps {
        Value::Object(fields) => steps[flag] == true || fields.values().any(|field| has_flag(field, flag)),
        Value::Array(list) => list.iter().any(|step| has_flag(step, flag)),
        _ => false,
    }
}

/// Whether a text gets a space before it.
fn adds_space(whole: &Value) -> bool {
    let metaspace = &whole["pre_tokenizer"];
    let scheme = metaspace["prepend_scheme"].as_str().unwrap_or("always");
    has(&whole["normalizer"], "Prepend") || (metaspace["type"] == "Metaspace" && scheme != "never")
}

/// Tokens by number, and what they are.
struct Tokens {
    texts: Vec<String>,
    sorts: Vec<i64>,
}

impl Tokens {
    fn of(whole: &Value, rows: usize, pieces: bool) -> Result<Self, Problem> {
        let mut tokens =
            Self { texts: (0..rows).map(|id| format!("[PAD{id}]")).collect(), sorts: vec![UNUSED; rows] };
        let vocabulary = whole["model"]["vocab"].as_object().into_iter().flatten();
        for (token, id) in vocabulary {
            let is_byte = pieces && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            tokens.set(id, token, if is_byte { BYTE } else { NORMAL })?;
        }
        for added in whole["added_tokens"].as_array().into_iter().flatten() {
            let is_special = added["special"].as_bool().unwrap_or(false);
            let sort = if is_special { CONTROL } else { USER_DEFINED };
            tokens.set(&added["id"], added["content"].as_str().unwrap_or_default(), sort)?;
        }
        Ok(tokens)
    }

    fn set(&mut self, id: &Value, token: &str, sort: i64) -> Result<(), Problem> {
        let place = id.as_u64().map(|id| id as usize).filter(|id| *id < self.texts.len());
        let Some(place) = place else {
            let message = format!(
                "the token `{token}` has the number {id}, the embedding has {} rows",
                self.texts.len()
            );
            return Err(wrong(message).hint("export with the tokenizer that belongs to these weights"));
        };
        token.clone_into(&mut self.texts[place]);
        self.sorts[place] = sort;
        Ok(())
    }
}

/// The merges as pairs, in either way of writing them.
fn merges(model: &Value) -> Result<Vec<(String, String)>, Problem> {
    let list = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let pair = |merge: &Value| match merge {
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        Value::String(line) => line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        _ => None,
    };
    list.iter()
        .map(|merge| pair(merge).ok_or_else(|| wrong(format!("the merge {merge} is no pair"))))
        .collect()
}

/// A score for each token: the earlier it is merged, the higher. Those that no merge makes have the lowest.
fn scores(tokens: &Tokens, merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (left, right) in merges {
        // Several merges make the same token. Counting tokens instead keeps numbers small enough for fp32.
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    let rank = |id: usize, token: &String| match tokens.sorts[id] {
        CONTROL | UNKNOWN | BYTE => 0,
        _ => ranks.get(token).map_or(ranks.len() + id, |rank| *rank),
    };
    tokens.texts.iter().enumerate().map(|(id, token)| -(rank(id, token) as f32)).collect()
}

/// The special tokens by their roles, and whether they are put around a text.
fn put_special(
    loaded: &Tokenizer,
    dir: &Path,
    whole: &Value,
    tokens: &mut Tokens,
    put: &mut dyn FnMut(&str, Entry),
) {
    let config: Value = read_json(dir, "config.json", ProblemKind::Config).unwrap_or_default();
    let generation: Value = read_json(dir, "generation_config.json", ProblemKind::Config).unwrap_or_default();
    let usable = |id: u64| (id < tokens.texts.len() as u64).then_some(id as u32);
    let own = |name: &str, field: &str| {
        loaded
            .special_id(name)
            .and_then(|id| usable(u64::from(id)))
            .or_else(|| usable(config[field].as_u64()?))
    };
    let (first, last) = (own("bos_token", "bos_token_id"), own("eos_token", "eos_token_id"));
    let unknown = loaded.special_id("unk_token").and_then(|id| usable(u64::from(id)));
    let named = [
        ("bos_token_id", first),
        ("eos_token_id", last),
        ("unknown_token_id", unknown),
        ("padding_token_id", own("pad_token", "pad_token_id")),
        ("mask_token_id", loaded.special_id("mask_token").and_then(|id| usable(u64::from(id)))),
    ];
    for (name, id) in named {
        id.into_iter().for_each(|id| put(name, Entry::U32(id)));
    }
    // A turn may end with another token than a text; generation then ends at either.
    let ends = generation["eos_token_id"].as_array().map_or(&[][..], Vec::as_slice);
    let further = ends.iter().filter_map(Value::as_u64).filter_map(usable).filter(|id| Some(*id) != last);
    for (name, id) in ["eot_token_id", "eom_token_id"].into_iter().zip(further) {
        put(name, Entry::U32(id));
    }
    put("add_bos_token", Entry::Bool(first.is_some_and(|id| loaded.leading_ids().contains(&id))));
    put("add_eos_token", Entry::Bool(ends_with_token(&whole["post_processor"])));
    let is_piece = whole["model"]["byte_fallback"] == true;
    if let Some(id) = unknown.filter(|_| is_piece) {
        tokens.sorts[id as usize] = UNKNOWN;
    }
}

/// Whether a post-processor puts a token behind a single text.
fn ends_with_token(processor: &Value) -> bool {
    let steps = processor["processors"].as_array();
    processor["single"]
        .as_array()
        .and_then(|pieces| pieces.last())
        .is_some_and(|last| last["SpecialToken"].is_object())
        || steps.is_some_and(|steps| steps.iter().any(ends_with_token))
}

/// The chat template in the form that its folder has it.
fn template(dir: &Path) -> Result<Option<String>, Problem> {
    const TEMPLATE: &str = "chat_template.jinja";
    if dir.join(TEMPLATE).is_file() {
        let text = crate::checkpoint::read_text(dir, TEMPLATE, ProblemKind::ChatTemplate)?;
        return String::from_utf8(text).map(Some).map_err(|error| {
            let message = format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to());
            Problem::new(ProblemKind::ChatTemplate, TEMPLATE, message).hint("save the template as UTF-8")
        });
    }
    let config: Value = match dir.join("tokenizer_config.json").is_file() {
        true => read_json(dir, "tokenizer_config.json", ProblemKind::Tokenizer)?,
        false => return Ok(None),
    };
    let template = &config["chat_template"];
    let named = |list: &Value| {
        let list = list.as_array()?;
        list.iter().find(|one| one["name"] == "default")?["template"].as_str().map(str::to_owned)
    };
    Ok(template.as_str().map(str::to_owned).or_else(|| named(template)))
}
