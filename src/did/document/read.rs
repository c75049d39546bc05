//! Reads documents from JSON.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    did_document::{Content, Document},
    error::DocumentError,
    id::{absolute, checked_id},
    limits::{MAX_BYTES, MAX_ENTRIES, MAX_EXPANDED_BYTES, MAX_VALUES},
    method::VerificationMethod,
    relationship::Relationship,
    service::Service,
};
use crate::json::{Duplicates, count_values, parse};

impl Document {
    /// Reads a document. Unknown members are ignored, and kept in [`as_value`](Self::as_value).
    ///
    /// A verification method with an unsupported or invalid key is kept together with the error. A reference to a
    /// method in another document is not followed.
    ///
    /// # Errors
    /// If the document is over the limits (64 KiB, 5,000 JSON values, 100 methods, 100 services), has no `id` that is a DID, has a member
    /// with the wrong type, or has two methods with one id and different keys (DID Core sections 4 and 5).
    pub fn from_value(value: Value) -> Result<Self, DocumentError> {
        read_document(value, MAX_BYTES)
    }

    /// Reads a document that is derived from its own DID. It may be longer than others: up to 2 MiB.
    pub(in crate::did) fn from_own_did(value: Value) -> Result<Self, DocumentError> {
        read_document(value, MAX_EXPANDED_BYTES)
    }

    /// Reads a document from JSON text.
    ///
    /// # Errors
    /// If the text is too long or not JSON, and those of [`from_value`](Self::from_value).
    pub fn from_json(json: &[u8]) -> Result<Self, DocumentError> {
        // The limit applies to JSON without white space. White space may make the text four times as long.
        if json.len() > 4 * MAX_BYTES {
            return Err(DocumentError::TooLong { length: json.len(), limit: 4 * MAX_BYTES });
        }
        let value = parse(json, MAX_VALUES, Duplicates::LastWins)
            .map_err(|error| DocumentError::Json { line: error.line(), column: error.column() })?;
        Self::from_value(value)
    }
}

fn read_document(value: Value, limit: usize) -> Result<Document, DocumentError> {
    let bytes = json_length(&value);
    if bytes > limit {
        return Err(DocumentError::TooLong { length: bytes, limit });
    }
    let values = count_values(&value);
    if values > MAX_VALUES {
        return Err(DocumentError::TooManyValues(MAX_VALUES));
    }
    let members = value.as_object().ok_or(DocumentError::Member { member: "content", expected: "a JSON object" })?;
    let id = checked_id(members.get("id").and_then(Value::as_str).unwrap_or_default())?.to_owned();
    let also_known_as = strings(members, "alsoKnownAs")?;
    let mut methods = Methods { did: &id, methods: Vec::new(), indices: HashMap::new() };
    for entry in array(members, "verificationMethod")? {
        methods.add(entry)?;
    }
    // Embedded methods come first, so that a reference to a method that is embedded further down is found. DID Core
    // does not allow such references, but documents have them.
    for relationship in Relationship::ALL {
        for entry in array(members, relationship.name())?.iter().filter(|entry| reference(entry).is_none()) {
            methods.add(entry)?;
        }
    }
    for entry in members.get(LEGACY_METHODS).and_then(Value::as_array).into_iter().flatten() {
        if entry.is_object() && methods.id(entry).is_some_and(|id| !methods.indices.contains_key(&id)) {
            methods.add(entry)?;
        }
    }
    let relationships = Relationship::ALL.map(|relationship| methods.in_relationship(members, relationship));
    let methods = methods.methods;
    let services = array(members, "service")?
        .iter()
        .filter_map(|entry| entry.as_object().map(|entry| Service::read(&id, entry)))
        .collect();
    let (former_ids, ttl) = (HashSet::new(), None);
    let content =
        Content { id, also_known_as, methods, relationships, services, value, bytes, values, former_ids, ttl };
    Ok(Document(Arc::new(content)))
}

/// The methods of a document, without duplicates.
struct Methods<'a> {
    did: &'a str,
    methods: Vec<VerificationMethod>,
    indices: HashMap<String, usize>,
}

impl Methods<'_> {
    /// Adds a method, unless it was added before: a document may embed the same method in several relationships.
    fn add(&mut self, entry: &Value) -> Result<(), DocumentError> {
        const MEMBER: &str = "verificationMethod";
        let members = entry.as_object().ok_or(DocumentError::Member { member: MEMBER, expected: "an object" })?;
        let id =
            self.id(entry).ok_or(DocumentError::Member { member: "verificationMethod id", expected: "a string" })?;
        let controller = ["controller", "owner"].iter().find_map(|name| members.get(*name)?.as_str()).unwrap_or("#");
        // An absent controller means the subject of the document. So does a relative one, which did:peer
        // documents have. Documents from before DID Core 1.0 have `owner`.
        let controller = if controller.starts_with('#') { self.did } else { controller }.to_owned();
        let method = VerificationMethod::new(id, controller, members);
        if let Some(index) = self.indices.get(&method.id) {
            return if self.methods[*index].key == method.key {
                Ok(())
            } else {
                Err(DocumentError::DuplicateMethod(method.id))
            };
        }
        if self.methods.len() == MAX_ENTRIES {
            return Err(DocumentError::TooMany { member: MEMBER, length: MAX_ENTRIES + 1, limit: MAX_ENTRIES });
        }
        self.indices.insert(method.id.clone(), self.methods.len());
        self.methods.push(method);
        Ok(())
    }

    /// The indices of the methods in a relationship, in order and without duplicates.
    fn in_relationship(&self, members: &Map<String, Value>, relationship: Relationship) -> Vec<usize> {
        let entries = array(members, relationship.name()).unwrap_or_default();
        let mut indices = Vec::with_capacity(entries.len());
        for index in entries.iter().filter_map(|entry| self.indices.get(&self.id(entry)?)) {
            if !indices.contains(index) {
                indices.push(*index);
            }
        }
        indices
    }

    /// The absolute id of a reference or of an embedded method.
    fn id(&self, entry: &Value) -> Option<String> {
        let id = reference(entry).or_else(|| entry.get("id")?.as_str())?;
        Some(absolute(self.did, id))
    }
}

/// The member that had the methods before DID Core 1.0 (DID Document Property Extensions, "publicKey").
const LEGACY_METHODS: &str = "publicKey";

/// The id in an entry of a relationship that refers to a method: a string, or an object from before DID Core 1.0 whose
/// `publicKey` is the id. `None` for a method.
pub(super) fn reference(entry: &Value) -> Option<&str> {
    entry.as_str().or_else(|| match entry.get(LEGACY_METHODS)? {
        Value::Array(ids) => ids.first()?.as_str(),
        id => id.as_str(),
    })
}

/// The entries of a member: none if the member is absent or `null`, and the member itself if it is an
/// object or a string.
fn array<'a>(members: &'a Map<String, Value>, member: &'static str) -> Result<&'a [Value], DocumentError> {
    let entries = match members.get(member) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(entry @ (Value::Object(_) | Value::String(_))) => std::slice::from_ref(entry),
        Some(_) => return Err(DocumentError::Member { member, expected: "an array" }),
    };
    if entries.len() > MAX_ENTRIES {
        return Err(DocumentError::TooMany { member, length: entries.len(), limit: MAX_ENTRIES });
    }
    Ok(entries)
}

fn strings(members: &Map<String, Value>, member: &'static str) -> Result<Vec<String>, DocumentError> {
    array(members, member)?
        .iter()
        .map(|entry| entry.as_str().map(str::to_owned).ok_or(DocumentError::Member { member, expected: "all strings" }))
        .collect()
}

/// The length of `value` as JSON text, in bytes. The text itself is not stored.
fn json_length(value: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX, |()| counter.0)
}
