//! The documents of our DIDs that the public side publishes: of did:web the document, of did:webvh the log.
//!
//! They are rendered once, when the documents of our DIDs are read. A request costs a search by its path.

use std::collections::{HashMap, HashSet};

use hyper::body::Bytes;

use crate::did::{
    Document, web,
    webvh::{self, OwnLog},
};

/// The published documents, by path.
#[derive(Debug, Default)]
pub struct PublishedDocuments {
    by_path: HashMap<String, Vec<Published>>,
    /// The names of the hosts of all published documents.
    names: HashSet<String>,
}

/// A published document, and where its DID says that it is.
#[derive(Debug)]
struct Published {
    did: String,
    host: String,
    content: PublishedContent,
}

/// The content of a published document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedContent {
    /// The media type.
    pub media_type: &'static str,
    /// The text. Cloning it copies nothing.
    pub text: Bytes,
}

impl PublishedDocuments {
    /// Renders the documents of the did:web among `documents`, and the logs.
    pub fn new<'a>(documents: impl IntoIterator<Item = &'a Document>, logs: &[OwnLog]) -> Self {
        let mut published = Self::default();
        for document in documents {
            let text = || document.as_value().to_string();
            published.add(document.id(), web::url(document.id()).ok(), "application/did+json", text);
        }
        for log in logs {
            let did = log.document().id();
            published.add(did, webvh::url(did).ok(), "text/jsonl", || log.text().to_owned());
        }
        published
    }

    /// Returns the log of a did:webvh.
    pub fn log(&self, did: &str) -> Option<String> {
        let host_and_path = webvh::url(did).ok()?;
        let (_, path) = host_and_path.strip_prefix("https://")?.split_once('/')?;
        let published = self.by_path.get(&format!("/{path}"))?.iter().find(|published| published.did == did)?;
        String::from_utf8(published.content.text.to_vec()).ok()
    }

    fn add(&mut self, did: &str, url: Option<String>, media_type: &'static str, text: impl FnOnce() -> String) {
        let Some((host, path)) = url.as_deref().and_then(|url| url.strip_prefix("https://")?.split_once('/')) else {
            return;
        };
        let content = PublishedContent { media_type, text: text().into() };
        let published = Published { did: did.to_owned(), host: without_default_port(host), content };
        self.names.insert(without_port(&published.host).to_owned());
        self.by_path.entry(format!("/{path}")).or_default().push(published);
    }

    /// Returns what is published at this path for this `Host`, if `is_own` holds for its DID.
    ///
    /// A proxy may change the host, or only its port. So a document is found by the name of its host alone if only one has
    /// the name, and by any host that is not that of another document if it is the only one at the path.
    pub fn find(&self, host: &str, path: &str, is_own: impl Fn(&str) -> bool) -> Option<PublishedContent> {
        let host = without_default_port(host);
        let name = without_port(&host);
        let own: Vec<&Published> = self.by_path.get(path)?.iter().filter(|it| is_own(&it.did)).collect();
        let mut of_name = own.iter().filter(|it| without_port(&it.host) == name);
        let found = match (own.iter().find(|it| it.host == host), of_name.next(), of_name.next(), own.as_slice()) {
            (Some(exact), ..) => Some(exact),
            (None, Some(only), None, _) => Some(only),
            (None, None, None, [only]) if !self.names.contains(name) => Some(only),
            _ => None,
        };
        found.map(|published| published.content.clone())
    }
}

/// A host in lower case, without the port of http or https.
fn without_default_port(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")) {
        Some(host) => host.to_owned(),
        None => host,
    }
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_count_if_several_documents_have_a_path() {
        let document = |did: &str| Document::from_value(json!({ "id": did })).unwrap();
        let dids = ["did:web:a.example", "did:web:b.example%3A8443", "did:web:b.example:x", "did:key:z6Mk"];
        let documents = dids.map(document);
        let published = PublishedDocuments::new(&documents, &[]);
        let find = |host: &str, path: &str| {
            let found = published.find(host, path, |did| did != "did:web:c.example")?;
            let value: serde_json::Value = serde_json::from_slice(&found.text).unwrap();
            value["id"].as_str().map(str::to_owned)
        };
        let root = "/.well-known/did.json";
        assert_eq!(find("A.example:443", root).as_deref(), Some(dids[0]));
        assert_eq!(find("b.example:8443", root).as_deref(), Some(dids[1]));
        // A proxy has changed the port, or the host.
        assert_eq!(find("b.example", root).as_deref(), Some(dids[1]));
        assert_eq!(find("127.0.0.1:8080", root), None);
        assert_eq!(find("127.0.0.1:8080", "/x/did.json").as_deref(), Some(dids[2]));
        assert_eq!(find("[::1]:8080", "/x/did.json").as_deref(), Some(dids[2]));
        // The document of another host.
        assert_eq!(find("a.example", "/x/did.json"), None);
        assert_eq!(find("a.example", "/"), None);
        // The first is not ours any more: its host does not get the document of another one.
        let only_second = |host: &str| published.find(host, root, |did| did == dids[1]).is_some();
        assert!(only_second("c.example") && only_second("b.example") && !only_second("a.example"));
    }
}
