//! `claviger did update`: changes the document of a did:web or did:webvh.

use std::time::SystemTime;

use serde_json::{Value, json};

use claviger::{
    did::{
        Document, DocumentBuilder, Relationship, Service, web,
        webvh::{KeyChanges, OwnLog},
    },
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, SignRequest, Signature},
};

use super::{fetch, other_keys::OtherKeys, webvh};
use crate::cli::{
    agent_client::reload_own_dids,
    arguments::{check_own_did, routing_keys},
    config::Config,
    failure::Failure,
    key_name::KeyName,
    output::{Out, short},
    own_dids::OwnDids,
    runtime::block_on,
    state_dir::StateDir,
    tokens::custodian,
};

/// Changes the document of a did:web or did:webvh of ours.
///
/// Given keys and services replace all of their kind in the document; the others stay. Keys that stay keep their IDs.
/// `claviger key generate` makes keys. Name the former agreement key beside the new one for as long as peers may know
/// the former document, which is ten minutes for other Claviger agents.
///
/// Several machines may serve a DID with a token each (docs/scale.md): name the keys of the other machines with
/// --other-agreement and --other-authentication, and copy the document to each machine.
///
/// A change of a did:webvh is a new entry of its log. A key in the token signs the entry, in the role of a custodian:
/// an agent may not sign it. The running agent serves the new document at once.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"did", "document"}, and "version" for a did:webvh."#)]
pub struct Args {
    /// The did:web or did:webvh
    did: String,
    /// A key agreement key; may be given several times
    #[arg(long, value_name = "KEY")]
    agreement: Vec<String>,
    /// An authentication key; may be given several times
    #[arg(long, value_name = "KEY")]
    authentication: Vec<String>,
    #[command(flatten)]
    others: OtherKeys,
    /// The URI of a service endpoint: where peers send messages; may be given several times
    #[arg(long, value_name = "URI")]
    service: Vec<String>,
    /// A routing key: the DID, DID URL or multikey of a mediator; may be given several times, in the order in which a
    /// message passes the mediators
    #[arg(long, value_name = "KEY", requires = "service")]
    routing_key: Vec<String>,
    /// The Ed25519 key that signs the changes of a did:webvh after this one
    #[arg(long, value_name = "KEY")]
    update_key: Option<String>,
    /// Commits to the Ed25519 key that signs the next change (pre-rotation). The next change must name this key with
    /// --update-key, so a thief of the present key can change nothing. A multikey is enough: the key itself may lie in
    /// a safe
    #[arg(long, value_name = "KEY")]
    next_update_key: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_own_did(&args.did)?;
    let state = StateDir::new(config.state_dir.clone());
    // Two changes at once would follow the same version, and the second would hide the first.
    let _lock = state.lock()?;
    let own = OwnDids::load(config)?;
    let log = state.logs()?.into_iter().find(|log| args.names(log.document().id()));
    let changed = match log {
        Some(log) => args.add_log_entry(&state, &own, config, &log)?,
        None => args.replace_document(&state, &own, config)?,
    };
    reload_own_dids(config, Some(changed.document.id()));
    if out.json {
        let mut result = json!({ "did": changed.document.id(), "document": changed.document.as_value() });
        if let Some(version) = changed.version {
            result["version"] = version.into();
        }
        return out.document(&result);
    }
    if let Some(version) = changed.version {
        out.say(&format!("The log has a new entry: {version}"));
    }
    out.line(changed.document.id())
}

/// A changed DID.
struct ChangedDid {
    document: Document,
    /// The version of the log's new entry. Only a did:webvh has one.
    version: Option<String>,
}

impl Args {
    /// Adds an entry to the log of a did:webvh.
    fn add_log_entry(
        &self,
        state: &StateDir,
        own: &OwnDids<'_>,
        config: &Config,
        log: &OwnLog,
    ) -> Result<ChangedDid, Failure> {
        fetch::check_current(config, log.document())?;
        let document = self.document(own, config, log.document(), next_number(log.states()))?;
        let update_key = self.update_key.as_deref().map(|text| update_key(own, config, text)).transpose()?;
        let next_key = self.next_update_key.as_deref().map(|text| next_key(own, config, text)).transpose()?;
        let keeps_update_keys =
            update_key.as_ref().is_none_or(|key| log.update_keys().contains(key)) && next_key.is_none();
        if document == *log.document() && keeps_update_keys {
            return Err(no_change());
        }
        let signers = match &update_key {
            _ if !log.is_pre_rotated() => log.update_keys(),
            Some(key) if log.has_committed_to(key) => std::slice::from_ref(key),
            _ => {
                let message = "the previous change committed to a key that must sign this one";
                return Err(Failure::usage("bad-arguments", message).hint("name it with --update-key"));
            }
        };
        let keys = KeyChanges { update_key: update_key.as_ref(), next_key: next_key.as_ref() };
        let draft = log.draft_next(&document, keys, SystemTime::now());
        let line = webvh::sign_entry(draft, |what| sign_with_first_held(config, signers, what))?;
        let log = log.with_entry(&line)?;
        state.add_log(&log)?;
        Ok(ChangedDid { document, version: Some(log.version().to_owned()) })
    }

    /// Whether the DID to update is this one, by its short name or as a whole.
    fn names(&self, did: &str) -> bool {
        did == self.did || short(did) == self.did
    }

    /// Replaces the document of a did:web.
    fn replace_document(&self, state: &StateDir, own: &OwnDids<'_>, config: &Config) -> Result<ChangedDid, Failure> {
        let found = state.documents()?.into_iter().find(|old| self.names(old.id()) && web::path(old.id()).is_some());
        let old = found.ok_or_else(|| {
            Failure::new("not-ours", format!("{} is not a did:web or did:webvh that claviger made", short(&self.did)))
                .hint("`claviger did rotate` rotates a DID of another method to a new one")
        })?;
        if self.update_key.is_some() || self.next_update_key.is_some() {
            return Err(Failure::usage(
                "bad-arguments",
                "a did:web has no update keys: --update-key and --next-update-key are for a did:webvh",
            ));
        }
        fetch::check_current(config, &old)?;
        let document = self.document(own, config, &old, next_number([old.as_value().clone()]))?;
        if document == old {
            return Err(no_change());
        }
        state.add_document(&document)?;
        Ok(ChangedDid { document, version: None })
    }
}

fn no_change() -> Failure {
    Failure::usage("bad-arguments", "the arguments change nothing in the document")
        .hint("see `claviger did update --help`")
}

/// Signs with the first of these keys that a token holds.
fn sign_with_first_held(config: &Config, keys: &[PublicKey], what: &SignRequest<'_>) -> Result<Signature, Failure> {
    let mut failed = None;
    for key in keys {
        match custodian::open_holder(config, &KeyName::Public(key.clone()), &key.to_multikey()) {
            Ok((token, held)) => return token.sign(config, &held.public, what),
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    Err(failed.unwrap_or_else(|| Failure::new("not-ours", "the DID is deactivated: no key may change it")))
}

/// A verification method of the new document.
struct Method {
    fragment: String,
    key: PublicKey,
    relationships: Vec<Relationship>,
}

impl Args {
    /// Builds the new document. `next` is the first free number for the IDs of new keys.
    fn document(&self, own: &OwnDids<'_>, config: &Config, old: &Document, next: usize) -> Result<Document, Failure> {
        let routing_keys = routing_keys(&self.routing_key)?;
        let services = match self.service.is_empty() {
            true => old.services().to_vec(),
            false => self.service.iter().map(|uri| Service::didcomm(uri, routing_keys.iter().cloned())).collect(),
        };
        let mut builder = Document::builder();
        for Method { fragment, key, relationships } in self.methods(own, config, old, next)? {
            builder = builder.method(&fragment, &key, &relationships);
        }
        builder = old.also_known_as().iter().fold(builder, |builder, name| builder.also_known_as(name));
        let built = services.into_iter().fold(builder, DocumentBuilder::service).build(old.id());
        built.map_err(|error| Failure::new("did-not-made", format!("the document cannot be made: {error}")))
    }

    /// The verification methods of the new document. The IDs of new keys are numbered from `next` on.
    fn methods(
        &self,
        own: &OwnDids<'_>,
        config: &Config,
        old: &Document,
        mut next: usize,
    ) -> Result<Vec<Method>, Failure> {
        let mut methods: Vec<Method> = Vec::new();
        let given =
            [(Relationship::KeyAgreement, &self.agreement), (Relationship::Authentication, &self.authentication)];
        for (relationship, names) in given {
            let mut keys: Vec<PublicKey> = match names.is_empty() {
                true => old.methods(relationship).filter_map(|method| method.key.clone().ok()).collect(),
                false => held_keys(own, config, names, relationship)?,
            };
            for other in self.others.of(relationship)? {
                if !keys.contains(&other) {
                    keys.push(other);
                }
            }
            for key in keys {
                if let Some(method) = methods.iter_mut().find(|method| method.key == key) {
                    method.relationships.push(relationship);
                    continue;
                }
                let known = old.all_methods().iter().find(|method| method.key.as_ref() == Ok(&key));
                let known = known.and_then(|method| method.id.split_once('#')).map(|(_, fragment)| fragment.to_owned());
                let fragment = known.unwrap_or_else(|| {
                    next += 1;
                    format!("key-{}", next - 1)
                });
                methods.push(Method { fragment, key, relationships: vec![relationship] });
            }
        }
        Ok(methods)
    }
}

/// The first number that no key ID in these documents uses. A number is never used again, because old signatures name
/// their keys by number.
fn next_number(documents: impl IntoIterator<Item = Value>) -> usize {
    let mut used = 0;
    for document in documents {
        let methods = document["verificationMethod"].as_array().cloned().unwrap_or_default();
        let numbers = methods.iter().filter_map(|method| method["id"].as_str()?.rsplit_once("#key-")?.1.parse().ok());
        used = numbers.fold(used, usize::max);
    }
    used + 1
}

/// Finds the named keys, and has their tokens prove that they can be used for the relationship.
fn held_keys(
    own: &OwnDids<'_>,
    config: &Config,
    names: &[String],
    relationship: Relationship,
) -> Result<Vec<PublicKey>, Failure> {
    let usage = if relationship == Relationship::KeyAgreement { KeyUse::Agreement } else { KeyUse::Signing };
    names.iter().map(|text| Ok(proved_key(own, config, text, usage)?.public)).collect()
}

fn update_key(own: &OwnDids<'_>, config: &Config, text: &str) -> Result<PublicKey, Failure> {
    let held = proved_key(own, config, text, KeyUse::Signing)?;
    match held.public.curve() == Curve::Ed25519 {
        true => Ok(held.public),
        false => Err(Failure::usage(
            "use-unfit",
            format!("the key {text} cannot sign changes of a did:webvh: it is not an Ed25519 signing key"),
        )
        .hint("`claviger key generate --alg Ed25519` makes one")),
    }
}

/// The key to commit to. Its public half is enough.
fn next_key(own: &OwnDids<'_>, config: &Config, text: &str) -> Result<PublicKey, Failure> {
    match KeyName::parse(text)? {
        KeyName::Public(key) if key.curve() == Curve::Ed25519 => Ok(key),
        _ => update_key(own, config, text),
    }
}

/// Finds a key in the tokens, and has its token prove that it can be used so.
fn proved_key(own: &OwnDids<'_>, config: &Config, text: &str, usage: KeyUse) -> Result<HeldKey, Failure> {
    let name = KeyName::parse(text)?;
    // The label of an imported key may be a DID URL that does not resolve.
    let name = block_on(name.clone().resolve(&own.resolver)).unwrap_or(name);
    custodian::prove_named(config, &name, text, usage)
}
