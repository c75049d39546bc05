//! The demo of envelopes: Alice, Bob and a mediator exchange messages, which the library packs and unpacks on real
//! tokens.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use claviger::{
    did::{CachedResolver, LocalResolver, Service, local},
    didcomm::{Forward, Layer, Message, Provenance, UnpackOptions},
    keys::Curve,
    secrets::{Custody, HeldKey},
};

use super::{
    agent::{Agent, DemoToken, Operation, OperationKind},
    page::Page,
    script,
};
use crate::cli::{
    failure::Failure,
    key_name::held_key_json,
    output::{BOLD, Out, short},
};

/// Basic Message Protocol 2.0.
const BASIC_MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";

/// Shows the demo. `yubikeys` are the serial numbers of Alice's and Bob's YubiKeys. Without a YubiKey, SoftHSM is used.
pub async fn run(module: &Path, yubikeys: &[u32], out: &Out) -> Result<(), Failure> {
    let mut page = Page::new(out);
    page.title("Two agents talk, and no private key leaves its token")?;
    page.text(&format!(
        "Alice, Bob and a mediator have a token each: {} A token makes its private keys and does all the work with \
             them. This program has only the public keys, and the content key and text of the current message.",
        match yubikeys.len() {
            0 => "here SoftHSM, which is PKCS#11 in software; in production, use an HSM.",
            1 => "Alice a YubiKey, the others SoftHSM, which is PKCS#11 in software.",
            _ => "Alice and Bob a YubiKey, the mediator SoftHSM, which is PKCS#11 in software.",
        }
    ))?;
    let agents = Agents::create(module, yubikeys, &mut page).await?;
    agents.alice_to_bob(&mut page).await?;
    agents.bob_to_alice(&mut page).await?;
    agents.through_the_mediator(&mut page).await?;

    if !yubikeys.is_empty() {
        page.title("The same by hand")?;
        page.text(
            "docs/desktop.md shows how to set up two new YubiKeys for one DID; the keys made here are deleted again.",
        )?;
        return page.end("");
    }
    let script = script::envelopes(module);
    page.title("The same by hand")?;
    page.text("In a shell, in an empty folder. The tokens stay there, until you delete the folder.")?;
    page.blank()?;
    page.verbatim(&script)?;
    page.end(&script)
}

/// The participants.
struct Agents {
    alice: Agent,
    bob: Agent,
    mediator: Agent,
    resolver: CachedResolver<LocalResolver>,
}

/// A packed message, and the operations of the sender's token for it.
struct Packed {
    text: String,
    operations: Vec<Operation>,
}

impl Agents {
    async fn create(module: &Path, yubikeys: &[u32], page: &mut Page<'_>) -> Result<Self, Failure> {
        page.step(if yubikeys.is_empty() { "Three tokens, new and empty" } else { "Three tokens" })?;
        let mut tokens = Vec::new();
        for (at, name) in ["alice", "bob", "mediator"].into_iter().enumerate() {
            tokens.push(match yubikeys.get(at) {
                #[cfg(feature = "yubikey")]
                Some(serial) => DemoToken::open_yubikey(name, *serial)?,
                _ => DemoToken::new_softhsm(name, module)?,
            });
        }
        // All participants need a common curve, and every YubiKey has P-256.
        let curves = if yubikeys.is_empty() { [Curve::X25519, Curve::Ed25519] } else { [Curve::P256, Curve::P256] };
        let [alice, bob, mediator] =
            <[DemoToken; 3]>::try_from(tokens).unwrap_or_else(|_| unreachable!("there are three tokens"));

        // The mediator comes first: Bob's DID names it.
        let mediator = mediator.create_agent(curves, &[]).await?;
        let alice = alice.create_agent(curves, &[]).await?;
        let service = Service::didcomm("https://mediator.example/", [mediator.did.clone()]);
        let bob = bob.create_agent(curves, &[service]).await?;
        let agents = Self { alice, bob, mediator, resolver: local() };

        for agent in agents.all() {
            let info = &agent.info;
            page.row(&capital(agent.name), &format!("{}, serial number {}", info.model, info.serial))?;
        }
        let pins = match yubikeys.is_empty() {
            true => "are random and in no file; the tokens are deleted at the end",
            false => "SoftHSM's are random and in no file; a YubiKey keeps its own",
        };
        page.row("Their PINs", pins)?;
        page.record("tokens", agents.all().map(|agent| json!({ "name": agent.name, "token": agent.info })).collect());

        page.step("Keys, made inside the tokens, and DIDs of their public halves")?;
        for agent in agents.all() {
            let mut who = capital(agent.name);
            for key in &agent.keys {
                page.row(&std::mem::take(&mut who), &describe_key(key))?;
            }
            page.row("", &format!("{BOLD}{}{BOLD:#}", short(&agent.did)))?;
        }
        page.blank()?;
        page.row("Bob's DID says", "where to send messages for him: to the mediator, encrypted also to its key")?;
        for custody in agents.custody() {
            page.row("Custody", &format!("{custody}: {}", describe_custody(custody)))?;
        }
        page.record("agents", agents.all().map(agent_json).collect());
        Ok(agents)
    }

    fn all(&self) -> impl Iterator<Item = &Agent> {
        [&self.alice, &self.bob, &self.mediator].into_iter()
    }

    /// The custody tiers of the tokens' keys.
    fn custody(&self) -> BTreeSet<Custody> {
        self.all().flat_map(|agent| &agent.keys).filter_map(|key| key.custody).collect()
    }

    async fn alice_to_bob(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Alice to Bob directly: signed, then authcrypted")?;
        let (alice, bob) = (&self.alice, &self.bob);
        let message = basic_message("The key stays where it is.").from(&alice.did).to(&bob.did).finalize();
        let sent = self.pack(&message, alice, Some(alice), bob, true).await?;
        let (read, provenance) = self.show_direct(page, &message, &sent, alice, bob).await?;
        page.row("Bob knows", "that Alice sent the message: authcrypt proves that to him only;")?;
        page.row("", "that Alice wrote it: her signature proves that to anyone")?;
        record(page, &read, &provenance);
        Ok(())
    }

    async fn bob_to_alice(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Bob to Alice: an anoncrypted reply")?;
        let (alice, bob) = (&self.alice, &self.bob);
        let message = basic_message("Mine too.").to(&alice.did).finalize();
        let sent = self.pack(&message, bob, None, alice, true).await?;
        let (read, provenance) = self.show_direct(page, &message, &sent, bob, alice).await?;
        page.row("Alice knows", "that only she can read the message; nothing in it says who sent it")?;
        record(page, &read, &provenance);
        Ok(())
    }

    async fn through_the_mediator(&self, page: &mut Page<'_>) -> Result<(), Failure> {
        page.step("Alice to Bob through the mediator")?;
        let (alice, bob, mediator) = (&self.alice, &self.bob, &self.mediator);
        let message = basic_message("See you at eight.").from(&alice.did).to(&bob.did).finalize();
        let sent = self.pack(&message, alice, Some(alice), bob, false).await?;
        page.row("Alice writes", &quoted(&message))?;
        show_operations(page, alice, &sent.operations)?;
        page.row(
            "This program",
            "encrypts to Bob with a new content key, which the agreed key wraps; then to the mediator",
        )?;
        page.row("On the wire", &format!("anoncrypt( forward( authcrypt( message ) ) ), {}", size(&sent.text)))?;

        let (outer, outer_provenance) = self.unpack(&sent.text, mediator).await?;
        let mediator_operations = mediator.take_operations();
        show_operations(page, mediator, &mediator_operations)?;
        let forward = Forward::from_message(&outer)
            .ok_or_else(|| Failure::new("failed", "the mediator's message is not a forward"))??;
        let inner = forward.forwarded.first().ok_or_else(|| Failure::new("failed", "the forward is empty"))?;
        page.row("Mediator reads", &format!("\"Pass the enclosed on to {}\"", short(&forward.next)))?;
        page.row(
            "Mediator knows",
            "the recipient and the sender's key, but not the content (--protect-sender would hide the key too)",
        )?;
        page.row("On the wire", &format!("authcrypt( message ), {}", size(inner)))?;

        let (read, provenance) = self.unpack(inner, bob).await?;
        let bob_operations = bob.take_operations();
        show_operations(page, bob, &bob_operations)?;
        page.row("Bob reads", &quoted(&read))?;
        page.row("Bob knows", "that Alice sent the message, whichever way it took")?;
        page.record("forward", json!({ "message": outer, "provenance": outer_provenance }));
        page.record(
            "operations",
            json!([
                operations_json(alice, &sent.operations),
                operations_json(mediator, &mediator_operations),
                operations_json(bob, &bob_operations)
            ]),
        );
        record(page, &read, &provenance);
        Ok(())
    }

    /// Packs a message. `authenticated` is the sender for authcrypt; without it, anoncrypt. `direct` leaves out the
    /// mediator, and signs an authcrypted message.
    async fn pack(
        &self,
        message: &Message,
        sender: &Agent,
        authenticated: Option<&Agent>,
        recipient: &Agent,
        direct: bool,
    ) -> Result<Packed, Failure> {
        let mut packing = message.encrypt_to(&recipient.did).forward(!direct);
        if let Some(agent) = authenticated {
            packing = packing.from(&agent.did);
            if direct {
                packing = packing.sign_by(&agent.did);
            }
        }
        sender.take_operations();
        let (text, _) = packing.pack(&self.resolver, &sender.identities).await?;
        Ok(Packed { text, operations: sender.take_operations() })
    }

    async fn unpack(&self, packed: &str, reader: &Agent) -> Result<(Message, Provenance), Failure> {
        reader.take_operations();
        Ok(Message::unpack(packed, &self.resolver, &reader.identities, &UnpackOptions::default()).await?)
    }

    /// Shows how a message without a forward is packed and unpacked.
    async fn show_direct(
        &self,
        page: &mut Page<'_>,
        message: &Message,
        sent: &Packed,
        sender: &Agent,
        reader: &Agent,
    ) -> Result<(Message, Provenance), Failure> {
        page.row(&format!("{} writes", capital(sender.name)), &quoted(message))?;
        show_operations(page, sender, &sent.operations)?;
        if sent.operations.is_empty() {
            let whose = possessive(sender.name);
            page.row(&format!("{whose} token"), "does nothing: an ephemeral key for this one message is enough")?;
        }
        page.row("This program", "encrypts with a new content key, which the agreed key wraps")?;
        let (read, provenance) = self.unpack(&sent.text, reader).await?;
        page.row("On the wire", &format!("{}, {}", envelope(&provenance), size(&sent.text)))?;
        let operations = reader.take_operations();
        show_operations(page, reader, &operations)?;
        page.row(&format!("{} reads", capital(reader.name)), &quoted(&read))?;
        page.record(
            "operations",
            json!([operations_json(sender, &sent.operations), operations_json(reader, &operations)]),
        );
        Ok((read, provenance))
    }
}

fn basic_message(text: &str) -> claviger::didcomm::MessageBuilder {
    Message::build(Message::new_id(), BASIC_MESSAGE, json!({ "content": text }))
}

fn quoted(message: &Message) -> String {
    format!("\"{}\"", message.body["content"].as_str().unwrap_or_default())
}

fn size(packed: &str) -> String {
    format!("{} bytes", packed.len())
}

/// Shows the operations of an agent's token.
fn show_operations(page: &Page<'_>, agent: &Agent, operations: &[Operation]) -> Result<(), Failure> {
    for operation in operations {
        let curve = operation.key.curve();
        let text = match operation.kind {
            OperationKind::Sign => {
                let alg = curve.signature_algorithm().map_or("", |algorithm| algorithm.name());
                format!("signs it: {alg}")
            }
            OperationKind::Wrap => format!("agrees on a key with the reader's: {curve}, ECDH-1PU,"),
            OperationKind::Unwrap { authenticated: true } => {
                format!("agrees on the same key with the sender's: {curve}, ECDH-1PU,")
            }
            OperationKind::Unwrap { authenticated: false } => {
                format!("agrees on the same key with the message's: {curve}, ECDH-ES,")
            }
        };
        let custody = custody_of(agent, operation).map(|custody| format!(" custody {custody}")).unwrap_or_default();
        page.timed(&format!("{} token", possessive(agent.name)), &format!("{text}{custody}"), operation.took)?;
    }
    Ok(())
}

fn custody_of(agent: &Agent, operation: &Operation) -> Option<Custody> {
    let agrees = operation.kind != OperationKind::Sign;
    agent.identities.held_key(&operation.key).filter(|_| agrees).and_then(|held| held.custody)
}

fn operations_json(agent: &Agent, operations: &[Operation]) -> Value {
    let operations = operations.iter().map(|operation| {
        json!({
            "operation": match operation.kind {
                OperationKind::Sign => "sign",
                OperationKind::Wrap => "wrap-cek",
                OperationKind::Unwrap { .. } => "unwrap-cek",
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
    let keys: Vec<Value> = agent.keys.iter().map(held_key_json).collect();
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

fn describe_key(key: &HeldKey) -> String {
    let does = if key.usage.allows_key_agreement() { "agrees on keys" } else { "signs" };
    let custody = key.custody.map(|custody| format!(", custody {custody}")).unwrap_or_default();
    format!("{:<8} {does}{custody}", key.public.curve().name())
}

fn describe_custody(custody: Custody) -> &'static str {
    match custody {
        Custody::SharedSecretInProcess => {
            "the shared secret of a key agreement leaves the token, and is wiped after use; the private key never \
             leaves it"
        }
        Custody::KekInProcess => {
            "the private key and the shared secret of each key agreement stay in the token; only the key that wraps \
             one message's content key leaves it"
        }
        Custody::KekInToken => {
            "the private key, the shared secret and the key that wraps the content key stay in the token; only the \
             content key of one message leaves it"
        }
    }
}

fn capital(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

fn possessive(name: &str) -> String {
    format!("{}'s", capital(name))
}
