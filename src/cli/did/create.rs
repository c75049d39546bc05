//! `claviger did create`: makes a DID with its keys and its document.

use clap::ValueEnum;
use serde_json::{Value, json};

use claviger::{
    did::{Document, Relationship, Service, key, peer, web},
    keys::Curve,
    secrets::{HeldKey, KeyUse},
};

use crate::cli::{
    agent_client::{AgentClient, reload_own_dids},
    arguments::routing_keys,
    config::{Config, TokenConfig},
    failure::Failure,
    key_name::{KeyName, held_key_json, key_ids},
    output::{Out, count, short},
    own_dids::OwnDids,
    runtime::block_on,
    state_dir::StateDir,
    tokens::custodian::{self, ManagementKeyArgs},
};

use super::{
    key_maker::{DidKey, KeyMaker, OtherKey, document_builder},
    other_keys::OtherKeys,
    webvh,
};

/// Makes a DID, and stores its document.
///
/// Keys that are not given are made: X25519 and Ed25519 if the token has them, else P-256 for both. A YubiKey signs
/// with P-256. A did:key is one P-256 key for both. A key that another DID of ours uses causes a warning, because
/// whoever sees both DIDs can link them.
///
/// Several machines may serve a DID, each with a token of its own (docs/scale.md): --other-agreement and
/// --other-authentication name keys in the tokens of the other machines.
///
/// The document of a did:web has the keys `key-1`, `key-2` and so on; `claviger serve` serves the document. For a
/// did:webvh one more key is made in the first token: an Ed25519 key that signs each entry of the log (`claviger did
/// update`). It is in no document, and its label is `updates HOST` if there is no --name. A token without Ed25519 makes
/// no did:webvh.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"did", "document", "keys"}, and "short" for a did:peer:4."#)]
pub struct Args {
    /// The DID method
    #[arg(long)]
    pub method: Method,
    /// The server of a did:web or did:webvh
    #[arg(long, value_name = "HOST[:PORT]", required_if_eq_any([("method", "web"), ("method", "webvh")]))]
    pub host: Option<String>,
    /// The path on the server, such as a/b
    #[arg(long, requires = "host")]
    pub path: Option<String>,
    /// The token in which keys are made or found, by its name in the configuration; may be given several times: then
    /// keys are made in each token, on curves that all of them have, and each token alone decrypts messages to the DID
    #[arg(long, value_name = "NAME")]
    pub token: Vec<String>,
    /// A key agreement key; may be given several times
    #[arg(long, value_name = "KEY")]
    pub agreement: Vec<String>,
    /// An authentication key; may be given several times
    #[arg(long, value_name = "KEY")]
    pub authentication: Vec<String>,
    #[command(flatten)]
    pub others: OtherKeys,
    /// The URI of a service endpoint: where peers send messages; may be given several times
    #[arg(long, value_name = "URI")]
    pub service: Vec<String>,
    /// A routing key: the DID, DID URL or multikey of a mediator; may be given several times, in the order in which a
    /// message passes the mediators
    #[arg(long, value_name = "KEY", requires = "service")]
    pub routing_key: Vec<String>,
    /// A label for the keys that are made
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub management: ManagementKeyArgs,
}

/// A DID method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The DID is one public key
    Key,
    /// The DID holds keys and services
    #[value(name = "peer:2")]
    Peer2,
    /// The DID holds a document, and has a short form
    #[value(name = "peer:4")]
    Peer4,
    /// A document on a web server
    Web,
    /// A document on a web server, with a signed log of its versions
    Webvh,
}

impl Method {
    /// Whether a DID of this method names a server.
    pub fn has_host(self) -> bool {
        matches!(self, Self::Web | Self::Webvh)
    }
}

/// A new DID.
pub struct CreatedDid {
    pub document: Document,
    keys: Vec<DidKey>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let made = make(args, config, out)?;
    let is_served = reload_own_dids(config, Some(made.document.id()));
    if is_served {
        warn_of_unseen_keys(&made, config, out);
    }
    print(&made, is_served, out)
}

/// Makes the DID, and stores its document.
pub fn make(args: &Args, config: &Config, out: &Out) -> Result<CreatedDid, Failure> {
    if !args.method.has_host() && args.host.is_some() {
        return Err(Failure::usage("bad-arguments", "--host is for --method web and --method webvh"));
    }
    let web = args.web_did()?;
    if args.method == Method::Key && !args.service.is_empty() {
        return Err(
            Failure::usage("bad-arguments", "a did:key has no services").hint("a did:peer:2 has: --method peer:2")
        );
    }
    let (given, others) = (args.given_keys()?, args.others.all()?);
    if args.method == Method::Key && !others.is_empty() {
        return Err(Failure::usage("bad-arguments", "a did:key is one key, in one token")
            .hint("--method peer:2 has keys in several tokens"));
    }
    let routing_keys = routing_keys(&args.routing_key)?;
    let configured = args.tokens(config)?;
    let own = OwnDids::load(config)?;
    if args.method == Method::Webvh {
        webvh::check_log_url_is_free(web.as_deref().unwrap_or_default(), &own.documents)?;
    }
    let given = block_on(resolve_names(given, &own))?;

    let management_key = args.management.read()?;
    let opened = configured.into_iter().map(|token| {
        Ok::<_, Failure>(custodian::open_or_wait(config, token)?.with_management_key(management_key.as_ref()))
    });
    let mut maker = KeyMaker::new(opened.collect::<Result<_, _>>()?, args.name.clone());
    let made = find_or_make_keys(args, &mut maker, given).and_then(|keys| {
        maker.prove(config, &keys)?;
        let services: Vec<Service> =
            args.service.iter().map(|uri| Service::didcomm(uri, routing_keys.iter().cloned())).collect();
        if args.method == Method::Webvh {
            return webvh::create(config, &mut maker, web.as_deref().unwrap_or_default(), (keys, &others), &services);
        }
        let document = document(args.method, web.as_deref(), (&keys, &others), &services)?;
        // Do not store a document that is too large to be read again.
        Document::from_value(document.as_value().clone())
            .map_err(|error| Failure::new("did-not-made", format!("the DID cannot be used: {error}")))?;
        StateDir::new(config.state_dir.clone()).add_document(&document)?;
        Ok((document, keys))
    });
    match made {
        Ok((document, keys)) => {
            warn_of_shared_keys(&keys, &own.documents, out);
            Ok(CreatedDid { document, keys })
        }
        Err(failure) => {
            maker.delete_made_keys();
            Err(failure)
        }
    }
}

/// The name of a key: parsed, and as the person typed it.
type GivenKey = (KeyName, String);

impl Args {
    /// Returns the arguments for the successor of a DID: same method, same services, and new keys in these tokens.
    pub fn for_successor(old: &Document, tokens: &[String]) -> Result<Self, Failure> {
        let method = match old.id().split(':').take(3).collect::<Vec<_>>().as_slice() {
            ["did", "peer", form] if form.starts_with('2') => Method::Peer2,
            ["did", "peer", form] if form.starts_with('4') => Method::Peer4,
            ["did", "key", _] => Method::Key,
            _ => {
                let message = format!("{}: no successor can be made for a DID of this method", short(old.id()));
                return Err(Failure::usage("bad-arguments", message).hint("make a DID, and name it with --to"));
            }
        };
        let endpoints = || old.didcomm_services().flat_map(|service| &service.endpoints);
        let routing_key = endpoints().next().map(|endpoint| endpoint.routing_keys.clone()).unwrap_or_default();
        let services = endpoints().map(|endpoint| endpoint.uri.clone()).collect();
        Ok(Self { routing_key, ..Self::with_new_keys(method, tokens, services) })
    }

    /// Returns the arguments for a DID with new keys in these tokens.
    pub fn with_new_keys(method: Method, tokens: &[String], services: Vec<String>) -> Self {
        Self {
            method,
            token: tokens.to_vec(),
            agreement: Vec::new(),
            authentication: Vec::new(),
            others: OtherKeys::default(),
            service: services,
            routing_key: Vec::new(),
            name: None,
            host: None,
            path: None,
            management: ManagementKeyArgs::default(),
        }
    }

    /// The keys that were given for key agreement and for authentication.
    fn given_keys(&self) -> Result<[Vec<GivenKey>; 2], Failure> {
        let parse = |names: &[String]| -> Result<Vec<GivenKey>, Failure> {
            names.iter().map(|text| Ok((KeyName::parse(text)?, text.clone()))).collect()
        };
        Ok([parse(&self.agreement)?, parse(&self.authentication)?])
    }

    /// The did:web for --host and --path. For a did:webvh, the caller uses only the host and path in it.
    fn web_did(&self) -> Result<Option<String>, Failure> {
        let Some(host) = &self.host else { return Ok(None) };
        let segments: Vec<&str> = self.path.iter().flat_map(|path| path.trim_matches('/').split('/')).collect();
        let did = web::did(&host.to_ascii_lowercase(), &segments);
        match web::path(&did) {
            Some(_) => Ok(Some(did)),
            None => {
                let message = format!(
                    "{did} is not a valid did:web: --host takes the name of a host, and its port if it has one"
                );
                Err(Failure::usage("bad-arguments", message).hint("--host has no scheme; --path is a path such as a/b"))
            }
        }
    }

    /// The tokens that --token names, or the only token.
    fn tokens<'a>(&self, config: &'a Config) -> Result<Vec<&'a TokenConfig>, Failure> {
        if self.method == Method::Key && self.token.len() > 1 {
            return Err(Failure::usage("bad-arguments", "a did:key is one key, in one token")
                .hint("--method peer:2 makes keys in each token"));
        }
        if self.token.is_empty() {
            return config.token(None).map(|only| vec![only]);
        }
        let mut tokens: Vec<&TokenConfig> = Vec::new();
        for name in &self.token {
            let token = config.token(Some(name))?;
            if tokens.iter().any(|known| known.name == token.name) {
                return Err(Failure::usage("bad-arguments", format!("the token {name:?} is named twice")));
            }
            tokens.push(token);
        }
        Ok(tokens)
    }
}

/// Resolves the names that are DID URLs.
async fn resolve_names(given: [Vec<GivenKey>; 2], own: &OwnDids<'_>) -> Result<[Vec<GivenKey>; 2], Failure> {
    let mut resolved = [Vec::new(), Vec::new()];
    for (names, into) in given.into_iter().zip(&mut resolved) {
        for (name, text) in names {
            // The label of an imported key may be a DID URL that does not resolve.
            into.push((name.clone().resolve(&own.resolver).await.unwrap_or(name), text));
        }
    }
    Ok(resolved)
}

/// Returns the keys of the DID: the given keys, and new keys for each relationship without a given key.
fn find_or_make_keys(args: &Args, maker: &mut KeyMaker, given: [Vec<GivenKey>; 2]) -> Result<Vec<DidKey>, Failure> {
    let inventory = match &given {
        [agreement, authentication] if agreement.is_empty() && authentication.is_empty() => Vec::new(),
        _ => maker.inventory()?,
    };
    let mut chosen: Vec<DidKey> = Vec::new();
    let needed = [(Relationship::KeyAgreement, KeyUse::Agreement), (Relationship::Authentication, KeyUse::Signing)];
    for ((relationship, usage), names) in needed.into_iter().zip(&given) {
        for (name, text) in names {
            let held = name.find(text, &inventory)?.ok_or_else(|| KeyName::unknown(text))?;
            custodian::check_fits(held, usage, text)?;
            match chosen.iter_mut().find(|chosen| chosen.held.public == held.public) {
                Some(chosen) => chosen.relationships.push(relationship),
                None => chosen.push(DidKey { held: held.clone(), relationships: vec![relationship] }),
            }
        }
    }
    if args.method == Method::Key {
        return single_key(maker, chosen);
    }
    let [agreement, authentication] = &given;
    let mut made = maker.make_missing(agreement.is_empty(), authentication.is_empty())?;
    // did:peer:2 numbers the keys in this order: keyAgreement first.
    let is_agreement = |chosen: &DidKey| chosen.relationships.contains(&Relationship::KeyAgreement);
    made.extend(chosen);
    made.sort_by_key(|chosen| !is_agreement(chosen));
    Ok(made)
}

/// Returns the one key of a did:key, with each relationship that the document gives to the key, whatever was asked for:
/// peers use all of them, and so all are proved.
fn single_key(maker: &mut KeyMaker, mut chosen: Vec<DidKey>) -> Result<Vec<DidKey>, Failure> {
    if chosen.len() > 1 {
        return Err(Failure::usage("bad-arguments", "a did:key is one key: give one, or the same for both"));
    }
    if chosen.is_empty() {
        let held = maker.make(0, Curve::P256, KeyUse::Both)?;
        chosen.push(DidKey { held, relationships: Vec::new() });
    }
    for DidKey { held, relationships } in &mut chosen {
        let document = key::create(&held.public);
        let names_key = |relationship: &Relationship| {
            document.methods(*relationship).any(|method| method.key.as_ref() == Ok(&held.public))
        };
        *relationships =
            [Relationship::KeyAgreement, Relationship::Authentication].into_iter().filter(names_key).collect();
        if relationships.len() > 1 && held.usage != KeyUse::Both {
            let message = format!(
                "the document of a did:key on {} has its key for keyAgreement and for authentication, and the key {} can \
                 be used for one of them only",
                held.public.curve(),
                held.public
            );
            return Err(Failure::usage("use-unfit", message).hint(
                "--method peer:2 makes a DID with a key for each use; `claviger key list` shows the use of each key",
            ));
        }
    }
    Ok(chosen)
}

fn document(
    method: Method,
    web: Option<&str>,
    (keys, others): (&[DidKey], &[OtherKey]),
    services: &[Service],
) -> Result<Document, Failure> {
    match method {
        Method::Key => Ok(key::create(&keys[0].held.public)),
        Method::Peer2 => {
            let each = keys.iter().flat_map(|chosen| {
                chosen.relationships.iter().map(|relationship| (*relationship, chosen.held.public.clone()))
            });
            let mut each: Vec<_> = each.chain(others.iter().cloned()).collect();
            each.sort_by_key(|(relationship, _)| *relationship != Relationship::KeyAgreement);
            Ok(peer::create_2(&each, services)?)
        }
        Method::Peer4 => Ok(peer::create_4(&document_builder(keys, others, services).input())?.long),
        Method::Web | Method::Webvh => {
            let built = document_builder(keys, others, services).build(web.unwrap_or_default());
            built.map_err(|error| Failure::new("did-not-made", format!("the DID cannot be made: {error}")))
        }
    }
}

/// Prints the DID. `is_served` says whether a running agent has it.
fn print(CreatedDid { document, keys }: &CreatedDid, is_served: bool, out: &Out) -> Result<(), Failure> {
    let kids = |chosen: &DidKey| key_ids(std::slice::from_ref(document), &chosen.held.public);
    let sole = keys.len() == 1 && document.id().starts_with("did:key:");
    if sole && keys[0].held.public.curve() == Curve::Ed25519 {
        out.warn(
            "peers derive an X25519 key from this Ed25519 key, and no token holds the derived key: this DID can sign, \
             and cannot read messages that are encrypted to it. A did:peer has a key for each use, and a did:key on \
             P-256 has one for both",
        );
    }
    if out.json {
        let keys = keys.iter().map(|chosen| {
            let mut key = held_key_json(&chosen.held);
            key["kids"] = json!(kids(chosen));
            key
        });
        let mut made = json!({
            "did": document.id(),
            "document": document.as_value(),
            "keys": Value::Array(keys.collect()),
        });
        if let Some(short) = peer::short_form(document.id()) {
            made["short"] = short.into();
        }
        return out.document(&made);
    }
    for chosen in keys {
        let HeldKey { public, token, .. } = &chosen.held;
        let uses: Vec<&str> = chosen.relationships.iter().map(|relationship| relationship.name()).collect();
        let uses = if uses.is_empty() { "updates of the DID".to_owned() } else { uses.join(" and ") };
        out.say(&format!("{:<9} {} in the token {token:?}, for {uses}", public.curve().name(), public));
    }
    let served = if is_served { "the running agent does that now" } else { "`claviger serve` does that" };
    if let Some(path) = web::path(document.id()) {
        out.say(&format!("Its document must be served at {path}: {served}. `claviger did update` changes the DID."));
    }
    if let Some(path) = claviger::did::webvh::path(document.id()) {
        out.say(&format!("Its log must be served at {path}: {served}. `claviger did update` changes the DID."));
    }
    if let Some(short) = peer::short_form(document.id()) {
        out.say(&format!("Its short form, for peers that have seen the long form: {short}"));
    }
    out.line(document.id())
}

/// How many keys of a DID of ours the running agent has not seen. `status` is its answer to `/v1/tokens/status`.
pub fn unseen_keys(document: &Document, status: &Value) -> usize {
    let missing = missing_ids(status);
    document.all_methods().iter().filter(|method| missing.contains(&method.id.as_str())).count()
}

fn missing_ids(status: &Value) -> Vec<&str> {
    status["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Warns if the running agent has not seen keys of the new DID: it was started before their token was configured. It does not see
/// those that tokens of other machines hold.
fn warn_of_unseen_keys(CreatedDid { document, keys }: &CreatedDid, config: &Config, out: &Out) {
    let status = AgentClient::new(config).and_then(|client| block_on(client.get::<Value>("/v1/tokens/status")));
    let Ok(status) = status else { return };
    let ids = keys.iter().flat_map(|key| key_ids(std::slice::from_ref(document), &key.held.public));
    let missing = ids.filter(|id| missing_ids(&status).contains(&id.as_str())).count();
    if missing > 0 {
        out.warn(&format!(
            "the running agent has not seen {} of this DID, so it cannot read messages to it: it serves the tokens that its \
             configuration named when it was started. Restart the agent",
            count(missing, "key")
        ));
    }
}

/// Warns of keys that another DID of ours uses: whoever sees both DIDs knows that they belong together.
fn warn_of_shared_keys(keys: &[DidKey], documents: &[Document], out: &Out) {
    for chosen in keys {
        let public = &chosen.held.public;
        let others = key_ids(documents, public);
        if let Some(other) = others.first() {
            out.warn(&format!("the key {public} is also {}: whoever sees both DIDs can link them", short(other)));
        }
    }
}
