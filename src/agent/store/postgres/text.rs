//! Texts in columns. PostgreSQL stores no NUL, and a message id or a DID that a peer chose may contain one.
//!
//! NUL is written as U+0001 U+0001, and U+0001 as U+0001 U+0002. Different texts stay different, and byte by byte they keep
//! their order; so columns of texts are `COLLATE "C"`.

use std::borrow::Cow;

use tokio_postgres::{Error, Row};

const ESCAPE: char = '\u{1}';

/// Returns a text as it is stored.
pub(super) fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().flat_map(|character| match character {
        '\0' => [Some(ESCAPE), Some('\u{1}')],
        ESCAPE => [Some(ESCAPE), Some('\u{2}')],
        other => [Some(other), None],
    });
    escaped.flatten().collect()
}

/// Returns texts as they are stored, as an array.
pub(super) fn all_stored(texts: &[String]) -> Vec<Cow<'_, str>> {
    texts.iter().map(|text| stored(text)).collect()
}

/// Returns an array of numbers as text, or `None` if there are none. `unnest` of an array of arrays would join them.
pub(super) fn array_text(numbers: &[i64]) -> Option<String> {
    let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
    (!numbers.is_empty()).then(|| format!("{{{}}}", numbers.join(",")))
}

/// Reads a text from a column.
pub(super) fn text(row: &Row, column: usize) -> Result<String, Error> {
    Ok(original(row.try_get(column)?))
}

/// Reads a text from a column that may be NULL.
pub(super) fn optional_text(row: &Row, column: usize) -> Result<Option<String>, Error> {
    Ok(row.try_get::<_, Option<&str>>(column)?.map(original))
}

fn original(stored: &str) -> String {
    if !stored.contains(ESCAPE) {
        return stored.to_owned();
    }
    let mut characters = stored.chars();
    let mut text = String::with_capacity(stored.len());
    while let Some(character) = characters.next() {
        text.push(match character {
            ESCAPE if characters.next() == Some('\u{1}') => '\0',
            other => other,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_content_and_order() {
        let mut texts = ["", "a", "a\0", "a\0b", "a\0\0", "a\u{1}", "a\u{1}\u{1}", "a\u{1}\u{2}", "a\u{2}", "ab", "é"];
        texts.sort_unstable();
        let escaped = texts.map(stored);
        assert!(escaped.is_sorted_by(|one, next| one < next), "{escaped:?}");
        for (text, stored) in texts.iter().zip(&escaped) {
            assert!(!stored.contains('\0'));
            assert_eq!(original(stored), *text);
        }
        assert!(matches!(stored("plain"), Cow::Borrowed("plain")));
    }
}
