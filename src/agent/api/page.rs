//! Pages of lists. Each list of the API takes `after` and `limit`, and returns `cursor`: `after` of the next page. An empty page
//! is the last one.

use std::str::FromStr;

use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;

/// Which page of a list to return.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// The cursor of the page before; without it, the first page.
    #[serde(default)]
    pub after: String,
    /// The size of the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<usize>,
}

/// The largest page, and the page without `limit`.
pub(super) const MAX_LIMIT: usize = 1000;
pub(super) const DEFAULT_LIMIT: usize = 100;

/// Returns the size of a page.
///
/// # Errors
/// Status 400 if the size is out of range.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, ApiError> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    match (1..=MAX_LIMIT).contains(&limit) {
        true => Ok(limit),
        false => Err(ApiError::invalid("bad-request", format!("limit is 1 to {MAX_LIMIT}"))),
    }
}

/// Reads a cursor of numbers that are joined by full stops. The empty cursor is the beginning: all numbers are 0.
///
/// # Errors
/// Status 400 if it is no such cursor.
pub(super) fn numbers<const N: usize>(cursor: &str) -> Result<[i64; N], ApiError> {
    if cursor.is_empty() {
        return Ok([0; N]);
    }
    let read: Result<Vec<i64>, _> = cursor.split('.').map(i64::from_str).collect();
    let numbers = read.ok().and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(not_a_cursor)
}

/// Returns a page of a list in the memory, after the item with the key `after`.
///
/// # Errors
/// Status 400 if the list has no such item.
pub(super) fn of_list<T>(all: Vec<T>, key: impl Fn(&T) -> &str, after: &str, limit: usize) -> Result<Vec<T>, ApiError> {
    let start = match after {
        "" => 0,
        after => 1 + all.iter().position(|item| key(item) == after).ok_or_else(not_a_cursor)?,
    };
    Ok(all.into_iter().skip(start).take(limit).collect())
}

fn not_a_cursor() -> ApiError {
    ApiError::invalid("bad-request", "after is not the `cursor` of a page of this list: start from the beginning")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_strictly() {
        assert_eq!(numbers::<2>("").unwrap(), [0, 0]);
        assert_eq!(numbers::<3>("1.0.-7").unwrap(), [1, 0, -7]);
        for invalid in ["1", "1.2.3", "1.", "a.b", "1.9223372036854775808"] {
            assert!(numbers::<2>(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_list_in_memory_is_read_in_pages() {
        let page =
            |after: &str| of_list(vec!["c", "a", "d", "b", "e"], |item| item, after, 2).map(|page| page.concat());
        assert_eq!(["", "a", "b", "e"].map(|after| page(after).unwrap()), ["ca", "db", "e", ""]);
        assert!(page("f").is_err());
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
        assert_eq!((limit(None).unwrap(), limit(Some(1000)).unwrap()), (100, 1000));
    }
}
