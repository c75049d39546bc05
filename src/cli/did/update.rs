//! `claviger did update`.

use std::time::SystemTime;

use serde_json::{Value, json};

use claviger::{
    did::{
        Document, DocumentBuilder, Relationship, Service, web,
        webvh::{NewKeys, OwnLog},
    },
    keys::{Curve, PublicKey},
    secrets::{HeldKey, Signature, ToSign},
};

use super::{create::routing_keys, webvh};
use crate::cli::{
    app,
    config::Config,
    failure::Failure,
    keys::KeyName,
    output::{Out, short},
    own::{Own, check_did},
    state::State,
    tokens, wait,
};

/// Changes the document of a did:web or did:webvh of ours.
///
/// What is given takes the place of what was there of its kind, and the rest stays. A key that is to stay is named beside the new
/// one: peers that know the former document encrypt to the former key for a while. `claviger key generate` makes keys. To the log
/// of a did:webvh an entry is added, signed in the token.
#[derive(clap::Args)]
pub struct Args {
    /// The did:web or did:webvh
    did: String,
    /// A key to encrypt to; may be given several times
    #[arg(long, value_name = "KEY")]
    agreement: Vec<String>,
    /// A key to sign with; may be given several times
    #[arg(long, value_name = "KEY")]
    authentication: Vec<String>,
    /// Where messages are to be sent; may be given several times
    #[arg(long, value_name = "URI")]
    service: Vec<String>,
    /// A mediator's key to wrap for, or its DID, the one next to the sender first; may be given several times
    #[arg(long, value_name = "KEY", requires = "service")]
    routing_key: Vec<String>,
    /// The Ed25519 key that signs the changes of a did:webvh after this one
    #[arg(long, value_name = "KEY")]
    update_key: Option<String>,
    /// The Ed25519 key that has to be the next --update-key, whoever has the present one (pre-rotation): by its multikey also one
    /// that lies in a safe. The change after this one names it with --update-key, and it signs that
    #[arg(long, value_name = "KEY")]
    next_update_key: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let state = State::new(config.state_dir.clone());
    // Two changes at once would both follow the same version, and the second hide the first.
    let _lock = state.lock()?;
    let own = Own::load(config)?;
    let log = state.logs()?.into_iter().find(|log| log.document().id() == args.did);
    let changed = match log {
        Some(log) => args.add_entry(&state, &own, config, &log)?,
        None => args.replace(&state, &own, config)?,
    };
    app::tell_of_new_did(config);
    if out.json {
        let mut told = json!({ "did": args.did, "document": changed.document.as_value() });
        if let Some(version) = changed.version {
            told["version"] = version.into();
        }
        return out.document(&told);
    }
    if let Some(version) = changed.version {
        out.say(&format!("The log has an entry more: {version}"));
    }
    out.line(&args.did)
}

/// What came of it.
struct Changed {
    document: Document,
    /// Of a did:webvh.
    version: Option<String>,
}

impl Args {
    /// A did:webvh has a signed log of its versions.
    fn add_entry(&self, state: &State, own: &Own<'_>, config: &Config, log: &OwnLog) -> Result<Changed, Failure> {
        let document = self.document(own, config, log.document(), next_number(log.states()))?;
        let update_key = self.update_key.as_deref().map(|text| update_key(own, config, text)).transpose()?;
        let next_key = self.next_update_key.as_deref().map(|text| next_key(own, config, text)).transpose()?;
        let keeps_keys = update_key.as_ref().is_none_or(|key| log.update_keys().contains(key)) && next_key.is_none();
        if document == *log.document() && keeps_keys {
            return Err(nothing());
        }
        let signers = match &update_key {
            _ if !log.is_pre_rotated() => log.update_keys(),
            Some(key) if log.has_committed_to(key) => std::slice::from_ref(key),
            _ => {
                let said = "the change before has committed to a key that has to sign this one";
                return Err(Failure::words("bad-arguments", said).hint("name it with --update-key"));
            }
        };
        let keys = NewKeys { update: update_key.as_ref(), next: next_key.as_ref() };
        let draft = log.next(&document, keys, SystemTime::now());
        let line = webvh::proved(draft, |what| sign(config, signers, what))?;
        let log = log.with(&line)?;
        state.keep_log(&log)?;
        Ok(Changed { document, version: Some(log.version().to_owned()) })
    }

    /// A did:web is what its server says now.
    fn replace(&self, state: &State, own: &Own<'_>, config: &Config) -> Result<Changed, Failure> {
        let ours = state.documents()?.into_iter().find(|old| old.id() == self.did && web::path(old.id()).is_some());
        let old = ours.ok_or_else(|| {
            Failure::new("not-ours", format!("{} is no did:web or did:webvh that was made here", short(&self.did)))
                .hint("`claviger did rotate` moves a DID of another method to a new one")
        })?;
        if self.update_key.is_some() || self.next_update_key.is_some() {
            return Err(Failure::words("bad-arguments", "no key changes a did:web: --update-key is for a did:webvh"));
        }
        let document = self.document(own, config, &old, next_number([old.as_value().clone()]))?;
        if document == old {
            return Err(nothing());
        }
        state.add_document(&document)?;
        Ok(Changed { document, version: None })
    }
}

fn nothing() -> Failure {
    Failure::words("bad-arguments", "nothing of it changes").hint("see `claviger did update --help`")
}

/// By the first of these keys that a token has.
fn sign(config: &Config, keys: &[PublicKey], what: &ToSign<'_>) -> Result<Signature, Failure> {
    let mut failed = None;
    for key in keys {
        match tokens::holding(config, &KeyName::Public(key.clone()), &key.to_multikey()) {
            Ok((token, held)) => return token.sign(config, &held.public, what),
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    Err(failed.unwrap_or_else(|| Failure::new("not-ours", "no key may change the DID any more")))
}

/// A key of the document, and where it stands there.
struct Method {
    fragment: String,
    key: PublicKey,
    relationships: Vec<Relationship>,
}

impl Args {
    /// The document from now on.
    fn document(&self, own: &Own<'_>, config: &Config, old: &Document, next: usize) -> Result<Document, Failure> {
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

    /// New keys are numbered from `next` on.
    fn methods(&self, own: &Own<'_>, config: &Config, old: &Document, mut next: usize) -> Result<Vec<Method>, Failure> {
        let mut methods: Vec<Method> = Vec::new();
        let given =
            [(Relationship::KeyAgreement, &self.agreement), (Relationship::Authentication, &self.authentication)];
        for (relationship, names) in given {
            let keys = match names.is_empty() {
                true => old.methods(relationship).filter_map(|method| method.key.clone().ok()).collect(),
                false => chosen(own, config, names, relationship)?,
            };
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

/// The first number from which on no key of these documents has one: an old signature names its key by it.
fn next_number(documents: impl IntoIterator<Item = Value>) -> usize {
    let mut used = 0;
    for document in documents {
        let methods = document["verificationMethod"].as_array().cloned().unwrap_or_default();
        let numbers = methods.iter().filter_map(|method| method["id"].as_str()?.rsplit_once("#key-")?.1.parse().ok());
        used = numbers.fold(used, usize::max);
    }
    used + 1
}

fn chosen(
    own: &Own<'_>,
    config: &Config,
    names: &[String],
    relationship: Relationship,
) -> Result<Vec<PublicKey>, Failure> {
    let held = names.iter().map(|text| {
        let held = held(own, config, text)?;
        let fits = if relationship == Relationship::KeyAgreement { held.usage.agrees() } else { held.usage.signs() };
        if !fits {
            let said = format!("the key {text} is not for {}", relationship.name());
            return Err(Failure::words("use-unfit", said).hint("`claviger key list` shows the use of each key"));
        }
        Ok(held.public)
    });
    held.collect()
}

fn update_key(own: &Own<'_>, config: &Config, text: &str) -> Result<PublicKey, Failure> {
    let held = held(own, config, text)?;
    match held.public.curve() == Curve::Ed25519 && held.usage.signs() {
        true => Ok(held.public),
        false => Err(Failure::words("use-unfit", format!("the key {text} changes no did:webvh: it is not Ed25519"))
            .hint("`claviger key generate --alg Ed25519` makes one")),
    }
}

/// Its public half is enough.
fn next_key(own: &Own<'_>, config: &Config, text: &str) -> Result<PublicKey, Failure> {
    match KeyName::parse(text)? {
        KeyName::Public(key) if key.curve() == Curve::Ed25519 => Ok(key),
        _ => update_key(own, config, text),
    }
}

fn held(own: &Own<'_>, config: &Config, text: &str) -> Result<HeldKey, Failure> {
    let name = KeyName::parse(text)?;
    // An imported key's name may be a DID URL that resolves to nothing.
    let name = wait(name.clone().resolve(own)).unwrap_or(name);
    Ok(tokens::holding(config, &name, text)?.1)
}
