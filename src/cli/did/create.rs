//! `claviger did create`.

use clap::ValueEnum;
use serde_json::{Value, json};

use claviger::{
    did::{Document, DocumentBuilder, Relationship, Service, did_of, key, peer, web},
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse},
};

use crate::cli::{
    app,
    config::{Config, TokenConfig},
    failure::Failure,
    keys::{KeyName, to_json},
    output::{Out, short},
    own::Own,
    state::State,
    tokens::{self, Management},
    wait,
};

use super::{
    maker::{Chosen, Maker},
    webvh,
};

/// Makes a DID of ours and keeps its document.
///
/// The keys it is not given are made: X25519 and Ed25519 where the token can, else P-256 for both; a YubiKey signs with P-256.
/// For --method key it is one P-256 key that does both. The document of a did:web, and the log of a did:webvh, is for a server
/// to serve: `claviger serve` does. An Ed25519 key that is made for it in the first token changes a did:webvh, by `did update`.
#[derive(clap::Args)]
pub struct Args {
    /// The DID method
    #[arg(long)]
    pub method: Method,
    /// The server whose did:web or did:webvh it is
    #[arg(long, value_name = "HOST[:PORT]", required_if_eq_any([("method", "web"), ("method", "webvh")]))]
    pub host: Option<String>,
    /// The path on that server, as a/b
    #[arg(long, requires = "host")]
    pub path: Option<String>,
    /// The token in which keys are made or found, by its name in the configuration; given several times, keys are made in
    /// each, and either opens what is encrypted to the DID
    #[arg(long, value_name = "NAME")]
    pub token: Vec<String>,
    /// A key to encrypt to; may be given several times
    #[arg(long, value_name = "KEY")]
    pub agreement: Vec<String>,
    /// A key to sign with; may be given several times
    #[arg(long, value_name = "KEY")]
    pub authentication: Vec<String>,
    /// Where messages are to be sent; may be given several times
    #[arg(long, value_name = "URI")]
    pub service: Vec<String>,
    /// A mediator's key to wrap for, or its DID, the one next to the sender first; may be given several times
    #[arg(long, value_name = "KEY", requires = "service")]
    pub routing_key: Vec<String>,
    /// A name for the keys that are made
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub management: Management,
}

/// A DID method that DIDs are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// One key is the DID
    Key,
    /// Keys and services in the DID
    #[value(name = "peer:2")]
    Peer2,
    /// A document in the DID, and a short form
    #[value(name = "peer:4")]
    Peer4,
    /// A document on a web server
    Web,
    /// A document on a web server, with a signed log of its versions
    Webvh,
}

impl Method {
    /// Whether its DIDs name a server.
    pub fn has_host(self) -> bool {
        matches!(self, Self::Web | Self::Webvh)
    }
}

/// What was made.
pub struct Made {
    pub document: Document,
    keys: Vec<Chosen>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let made = make(args, config, out)?;
    app::tell_of_new_did(config);
    told(&made.document, &made.keys, out)
}

/// Makes the DID, and keeps its document.
pub fn make(args: &Args, config: &Config, out: &Out) -> Result<Made, Failure> {
    if !args.method.has_host() && args.host.is_some() {
        return Err(Failure::words("bad-arguments", "--host is for --method web and --method webvh"));
    }
    let web = args.web()?;
    if args.method == Method::Key && !args.service.is_empty() {
        return Err(Failure::words("bad-arguments", "a did:key has no services").hint("--method peer:2 has"));
    }
    let given = args.given()?;
    let routing_keys = routing_keys(&args.routing_key)?;
    let configured = args.tokens(config)?;
    let own = Own::load(config)?;
    if args.method == Method::Webvh {
        webvh::check_place(web.as_deref().unwrap_or_default(), &own.documents)?;
    }
    let given = wait(resolved(given, &own))?;

    let management_key = args.management.read()?;
    let opened = configured
        .into_iter()
        .map(|token| Ok::<_, Failure>(tokens::open_patiently(config, token)?.with(management_key.as_ref())));
    let mut maker = Maker::new(opened.collect::<Result<_, _>>()?, args.name.clone());
    let made = keys(args, &mut maker, given).and_then(|keys| {
        let services: Vec<Service> =
            args.service.iter().map(|uri| Service::didcomm(uri, routing_keys.iter().cloned())).collect();
        if args.method == Method::Webvh {
            return webvh::first(config, &mut maker, web.as_deref().unwrap_or_default(), keys, &services);
        }
        let document = document(args.method, web.as_deref(), &keys, &services)?;
        // What is too large to be read again is not kept.
        Document::from_value(document.as_value().clone())
            .map_err(|error| Failure::new("did-not-made", format!("the DID cannot be used: {error}")))?;
        State::new(config.state_dir.clone()).add_document(&document)?;
        Ok((document, keys))
    });
    match made {
        Ok((document, keys)) => {
            warn_of_shared(&keys, &own.documents, out);
            Ok(Made { document, keys })
        }
        Err(failure) => {
            maker.undo();
            Err(failure)
        }
    }
}

/// A KEY and the text it was read from.
type Given = (KeyName, String);

impl Args {
    /// For a DID that follows upon another one: of the same method, with the same services, and keys of its own.
    pub fn following(old: &Document, tokens: &[String]) -> Result<Self, Failure> {
        let method = match old.id().split(':').take(3).collect::<Vec<_>>().as_slice() {
            ["did", "peer", form] if form.starts_with('2') => Method::Peer2,
            ["did", "peer", form] if form.starts_with('4') => Method::Peer4,
            ["did", "key", _] => Method::Key,
            _ => {
                let said = format!("{}: no DID that follows upon it is made by itself", short(old.id()));
                return Err(Failure::words("bad-arguments", said).hint("make one, and name it with --to"));
            }
        };
        let endpoints = || old.didcomm_services().flat_map(|service| &service.endpoints);
        let routing_key = endpoints().next().map(|endpoint| endpoint.routing_keys.clone()).unwrap_or_default();
        let services = endpoints().map(|endpoint| endpoint.uri.clone()).collect();
        Ok(Self { routing_key, ..Self::plain(method, tokens, services) })
    }

    /// With keys of its own in these tokens.
    pub fn plain(method: Method, tokens: &[String], services: Vec<String>) -> Self {
        Self {
            method,
            token: tokens.to_vec(),
            agreement: Vec::new(),
            authentication: Vec::new(),
            service: services,
            routing_key: Vec::new(),
            name: None,
            host: None,
            path: None,
            management: Management::none(),
        }
    }

    fn given(&self) -> Result<[Vec<Given>; 2], Failure> {
        let parse = |names: &[String]| -> Result<Vec<Given>, Failure> {
            names.iter().map(|text| Ok((KeyName::parse(text)?, text.clone()))).collect()
        };
        Ok([parse(&self.agreement)?, parse(&self.authentication)?])
    }

    /// The did:web; that of a did:webvh has the same place.
    fn web(&self) -> Result<Option<String>, Failure> {
        let Some(host) = &self.host else { return Ok(None) };
        let segments: Vec<&str> = self.path.iter().flat_map(|path| path.trim_matches('/').split('/')).collect();
        let did = web::did(&host.to_ascii_lowercase(), &segments);
        match web::path(&did) {
            Some(_) => Ok(Some(did)),
            None => {
                let said = format!("{did} is no did:web: --host is a host's name, with its port if it has one");
                Err(Failure::words("bad-arguments", said).hint("without a scheme; --path is as a/b"))
            }
        }
    }

    /// The tokens, each once.
    fn tokens<'a>(&self, config: &'a Config) -> Result<Vec<&'a TokenConfig>, Failure> {
        if self.method == Method::Key && self.token.len() > 1 {
            return Err(Failure::words("bad-arguments", "a did:key is one key, in one token")
                .hint("--method peer:2 has a key in each"));
        }
        if self.token.is_empty() {
            return config.token(None).map(|only| vec![only]);
        }
        let mut tokens: Vec<&TokenConfig> = Vec::new();
        for name in &self.token {
            let token = config.token(Some(name))?;
            if tokens.iter().any(|known| known.name == token.name) {
                return Err(Failure::words("bad-arguments", format!("the token {name:?} is named twice")));
            }
            tokens.push(token);
        }
        Ok(tokens)
    }
}

/// Routing keys as a document names them: DIDs and DID URLs; a multikey is its did:key's.
pub fn routing_keys(names: &[String]) -> Result<Vec<String>, Failure> {
    let named = names.iter().map(|text| {
        if did_of(text).is_some() {
            return Ok(text.clone());
        }
        match PublicKey::from_multikey(text) {
            Ok(_) => Ok(format!("did:key:{text}#{text}")),
            Err(_) => Err(Failure::words("bad-key-name", format!("{text:?} is no mediator's key"))
                .hint("a routing key is a DID, a DID URL or a multikey")),
        }
    });
    named.collect()
}

async fn resolved(given: [Vec<Given>; 2], own: &Own<'_>) -> Result<[Vec<Given>; 2], Failure> {
    let mut resolved = [Vec::new(), Vec::new()];
    for (names, into) in given.into_iter().zip(&mut resolved) {
        for (name, text) in names {
            // An imported key's name may be a DID URL that resolves to nothing.
            into.push((name.clone().resolve(own).await.unwrap_or(name), text));
        }
    }
    Ok(resolved)
}

/// The keys of the DID: those given, and those made because none was.
fn keys(args: &Args, maker: &mut Maker, given: [Vec<Given>; 2]) -> Result<Vec<Chosen>, Failure> {
    let inventory = match &given {
        [agreement, authentication] if agreement.is_empty() && authentication.is_empty() => Vec::new(),
        _ => maker.inventory()?,
    };
    let mut chosen: Vec<Chosen> = Vec::new();
    let needed = [(Relationship::KeyAgreement, KeyUse::Agreement), (Relationship::Authentication, KeyUse::Signing)];
    for ((relationship, usage), names) in needed.into_iter().zip(&given) {
        for (name, text) in names {
            let held = name.find(text, &inventory)?.ok_or_else(|| KeyName::unknown(text))?;
            let fits = if usage == KeyUse::Agreement { held.usage.agrees() } else { held.usage.signs() };
            if !fits {
                let said = format!("the key {text} is not for {}", relationship.name());
                return Err(Failure::words("use-unfit", said).hint("`claviger key list` shows the use of each key"));
            }
            match chosen.iter_mut().find(|chosen| chosen.held.public == held.public) {
                Some(chosen) => chosen.relationships.push(relationship),
                None => chosen.push(Chosen { held: held.clone(), relationships: vec![relationship] }),
            }
        }
    }
    if args.method == Method::Key {
        return one_key(maker, chosen);
    }
    let [agreement, authentication] = &given;
    let mut made = maker.missing(agreement.is_empty(), authentication.is_empty())?;
    // keyAgreement first, as did:peer:2 numbers them.
    let agrees = |chosen: &Chosen| chosen.relationships.contains(&Relationship::KeyAgreement);
    made.extend(chosen);
    made.sort_by_key(|chosen| !agrees(chosen));
    Ok(made)
}

/// The key of a did:key.
fn one_key(maker: &mut Maker, mut chosen: Vec<Chosen>) -> Result<Vec<Chosen>, Failure> {
    if chosen.len() > 1 {
        return Err(Failure::words("bad-arguments", "a did:key is one key: give the same one for both, or one"));
    }
    if chosen.is_empty() {
        let held = maker.make(0, Curve::P256, KeyUse::Both)?;
        chosen.push(Chosen { held, relationships: vec![Relationship::KeyAgreement, Relationship::Authentication] });
    }
    Ok(chosen)
}

fn document(method: Method, web: Option<&str>, keys: &[Chosen], services: &[Service]) -> Result<Document, Failure> {
    match method {
        Method::Key => Ok(key::create(&keys[0].held.public)),
        Method::Peer2 => {
            let each = keys.iter().flat_map(|chosen| {
                chosen.relationships.iter().map(|relationship| (*relationship, chosen.held.public.clone()))
            });
            Ok(peer::create_2(&each.collect::<Vec<_>>(), services)?)
        }
        Method::Peer4 => Ok(peer::create_4(&builder(keys, services).input())?.long),
        Method::Web | Method::Webvh => {
            let built = builder(keys, services).build(web.unwrap_or_default());
            built.map_err(|error| Failure::new("did-not-made", format!("the DID cannot be made: {error}")))
        }
    }
}

/// A document with the keys key-1, key-2 ...
pub fn builder(keys: &[Chosen], services: &[Service]) -> DocumentBuilder {
    let mut builder = Document::builder();
    for (index, chosen) in keys.iter().enumerate() {
        builder = builder.method(&format!("key-{}", index + 1), &chosen.held.public, &chosen.relationships);
    }
    services.iter().cloned().fold(builder, DocumentBuilder::service)
}

fn told(document: &Document, keys: &[Chosen], out: &Out) -> Result<(), Failure> {
    let kids = |chosen: &Chosen| crate::cli::keys::kids(std::slice::from_ref(document), &chosen.held.public);
    let sole = keys.len() == 1 && document.id().starts_with("did:key:");
    if sole && keys[0].held.public.curve() == Curve::Ed25519 {
        out.warn(
            "peers derive an X25519 key from this Ed25519 one to encrypt to, and no token holds that: this DID signs, and \
             cannot read what is encrypted to it. did:peer has a key for each, and so has a did:key on P-256",
        );
    }
    if out.json {
        let keys = keys.iter().map(|chosen| {
            let mut key = to_json(&chosen.held);
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
        let uses = if uses.is_empty() { "changes of the DID".to_owned() } else { uses.join(" and ") };
        out.say(&format!("{:<9} {} in the token {token:?}, for {uses}", public.curve().name(), public));
    }
    if let Some(path) = web::path(document.id()) {
        out.say(&format!("Its document is to be served at {path}: `claviger serve` does, once it is started again."));
    }
    if let Some(path) = claviger::did::webvh::path(document.id()) {
        out.say(&format!(
            "Its log is to be served at {path}: `claviger serve` does. `claviger did update` changes the DID."
        ));
    }
    if let Some(short) = peer::short_form(document.id()) {
        out.say(&format!("Its short form, for peers that have seen the long one: {short}"));
    }
    out.line(document.id())
}

/// Whoever sees two DIDs with one key knows that they are of one owner.
fn warn_of_shared(keys: &[Chosen], documents: &[Document], out: &Out) {
    for chosen in keys {
        let public = &chosen.held.public;
        let others = crate::cli::keys::kids(documents, public);
        if let Some(other) = others.first() {
            out.warn(&format!("the key {public} is {} as well: who sees both DIDs can link them", short(other)));
        }
    }
}
