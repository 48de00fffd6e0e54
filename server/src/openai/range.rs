//! `Range` of a download that can be taken up again.

use std::ops::Range;

use axum::http::{HeaderMap, header};

use crate::{Error, Result};

/// The bytes asked for, of `size`: `None` for all of them.
///
/// A list of ranges is answered with everything, as the standard allows. `If-Range` with another tag as well: the content
/// has changed since, and a part of it would not fit to what the client has.
pub fn of(headers: &HeaderMap, size: u64, tag: &str) -> Result<Option<Range<u64>>> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let Some(wanted) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    if wanted.contains(',') || text(header::IF_RANGE).is_some_and(|known| known != tag) {
        return Ok(None);
    }
    match read(wanted.trim(), size) {
        Some(range) if !range.is_empty() => Ok(Some(range)),
        Some(_) => Err(Error::Range(size)),
        None => Ok(None),
    }
}

/// `a-b`, `a-` or `-n`; an empty range where it lies outside.
fn read(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        let tail: u64 = last.parse().ok()?;
        return Some(size.saturating_sub(tail)..size);
    }
    let first: u64 = first.parse().ok()?;
    let end = match last {
        "" => size,
        last => last.parse::<u64>().ok()?.checked_add(1)?.min(size),
    };
    Some(first..end.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(range: &str, if_range: Option<&str>) -> Result<Option<Range<u64>>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, tag.parse().unwrap());
        }
        of(&headers, 100, "\"tag\"")
    }

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(ask("bytes=0-9", None).unwrap(), Some(0..10));
        assert_eq!(ask("bytes=90-", None).unwrap(), Some(90..100));
        assert_eq!(ask("bytes=-5", None).unwrap(), Some(95..100));
        assert_eq!(ask("bytes=90-500", None).unwrap(), Some(90..100));
        assert_eq!(ask("bytes=-500", None).unwrap(), Some(0..100));
    }

    #[test]
    fn what_lies_outside_is_refused_and_what_makes_no_sense_passed_over() {
        assert!(matches!(ask("bytes=100-", None), Err(Error::Range(100))));
        assert!(matches!(ask("bytes=-0", None), Err(Error::Range(100))));
        assert_eq!(ask("bytes=a-b", None).unwrap(), None);
        assert_eq!(ask("rows=1-2", None).unwrap(), None);
        assert_eq!(ask("bytes=0-1,5-6", None).unwrap(), None);
    }

    #[test]
    fn a_changed_content_comes_whole() {
        assert_eq!(ask("bytes=5-", Some("\"tag\"")).unwrap(), Some(5..100));
        assert_eq!(ask("bytes=5-", Some("\"other\"")).unwrap(), None);
    }
}
