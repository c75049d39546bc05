//! From JSON to a [`Document`].

use std::{collections::HashMap, io};

use serde_json::{Map, Value};

use super::{Document, DocumentError, MAX_ENTRIES, Relationship, Service, VerificationMethod, absolute, checked_id};

pub(super) fn document(value: Value, limit: usize) -> Result<Document, DocumentError> {
    let bytes = length(&value);
    if bytes > limit {
        return Err(DocumentError::TooLong { length: bytes, limit });
    }
    let members = value.as_object().ok_or(DocumentError::Member { member: "whole", expected: "a JSON object" })?;
    let id = checked_id(members.get("id").and_then(Value::as_str).unwrap_or_default())?.to_owned();
    let also_known_as = strings(members, "alsoKnownAs")?;
    let mut methods = Methods { did: &id, methods: Vec::new(), places: HashMap::new() };
    for entry in array(members, "verificationMethod")? {
        methods.add(entry)?;
    }
    // Embedded methods first, so that a reference to one that is embedded further down is found: strictly DID Core has
    // no such reference, but documents do.
    for relationship in Relationship::ALL {
        for entry in array(members, relationship.name())?.iter().filter(|entry| !entry.is_string()) {
            methods.add(entry)?;
        }
    }
    let relationships = Relationship::ALL.map(|relationship| methods.in_relationship(members, relationship));
    let methods = methods.methods;
    let services = array(members, "service")?
        .iter()
        .filter_map(|entry| entry.as_object().map(|entry| Service::read(&id, entry)))
        .collect();
    Ok(Document { id, also_known_as, methods, relationships, services, value, bytes })
}

/// The methods of a document, each once.
struct Methods<'a> {
    did: &'a str,
    methods: Vec<VerificationMethod>,
    places: HashMap<String, usize>,
}

impl Methods<'_> {
    /// Adds a method, unless the same stands there already: documents embed one in several relationships.
    fn add(&mut self, entry: &Value) -> Result<(), DocumentError> {
        const MEMBER: &str = "verificationMethod";
        let members = entry.as_object().ok_or(DocumentError::Member { member: MEMBER, expected: "an object" })?;
        let id =
            self.id(entry).ok_or(DocumentError::Member { member: "verificationMethod id", expected: "a string" })?;
        let controller = members.get("controller").and_then(Value::as_str).unwrap_or("#");
        // None, or `#id` and the like, is the document's own subject (did:peer).
        let controller = if controller.starts_with('#') { self.did } else { controller }.to_owned();
        let method = VerificationMethod::new(id, controller, members);
        if let Some(place) = self.places.get(&method.id) {
            return if self.methods[*place].key == method.key {
                Ok(())
            } else {
                Err(DocumentError::DuplicateMethod(method.id))
            };
        }
        if self.methods.len() == MAX_ENTRIES {
            return Err(DocumentError::TooMany { member: MEMBER, length: MAX_ENTRIES + 1, limit: MAX_ENTRIES });
        }
        self.places.insert(method.id.clone(), self.methods.len());
        self.methods.push(method);
        Ok(())
    }

    /// The places of the methods of a relationship, each once, in order.
    fn in_relationship(&self, members: &Map<String, Value>, relationship: Relationship) -> Vec<usize> {
        let entries = array(members, relationship.name()).unwrap_or_default();
        let mut places = Vec::with_capacity(entries.len());
        for place in entries.iter().filter_map(|entry| self.places.get(&self.id(entry)?)) {
            if !places.contains(place) {
                places.push(*place);
            }
        }
        places
    }

    /// The absolute id of a reference or of an embedded method.
    fn id(&self, entry: &Value) -> Option<String> {
        let id = entry.as_str().or_else(|| entry.get("id")?.as_str())?;
        Some(absolute(self.did, id))
    }
}

/// The entries of a member; none if it is absent. One that is not in an array counts as an array of it.
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

/// The length of the JSON, written nowhere.
fn length(value: &Value) -> usize {
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
