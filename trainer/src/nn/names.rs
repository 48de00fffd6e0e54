//! What names in a checkpoint stand for.

/// The name below the family's prefix, or the whole where it has none, where every tensor must be known.
pub(super) fn inner_name<'n>(full: &'n str, base: &str) -> Option<&'n str> {
    match base {
        "" => Some(full),
        _ => full.strip_prefix(base)?.strip_prefix('.'),
    }
}

/// Constants that old versions of transformers saved beside the weights.
pub(super) fn is_buffer(inner: &str) -> bool {
    inner.ends_with("position_ids")
        || inner.ends_with("rotary_emb.inv_freq")
        || [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"]
            .iter()
            .any(|end| inner.ends_with(end))
        || inner == "embeddings.token_type_ids"
}

/// Parts that another task, or a bare encoder, has and this one may lack.
pub(super) fn is_head(inner: &str) -> bool {
    const HEADS: [&str; 7] =
        ["pooler.", "cls.", "lm_head.", "classifier.", "vocab_", "qa_outputs.", "pre_classifier."];
    HEADS.iter().any(|start| inner.starts_with(start))
}

/// The first names of a list, and how many there are more.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Two shapes that should be one.
pub(super) fn misshaped(name: &str, found: &[i64], wanted: &[i64]) -> String {
    format!("{name} has shape {found:?}, config.json asks for {wanted:?}")
}
