//! Reads the headers of a message from JSON. An error names the header, what it must be, and what it is, in the words of JSON.
//!
//! `null` means that a header is absent, as peers do that write all headers which they know.

use serde_json::{Map, Value};

use super::{
    attachment::Attachment,
    message_error::MessageError,
    times::{kind, time},
};

/// The headers of a message that were not read yet. Each function reads one, and fails with
/// [`MessageError::HeaderValue`] if it has a wrong type.
pub(super) struct Headers(pub Map<String, Value>);

impl Headers {
    /// Reads a header of any type.
    pub fn any(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    pub fn string(&mut self, name: &'static str) -> Result<Option<String>, MessageError> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", kind(&other))),
        }
    }

    pub fn strings(&mut self, name: &'static str) -> Result<Option<Vec<String>>, MessageError> {
        self.array(name, "an array of strings", |item| match item {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// Reads a time, in seconds since 1970 (UTC).
    pub fn time(&mut self, name: &'static str) -> Result<Option<u64>, MessageError> {
        let Some(value) = self.any(name) else { return Ok(None) };
        time(&value).map(Some).map_err(|found| wrong(name, "a whole number of seconds since 1970", found))
    }

    pub fn attachments(&mut self) -> Result<Option<Vec<Attachment>>, MessageError> {
        self.array("attachments", "an array of objects", |item| match item {
            Value::Object(members) => Ok(Attachment::from_members(members)),
            other => Err(other),
        })
    }

    /// Reads an array. `read` returns an item of another type as it is.
    fn array<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        read: fn(Value) -> Result<T, Value>,
    ) -> Result<Option<Vec<T>>, MessageError> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let read = items.into_iter().map(|item| read(item).map_err(|item| wrong(name, expected, with(&item))));
                read.collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(wrong(name, expected, kind(&other))),
        }
    }
}

fn wrong(header: &'static str, expected: &'static str, found: &'static str) -> MessageError {
    MessageError::HeaderValue { header, expected, found }
}

/// Says of an array that it has an item of another type.
fn with(item: &Value) -> &'static str {
    match item {
        Value::Null => "an array with null",
        Value::Bool(_) => "an array with true or false",
        Value::Number(_) => "an array with a number",
        Value::String(_) => "an array with a string",
        Value::Array(_) => "an array with an array",
        Value::Object(_) => "an array with an object",
    }
}
