//! Which names of archive entries are let in.

/// The name of an entry as a path below the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Plain components between slashes, at least one.
    pub(super) path: String,
    /// A companion that an operating system adds.
    pub(super) is_junk: bool,
}

/// Reads a name; `None` for the archive's own root (`./`).
///
/// A name that could mean a place outside is refused, not mended: what its maker meant cannot be known.
pub(super) fn read(entry: &str) -> Result<Option<Name>, &'static str> {
    if entry.is_empty() {
        return Err("has no name");
    }
    if entry.starts_with('/') {
        return Err("has an absolute path");
    }
    if entry.contains('\\') {
        return Err("has a backslash in its name");
    }
    if entry.as_bytes().get(1) == Some(&b':') && entry.as_bytes()[0].is_ascii_alphabetic() {
        return Err("begins with a drive letter");
    }
    if entry.chars().any(char::is_control) {
        return Err("has a control character in its name");
    }
    if entry.len() > 1024 {
        return Err("has a name of more than 1,024 bytes");
    }
    let parts: Vec<&str> = entry.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("points outside of the archive with `..`");
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err("has a part of more than 255 bytes in its name");
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let is_junk = parts.contains(&"__MACOSX") || parts.last().is_some_and(|part| is_companion(part));
    Ok(Some(Name { path: parts.join("/"), is_junk }))
}

fn is_companion(name: &str) -> bool {
    const COMPANIONS: [&str; 4] = [".DS_Store", "Thumbs.db", "desktop.ini", "ehthumbs.db"];
    name.starts_with("._") || COMPANIONS.iter().any(|companion| name.eq_ignore_ascii_case(companion))
}
