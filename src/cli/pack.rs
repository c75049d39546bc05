//! `claviger pack`: packs a plaintext message.

use serde_json::{Value, json};

use claviger::{
    crypto::ContentEncryption,
    did::{Relationship, did_of},
    didcomm::{Identities, Message, PackEncryptedMetadata},
};

use super::{
    arguments::check_did,
    config::Config,
    failure::Failure,
    input::Input,
    message_files::{MessageFiles, PACKED_MODE},
    output::{Out, Tally, short},
    own_dids::{NeededKeys, OwnDids},
    runtime::block_on,
};

/// Packs the plaintext message in a file or on stdin, and prints the packed message.
///
/// With --to the message is encrypted: authcrypt with --from, anoncrypt without. With --sign-by it is signed first;
/// without --to it is only signed. A message without `id` gets one. If `from` is absent it is added, and in a signed
/// message `to` as well. Nothing else in the message is changed.
///
/// With --lines each line of the input is a message, and each line of the output is a result, in the same order:
/// {"packed": "..."} or {"error": ...}. A bad message does not stop the others; at the end the exit status is 1 if a
/// message failed, and 3 if one needed a token that was not ready.
#[derive(clap::Args)]
pub struct Args {
    /// The recipient: a DID, or the DID URL of one of its keys
    #[arg(long, value_name = "DID")]
    to: Option<String>,
    /// The sender, authenticated to the recipient: one of our DIDs, or the DID URL of one of its keys
    #[arg(long, value_name = "DID", requires = "to")]
    from: Option<String>,
    /// The signer, which anyone can verify: one of our DIDs, or the DID URL of one of its authentication keys
    #[arg(long, value_name = "KID")]
    sign_by: Option<String>,
    /// The content encryption of anoncrypt: A256CBC-HS512, A256GCM or XC20P; authcrypt allows A256CBC-HS512 only
    #[arg(long, value_name = "ENC", value_parser = content_encryption, requires = "to")]
    enc: Option<ContentEncryption>,
    /// Hides the sender's key from mediators: an anoncrypt layer around the authcrypt
    #[arg(long, requires = "from", conflicts_with = "sign_by")]
    protect_sender: bool,
    /// Does not wrap the message for the mediators in the recipient's document
    #[arg(long)]
    no_forward: bool,
    /// Asks no server for the document of a did:web or did:webvh
    #[arg(long)]
    offline: bool,
    /// Packs one message per line, and prints one result per line
    #[arg(long)]
    lines: bool,
    #[command(flatten)]
    files: MessageFiles,
}

fn content_encryption(name: &str) -> Result<ContentEncryption, String> {
    name.parse().map_err(|_| "use A256CBC-HS512, A256GCM or XC20P".to_owned())
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    args.check()?;
    let mut own = OwnDids::load_with_servers(config, args.offline)?;
    let (input, out) = args.files.open(PACKED_MODE, out)?;
    let out = &out;
    own.enter_sandbox()?;
    if args.lines {
        return block_on(pack_lines(args, input, &mut own, out));
    }
    let message = args.message(&input.read_message(out, "a plaintext message")?)?;
    block_on(async {
        let identities = args.identities(&mut own).await?;
        let packed = pack(args, &message, &own, &identities).await?;
        for line in packed.description() {
            out.say(&line);
        }
        out.line(&packed.text)
    })
}

async fn pack_lines(args: &Args, input: Input, own: &mut OwnDids<'_>, out: &Out) -> Result<(), Failure> {
    // Tokens are opened for the first message that can be packed.
    let mut identities = None;
    let mut tally = Tally::default();
    for line in input.read_lines() {
        let result = match line.and_then(|line| args.message(&line)) {
            Ok(message) => {
                let identities = match &mut identities {
                    Some(identities) => identities,
                    none => none.insert(args.identities(own).await?),
                };
                pack(args, &message, own, identities).await
            }
            Err(failure) if failure.code == "io" => return Err(failure),
            Err(failure) => Err(failure),
        };
        let line = result.map(|packed| json!({ "packed": packed.text }));
        tally.add(&line);
        out.json_line(&line.unwrap_or_else(|failure| failure.to_json()))?;
    }
    out.finish()?;
    tally.finish()
}

impl Args {
    /// Checks what can be checked without a message.
    fn check(&self) -> Result<(), Failure> {
        [&self.to, &self.from, &self.sign_by].into_iter().flatten().try_for_each(|did| check_did(did))?;
        if self.to.is_none() && self.sign_by.is_none() {
            return Err(Failure::usage("bad-arguments", "pack needs --to to encrypt, or --sign-by to sign, or both"));
        }
        match self.enc {
            Some(enc) if enc != ContentEncryption::A256CbcHs512 && self.from.is_some() && !self.protect_sender => {
                let message = format!(
                    "authcrypt with {enc} is not allowed: with --from, the content encryption is A256CBC-HS512"
                );
                Err(Failure::usage("combination-forbidden", message).hint("leave out --enc"))
            }
            _ => Ok(()),
        }
    }

    /// Parses the plaintext, and adds `id`, `from` and `to` where they are absent.
    fn message(&self, text: &str) -> Result<Message, Failure> {
        let mut value: Value = serde_json::from_str(text)
            .map_err(|error| Failure::new("bad-message", format!("the message is not JSON: {error}")))?;
        if let Some(members) = value.as_object_mut().filter(|members| !members.contains_key("id")) {
            members.insert("id".to_owned(), Message::new_id().into());
            return Ok(self.add_addresses(Message::from_json(&value.to_string())?));
        }
        // Parse the original text, so that the strict parser finds duplicate members.
        Ok(self.add_addresses(Message::from_json(text)?))
    }

    fn add_addresses(&self, mut message: Message) -> Message {
        let did = |name: &Option<String>| name.as_deref().and_then(did_of).map(str::to_owned);
        if message.from.is_none() {
            message.from = did(&self.from).or_else(|| did(&self.sign_by));
        }
        if message.to.is_none() && self.sign_by.is_some() {
            message.to = did(&self.to).map(|to| vec![to]);
        }
        message
    }

    /// Opens the tokens of the DIDs in the arguments, after everything that needs no token was checked.
    async fn identities(&self, own: &mut OwnDids<'_>) -> Result<Identities, Failure> {
        let mut needed = Vec::new();
        if let Some(to) = &self.to {
            own.keys(to, Relationship::KeyAgreement).await?;
        }
        for (name, relationship) in
            [(&self.from, Relationship::KeyAgreement), (&self.sign_by, Relationship::Authentication)]
        {
            if let Some(name) = name {
                own.add_resolved(name).await?;
                needed.extend(own.keys(name, relationship).await?);
            }
        }
        own.identities(&NeededKeys::All(needed)).await
    }
}

/// A packed message, and the keys and the service that were chosen for it.
struct Packed {
    text: String,
    metadata: PackEncryptedMetadata,
}

async fn pack(args: &Args, message: &Message, own: &OwnDids<'_>, identities: &Identities) -> Result<Packed, Failure> {
    let Some(to) = &args.to else {
        let signer = args.sign_by.as_deref().unwrap_or_default();
        let (text, signed) = message.pack_signed(signer, identities).await?;
        let mut packed = Packed { text, metadata: PackEncryptedMetadata::default() };
        packed.metadata.sign_by_kid = Some(signed.sign_by_kid);
        return Ok(packed);
    };
    let mut packing = message.encrypt_to(to).protect_sender(args.protect_sender).forward(!args.no_forward);
    if let Some(from) = &args.from {
        packing = packing.from(from);
    }
    if let Some(signer) = &args.sign_by {
        packing = packing.sign_by(signer);
    }
    if let Some(enc) = args.enc {
        packing = packing.enc(enc);
    }
    let (text, metadata) = packing.pack(&own.resolver, identities).await?;
    own.keep_long_form(did_of(to).unwrap_or(to));
    Ok(Packed { text, metadata })
}

impl Packed {
    /// How the message was packed, for people.
    fn description(&self) -> Vec<String> {
        let metadata = &self.metadata;
        let mut lines = Vec::new();
        if let Some(kid) = &metadata.sign_by_kid {
            lines.push(format!("signed by {}", short(kid)));
        }
        if !metadata.to_kids.is_empty() {
            let how = match &metadata.from_kid {
                Some(kid) => format!("authcrypt from {}", short(kid)),
                None => "anoncrypt".to_owned(),
            };
            let to: Vec<String> = metadata.to_kids.iter().map(|kid| short(kid)).collect();
            lines.push(format!("{how} to {}", to.join(", ")));
        }
        if let Some(service) = &metadata.messaging_service {
            lines.push(format!("to be sent to {}", service.service_endpoint));
        }
        lines
    }
}
