//! What happens in the demo. All of it is done by the library, on real tokens: nothing here is acted.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use claviger::{
    did::{Cached, LocalResolver, Service, local},
    didcomm::{Forward, Layer, Message, PackEncryptedOptions, Provenance, UnpackOptions},
    keys::Curve,
    secrets::{Custody, HeldKey},
};

use super::{
    agent::{Agent, Kind, Operation, Seat},
    by_hand,
    page::Page,
};
use crate::cli::{
    failure::Failure,
    output::{BOLD, Out, short},
};

/// The message type of a chat (Basic Message Protocol 2.0).
const CHAT: &str = "https://didcomm.org/basicmessage/2.0/message";

pub async fn tell(module: &Path, yubikeys: &[u32], out: &Out) -> Result<(), Failure> {
    let mut page = Page::new(out);
    page.title("Two agents talk, and no private key leaves its token")?;
    page.text(&format!(
        "Alice, Bob and a mediator have a token each: {} A token makes its private keys and does all the work with \
             them. This program has the public keys and, of the message in hand, the content key and the text.",
        match yubikeys.len() {
            0 => "here SoftHSM, which is PKCS#11 in software; in earnest, an HSM.",
            1 => "Alice a YubiKey, the others SoftHSM, which is PKCS#11 in software.",
            _ => "Alice and Bob a YubiKey, the mediator SoftHSM, which is PKCS#11 in software.",
        }
    ))?;
    let cast = Cast::gather(module, yubikeys, &mut page).await?;
    cast.alice_to_bob(&mut page).await?;
    cast.bob_to_alice(&mut page).await?;
    cast.through_the_mediator(&mut page).await?;

    if !yubikeys.is_empty() {
        page.title("The same by hand")?;
        page.text("docs/yubikey.md goes from the box to a DID on two YubiKeys; the keys made here are deleted again.")?;
        return page.end("");
    }
    let script = by_hand::script(module);
    page.title("The same by hand")?;
    page.text("In a shell, in an empty folder. The tokens stay there, until you delete the folder.")?;
    page.blank()?;
    page.verbatim(&script)?;
    page.end(&script)
}

/// Who takes part.
struct Cast {
    alice: Agent,
    bob: Agent,
    mediator: Agent,
    resolver: Cached<LocalResolver>,
}

/// A message on its way: what was packed, and what the sender's token did for it.
struct Sent {
    packed: String,
    did: Vec<Operation>,
}

impl Cast {
    async fn gather(module: &Path, yubikeys: &[u32], page: &mut Page<'_>) -> Result<Self, Failure> {
        page.step(if yubikeys.is_empty() { "Three tokens, new and empty" } else { "Three tokens" })?;
        let mut seats = Vec::new();
        for (at, name) in ["alice", "bob", "mediator"].into_iter().enumerate() {
            seats.push(match yubikeys.get(at) {
                #[cfg(feature = "yubikey")]
                Some(serial) => Seat::take_yubikey(name, *serial)?,
                _ => Seat::take(name, module)?,
            });
        }
        // Every YubiKey has P-256, and who talks has a curve in common.
        let curves = if yubikeys.is_empty() { [Curve::X25519, Curve::Ed25519] } else { [Curve::P256, Curve::P256] };
        let [alice, bob, mediator] = <[Seat; 3]>::try_from(seats).unwrap_or_else(|_| unreachable!("three were taken"));

        // The mediator comes first: Bob's DID names it.
        let mediator = mediator.settle(curves, &[]).await?;
        let alice = alice.settle(curves, &[]).await?;
        let service = Service::didcomm("https://mediator.example/", [mediator.did.clone()]);
        let bob = bob.settle(curves, &[service]).await?;
        let cast = Self { alice, bob, mediator, resolver: local() };

        for agent in cast.all() {
            let info = &agent.info;
            page.row(&capital(agent.name), &format!("{}, serial number {}", info.model, info.serial))?;
        }
        let pins = match yubikeys.is_empty() {
            true => "are random and in no file; the tokens are gone when this ends",
            false => "SoftHSM's are random and in no file; a YubiKey has its own",
        };
        page.row("Their PINs", pins)?;
        page.record("tokens", cast.all().map(|agent| json!({ "name": agent.name, "token": agent.info })).collect());

        page.step("Keys, made inside the tokens, and DIDs of their public halves")?;
        for agent in cast.all() {
            let mut who = capital(agent.name);
            for key in &agent.keys {
                page.row(&std::mem::take(&mut who), &key_words(key))?;
            }
            page.row("", &format!("{BOLD}{}{BOLD:#}", short(&agent.did)))?;
        }
        page.blank()?;
        page.row("Bob's DID says", "where to leave messages for him: with the mediator, wrapped for its key as well")?;
        for custody in cast.custody() {
            page.row("Custody", &format!("{custody}: {}", custody_words(custody)))?;
        }
        page.record("agents", cast.all().map(agent_json).collect());
        Ok(cast)
    }

    fn all(&self) -> impl Iterator<Item = &Agent> {
        [&self.alice, &self.bob, &self.mediator].into_iter()
    }

    /// The tiers that the tokens reach: most often one.
    fn custody(&self) -> BTreeSet<Custody> {
        self.all().flat_map(|agent| &agent.keys).filter_map(|key| key.custody).collect()
    }

    async fn alice_to_bob(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Alice to Bob, hand to hand: signed, then authcrypted")?;
        let (alice, bob) = (&self.alice, &self.bob);
        let message = chat("The key stays where it is.").from(&alice.did).to(&bob.did).finalize();
        let sent = self.send(&message, alice, Some(alice), bob, true).await?;
        let (read, provenance) = self.tell_of(page, &message, &sent, alice, bob).await?;
        page.row("Bob knows", "that Alice sent it: authcrypt proves it to him, and to him alone;")?;
        page.row("", "that Alice wrote it: her signature proves it to anyone he shows it to")?;
        record(page, &read, &provenance);
        Ok(())
    }

    async fn bob_to_alice(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Bob to Alice: an anoncrypted reply")?;
        let (alice, bob) = (&self.alice, &self.bob);
        let message = chat("Mine too.").to(&alice.did).finalize();
        let sent = self.send(&message, bob, None, alice, true).await?;
        let (read, provenance) = self.tell_of(page, &message, &sent, bob, alice).await?;
        page.row("Alice knows", "that only she could read it; not who sent it, for nothing in it says so")?;
        record(page, &read, &provenance);
        Ok(())
    }

    async fn through_the_mediator(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Alice to Bob, who is out: forwarded by the mediator")?;
        let (alice, bob, mediator) = (&self.alice, &self.bob, &self.mediator);
        let message = chat("See you at eight.").from(&alice.did).to(&bob.did).finalize();
        let sent = self.forward(&message).await?;
        page.row("Alice writes", &quoted(&message))?;
        tell_operations(page, alice, &sent.did)?;
        page.row(
            "This program",
            "encrypts to Bob with a new content key, which the agreed key wraps; then to the mediator",
        )?;
        page.row("On the wire", &format!("anoncrypt( forward( authcrypt( message ) ) ), {}", bytes(&sent.packed)))?;

        let (outer, outer_provenance) = self.read(&sent.packed, mediator).await?;
        let opened = mediator.operations();
        tell_operations(page, mediator, &opened)?;
        let forward = Forward::from_message(&outer)
            .ok_or_else(|| Failure::new("failed", "the mediator got something else than a forward"))??;
        let inner = forward.forwarded.first().ok_or_else(|| Failure::new("failed", "the forward was empty"))?;
        page.row("Mediator reads", &format!("\"Pass the enclosed on to {}\"", short(&forward.next)))?;
        page.row("Mediator knows", "for whom it is, and which key it is from, but not what it says (--protect-sender would hide the key as well)")?;
        page.row("On the wire", &format!("authcrypt( message ), {}", bytes(inner)))?;

        let (read, provenance) = self.read(inner, bob).await?;
        let did = bob.operations();
        tell_operations(page, bob, &did)?;
        page.row("Bob reads", &quoted(&read))?;
        page.row("Bob knows", "that Alice sent it, whichever way it came")?;
        page.record("forward", json!({ "message": outer, "provenance": outer_provenance }));
        page.record(
            "operations",
            json!([operations_json(alice, &sent.did), operations_json(mediator, &opened), operations_json(bob, &did)]),
        );
        record(page, &read, &provenance);
        Ok(())
    }

    /// Packs as Alice for Bob, by way of his mediator.
    async fn forward(&self, message: &Message) -> Result<Sent, Failure> {
        self.send(message, &self.alice, Some(&self.alice), &self.bob, false).await
    }

    /// Packs; `authenticated` is who shows itself, and `direct` signs if so and passes the mediators by.
    async fn send(
        &self,
        message: &Message,
        sender: &Agent,
        authenticated: Option<&Agent>,
        recipient: &Agent,
        direct: bool,
    ) -> Result<Sent, Failure> {
        let options = PackEncryptedOptions { forward: !direct, ..Default::default() };
        let from = authenticated.map(|agent| agent.did.as_str());
        let sign_by = from.filter(|_| direct);
        sender.operations();
        let (packed, _) =
            message.pack_encrypted(&recipient.did, from, sign_by, &self.resolver, &sender.me, &options).await?;
        Ok(Sent { packed, did: sender.operations() })
    }

    async fn read(&self, packed: &str, reader: &Agent) -> Result<(Message, Provenance), Failure> {
        reader.operations();
        Ok(Message::unpack(packed, &self.resolver, &reader.me, &UnpackOptions::default()).await?)
    }

    /// The rows of a message that goes straight to its reader.
    async fn tell_of(
        &self,
        page: &mut Page<'_>,
        message: &Message,
        sent: &Sent,
        sender: &Agent,
        reader: &Agent,
    ) -> Result<(Message, Provenance), Failure> {
        page.row(&format!("{} writes", capital(sender.name)), &quoted(message))?;
        tell_operations(page, sender, &sent.did)?;
        if sent.did.is_empty() {
            let whose = possessive(sender.name);
            page.row(&format!("{whose} token"), "is not asked: a key made for this one message is enough")?;
        }
        page.row("This program", "encrypts with a new content key, which the agreed key wraps")?;
        let (read, provenance) = self.read(&sent.packed, reader).await?;
        page.row("On the wire", &format!("{}, {}", envelope(&provenance), bytes(&sent.packed)))?;
        let did = reader.operations();
        tell_operations(page, reader, &did)?;
        page.row(&format!("{} reads", capital(reader.name)), &quoted(&read))?;
        page.record("operations", json!([operations_json(sender, &sent.did), operations_json(reader, &did)]));
        Ok((read, provenance))
    }
}

fn chat(text: &str) -> claviger::didcomm::MessageBuilder {
    Message::build(Message::new_id(), CHAT, json!({ "content": text }))
}

fn quoted(message: &Message) -> String {
    format!("\"{}\"", message.body["content"].as_str().unwrap_or_default())
}

fn bytes(packed: &str) -> String {
    format!("{} bytes", packed.len())
}

/// What a token did, in words.
fn tell_operations(page: &Page<'_>, agent: &Agent, operations: &[Operation]) -> Result<(), Failure> {
    for operation in operations {
        let curve = operation.key.curve();
        let text = match operation.kind {
            Kind::Sign => {
                let alg = curve.signature_algorithm().map_or("", |algorithm| algorithm.name());
                format!("signs it: {alg}")
            }
            Kind::Wrap => format!("agrees on a key with the reader's: {curve}, ECDH-1PU,"),
            Kind::Unwrap { authenticated: true } => {
                format!("agrees on the same key with the sender's: {curve}, ECDH-1PU,")
            }
            Kind::Unwrap { authenticated: false } => {
                format!("agrees on the same key with the message's: {curve}, ECDH-ES,")
            }
        };
        let custody = custody_of(agent, operation).map(|custody| format!(" custody {custody}")).unwrap_or_default();
        page.timed(&format!("{} token", possessive(agent.name)), &format!("{text}{custody}"), operation.took)?;
    }
    Ok(())
}

fn custody_of(agent: &Agent, operation: &Operation) -> Option<Custody> {
    let agrees = operation.kind != Kind::Sign;
    agent.me.held(&operation.key).filter(|_| agrees).and_then(|held| held.custody)
}

fn operations_json(agent: &Agent, operations: &[Operation]) -> Value {
    let operations = operations.iter().map(|operation| {
        json!({
            "operation": match operation.kind {
                Kind::Sign => "sign",
                Kind::Wrap => "wrap-cek",
                Kind::Unwrap { .. } => "unwrap-cek",
            },
            "key": operation.key.to_multikey(),
            "algorithm": operation.key.curve().name(),
            "custody": custody_of(agent, operation),
            "microseconds": operation.took.as_micros() as u64,
        })
    });
    json!({ "agent": agent.name, "operations": operations.collect::<Vec<_>>() })
}

fn record(page: &mut Page<'_>, message: &Message, provenance: &Provenance) {
    page.record("message", json!(message));
    page.record("provenance", json!(provenance));
}

fn agent_json(agent: &Agent) -> Value {
    let keys: Vec<Value> = agent.keys.iter().map(crate::cli::keys::to_json).collect();
    json!({ "name": agent.name, "did": agent.did, "keys": keys })
}

/// The envelopes around a message, outermost first.
fn envelope(provenance: &Provenance) -> String {
    let mut enc = String::new();
    let names = provenance.layers.iter().map(|layer| match layer {
        Layer::Authcrypt { enc: content, .. } => {
            enc = content.to_string();
            "authcrypt"
        }
        Layer::Anoncrypt { enc: content, .. } => {
            enc = content.to_string();
            "anoncrypt"
        }
        Layer::Signed { .. } => "signed",
        _ => "forward",
    });
    let nested = names.rev().fold("message".to_owned(), |inner, name| format!("{name}( {inner} )"));
    format!("{nested}, {enc}")
}

fn key_words(key: &HeldKey) -> String {
    let does = if key.usage.agrees() { "agrees on keys" } else { "signs" };
    let custody = key.custody.map(|custody| format!(", custody {custody}")).unwrap_or_default();
    format!("{:<8} {does}{custody}", key.public.curve().name())
}

fn custody_words(custody: Custody) -> &'static str {
    match custody {
        Custody::SharedSecretInProcess => {
            "the shared secret of a key agreement comes out of the token, is used and wiped; the private key never does"
        }
        Custody::KekInProcess => {
            "the private key stays in the token, and so does the shared secret of each key agreement; what comes out is \
             the key that wraps one message's content key"
        }
        Custody::KekInToken => {
            "private key, shared secret and the key that wraps the content key all stay in the token; what comes out is \
             the content key of one message"
        }
    }
}

fn capital(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

fn possessive(name: &str) -> String {
    format!("{}'s", capital(name))
}
