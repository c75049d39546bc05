//! Every parser of received data, on the same bytes. No parser may panic, and what was parsed must survive writing and
//! parsing again.
#![no_main]

use std::{cell::LazyCell, str};

use claviger::{
    did::{DidUrl, Document, LocalResolver, Resolver, did_of, is_did},
    didcomm::{Forward, Message, MessageType},
    jose::{Envelope, Jwt, Limits},
    keys::PublicKey,
    secrets::{keeper::AuditVerifier, pkcs11::Uri},
};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| Builder::new_current_thread().build().unwrap());
    static RESOLVER: LazyCell<LocalResolver> = LazyCell::new(LocalResolver::new);
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Envelope::parse(bytes, &Limits::default());
    if let Ok(document) = Document::from_json(bytes) {
        let again = Document::from_value(document.as_value().clone()).expect("what was read is read again");
        assert_eq!(again, document);
    }
    let mut audit = AuditVerifier::new([]);
    bytes.split(|byte| *byte == 0).for_each(|mut file| audit.read("", &mut file).expect("bytes can be read"));
    let report = audit.finish();
    assert_eq!(report.ok, report.faults.is_empty() && report.more_faults == 0);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(message) = Message::from_json(text) {
        let _ = Forward::from_message(&message);
        let again = Message::from_json(&message.to_json()).expect("what was read is read again");
        assert_eq!((again.id, again.from, again.to), (message.id, message.from, message.to));
    }
    let _ = (Jwt::parse(text), MessageType::parse(text));
    if let Ok(key) = PublicKey::from_multikey(text) {
        assert_eq!(PublicKey::from_multikey(&key.to_multikey()), Ok(key));
    }
    if let Ok(url) = DidUrl::parse(text) {
        assert_eq!((url.as_str(), did_of(text)), (text, Some(url.did())));
        assert!(is_did(url.did()));
    }
    if let Ok(uri) = text.parse::<Uri>() {
        assert_eq!(uri.to_string().parse(), Ok(uri));
    }
    let resolved = RESOLVER.with(|resolver| RUNTIME.with(|runtime| runtime.block_on(resolver.resolve(text))));
    if let Ok(document) = resolved {
        assert_eq!(document.id(), text);
    }
});
