//! `claviger unpack`: unpacks a packed message.

use serde_json::{Value, json};

use claviger::{
    did::{Relationship, is_did},
    didcomm::{Error, Forward, Identities, Message, Provenance, UnpackOptions},
    jose::{Envelope, Limits},
    keys::PublicKey,
};

use super::{
    config::Config,
    failure::Failure,
    input::Input,
    message_files::{MessageFiles, PLAINTEXT_MODE},
    output::{Out, Tally, short},
    own_dids::{NeededKeys, OwnDids},
    runtime::block_on,
};

/// Unpacks the packed message in a file or on stdin, and prints the message and its provenance.
///
/// The output is {"message": ..., "provenance": ...}. Provenance says how the message was protected, what that proves,
/// and what is wrong with its attachments.
///
/// With --lines each line of the input is a packed message, and each line of the output is a result, in the same
/// order: {"message": ..., "provenance": ...} or {"error": ...}. A bad message does not stop the others; at the end the
/// exit status is 1 if a message failed, and 3 if one needed a token that was not ready.
#[derive(clap::Args)]
pub struct Args {
    /// Unpacks one message per line, and prints one result per line
    #[arg(long)]
    lines: bool,
    /// Does not unpack the message inside a forward that is addressed to us
    #[arg(long)]
    no_forward: bool,
    /// Prints the packed messages in a forward for someone else, one per line, as a mediator sends them on
    #[arg(long, conflicts_with = "lines")]
    forwarded: bool,
    /// Refuses nested envelopes that DIDComm discourages or forbids; without this they are warnings
    #[arg(long)]
    strict: bool,
    /// Asks no server for the document of a did:web or did:webvh: without this, a sender may learn that its message is
    /// unpacked
    #[arg(long)]
    offline: bool,
    /// Asks a person for the PIN or a touch of a YubiKey only for messages that claim to be from this DID, and never
    /// for an anoncrypt; may be given several times. A PKCS#11 token whose PIN a person types asks when it is opened
    #[arg(long, value_name = "DID")]
    known: Vec<String>,
    #[command(flatten)]
    files: MessageFiles,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let known = args.known_senders()?;
    let mut own = OwnDids::load_with_servers(config, args.offline)?;
    let (input, out) = args.files.open(PLAINTEXT_MODE, out)?;
    let out = &out;
    own.enter_sandbox()?;
    let mut unpacker = Unpacker {
        own: &own,
        identities: None,
        keys: Vec::new(),
        options: UnpackOptions {
            unwrap_forward: !args.no_forward,
            strict_nesting: args.strict,
            prompt_for: known,
            ..UnpackOptions::default()
        },
    };
    if args.lines {
        return block_on(unpack_lines(&mut unpacker, input, out));
    }
    let packed = input.read_message(out, "a packed message")?;
    let unpacked = block_on(unpacker.unpack(&packed))?;
    if args.forwarded {
        return print_forwarded(&unpacked.message, out);
    }
    out.document(&unpacked.to_json())
}

impl Args {
    fn known_senders(&self) -> Result<Option<Vec<String>>, Failure> {
        if let Some(text) = self.known.iter().find(|text| !is_did(text)) {
            return Err(Failure::usage("bad-did", format!("--known {text:?} is not a DID")));
        }
        Ok((!self.known.is_empty()).then(|| self.known.clone()))
    }
}

async fn unpack_lines(unpacker: &mut Unpacker<'_>, input: Input, out: &Out) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for line in input.read_lines() {
        let result = match line {
            Ok(line) => unpacker.unpack(&line).await.map(|unpacked| unpacked.to_json()),
            Err(failure) if failure.code == "io" => return Err(failure),
            Err(failure) => Err(failure),
        };
        tally.add(&result);
        out.json_line(&result.unwrap_or_else(|failure| failure.to_json()))?;
    }
    out.finish()?;
    tally.finish()
}

/// A message, and how it was protected.
struct Unpacked {
    message: Message,
    provenance: Provenance,
}

impl Unpacked {
    fn to_json(&self) -> Value {
        json!({ "message": self.message, "provenance": self.provenance })
    }
}

/// Prints the packed messages in a forward, and tells the person where the messages go next.
fn print_forwarded(message: &Message, out: &Out) -> Result<(), Failure> {
    let forward = Forward::from_message(message).ok_or_else(|| {
        Failure::new("not-a-forward", format!("the message is not a forward, but a {}", message.type_))
    })??;
    out.say(&format!("to be sent on to {}", short(&forward.next)));
    forward.forwarded.iter().try_for_each(|packed| out.line(packed))
}

/// Unpacks messages. Opens a token when the first message needs it.
struct Unpacker<'a> {
    own: &'a OwnDids<'a>,
    identities: Option<Identities>,
    /// The keys that tokens were opened for.
    keys: Vec<PublicKey>,
    options: UnpackOptions,
}

impl Unpacker<'_> {
    async fn unpack(&mut self, packed: &str) -> Result<Unpacked, Failure> {
        let needed = self.needed_keys(packed)?;
        let mut identities = self.open_identities(needed).await?;
        loop {
            match Message::unpack(packed, &self.own.resolver, &identities, &self.options).await {
                Ok((message, provenance)) => {
                    if let Some(sender) = message.from.as_deref().filter(|_| provenance.authenticated) {
                        self.own.keep_long_form(sender);
                    }
                    return Ok(Unpacked { message, provenance });
                }
                // An inner layer may need a key in another token.
                Err(Error::NotForUs(kids)) => {
                    let keys = self.own.agreement_keys(kids.iter().map(String::as_str));
                    if keys.is_empty() || keys.iter().any(|key| self.keys.contains(key)) {
                        return Err(Error::NotForUs(kids).into());
                    }
                    identities = self.open_identities(keys).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns our keys that the outermost layer needs. For a message that is not encrypted, these are the agreement
    /// keys of our DIDs in `to`. Fails for every problem that can be found without a token.
    fn needed_keys(&self, packed: &str) -> Result<Vec<PublicKey>, Failure> {
        let keys_of_recipients = |message: &Value| -> Vec<PublicKey> {
            let dids = message["to"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let named = dids.filter_map(|did| self.own.documents.iter().find(|document| document.is_about(did)));
            let methods = named.flat_map(|document| document.methods(Relationship::KeyAgreement));
            methods.filter_map(|method| method.key.clone().ok()).collect()
        };
        match Envelope::parse(packed.as_bytes(), &Limits::default())? {
            Envelope::Encrypted(jwe) => {
                let keys = self.own.agreement_keys(jwe.recipient_kids());
                if keys.is_empty() {
                    return Err(Error::NotForUs(jwe.recipient_kids().map(str::to_owned).collect()).into());
                }
                Ok(keys)
            }
            Envelope::Signed(jws) => {
                Ok(serde_json::from_slice(jws.unverified_payload()).map_or(Vec::new(), |it| keys_of_recipients(&it)))
            }
            Envelope::Plain(message) => Ok(keys_of_recipients(&Value::Object(message))),
        }
    }

    /// Returns our DIDs with open tokens. One of the tokens holds one of these keys, if any token does.
    async fn open_identities(&mut self, needed: Vec<PublicKey>) -> Result<Identities, Failure> {
        if let Some(identities) = &self.identities {
            let held = identities.secrets().keys().borrow().clone();
            if needed.iter().any(|key| held.get(key).is_some()) || needed.iter().all(|key| self.keys.contains(key)) {
                return Ok(identities.clone());
            }
        }
        // Keep the keys of earlier messages, so that messages which alternate between two tokens do not open them
        // again.
        self.keys.extend(needed);
        let needed = match self.identities {
            None => NeededKeys::Any(self.keys.clone()),
            Some(_) => NeededKeys::All(self.keys.clone()),
        };
        let identities = self.own.identities(&needed).await?;
        self.identities = Some(identities.clone());
        Ok(identities)
    }
}
