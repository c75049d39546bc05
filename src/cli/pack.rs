//! `claviger pack`: a plaintext message in, a packed one out.

use serde_json::{Value, json};

use claviger::{
    crypto::ContentEncryption,
    did::{Relationship, did_of},
    didcomm::{Identities, Message, PackEncryptedMetadata, PackEncryptedOptions},
};

use super::{
    config::Config,
    failure::Failure,
    input,
    output::{Out, Tally, short},
    own::{Own, Wanted, check_did},
    wait,
};

/// Packs the plaintext message on stdin.
///
/// With --to it is encrypted: authcrypt with --from, anoncrypt without. With --sign-by it is signed, and with --to
/// encrypted then. A message without `id` gets one; `from`, and in a signed message `to`, are filled in if they are
/// absent.
#[derive(clap::Args)]
pub struct Args {
    /// The recipient: a DID, or the DID URL of one of its keys
    #[arg(long, value_name = "DID")]
    to: Option<String>,
    /// The sender, who proves to the recipient who it is: one of our DIDs, or the DID URL of one of its keys
    #[arg(long, value_name = "DID", requires = "to")]
    from: Option<String>,
    /// Signs, which proves to anyone who said it: one of our DIDs or authentication keys
    #[arg(long, value_name = "KID")]
    sign_by: Option<String>,
    /// The content encryption of anoncrypt; authcrypt has A256CBC-HS512 only
    #[arg(long, value_name = "ENC", value_parser = enc, requires = "to")]
    enc: Option<ContentEncryption>,
    /// Hides the sender's key from those who carry the message
    #[arg(long, requires = "from", conflicts_with = "sign_by")]
    protect_sender: bool,
    /// Does not wrap for the mediators that the recipient's document names
    #[arg(long)]
    no_forward: bool,
    /// One message a line, one result a line
    #[arg(long)]
    lines: bool,
}

fn enc(name: &str) -> Result<ContentEncryption, String> {
    name.parse().map_err(|_| "it is A256CBC-HS512, A256GCM or XC20P".to_owned())
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    args.check()?;
    let mut own = Own::load(config)?;
    own.close_in()?;
    if args.lines {
        return wait(lines(args, &mut own, out));
    }
    let message = args.message(&input::message(out, "a plaintext message")?)?;
    wait(async {
        let me = args.identities(&mut own).await?;
        let packed = pack(args, &message, &own, &me).await?;
        for line in packed.told() {
            out.say(&line);
        }
        out.line(&packed.text)
    })
}

async fn lines(args: &Args, own: &mut Own<'_>, out: &Out) -> Result<(), Failure> {
    // Opened at the first message that is worth it.
    let mut me = None;
    let mut tally = Tally::default();
    for line in input::lines() {
        let result = match line.and_then(|line| args.message(&line)) {
            Ok(message) => {
                let me = match &mut me {
                    Some(me) => me,
                    none => none.insert(args.identities(own).await?),
                };
                pack(args, &message, own, me).await
            }
            Err(failure) if failure.code == "io" => return Err(failure),
            Err(failure) => Err(failure),
        };
        let line = result.map(|packed| json!({ "packed": packed.text }));
        tally.add(&line);
        out.json_line(&line.unwrap_or_else(|failure| failure.to_json()))?;
    }
    tally.end()
}

impl Args {
    /// What can be wrong before there is a message.
    fn check(&self) -> Result<(), Failure> {
        [&self.to, &self.from, &self.sign_by].into_iter().flatten().try_for_each(|did| check_did(did))?;
        if self.to.is_none() && self.sign_by.is_none() {
            return Err(Failure::words("bad-arguments", "pack wants --to to encrypt, or --sign-by to sign, or both"));
        }
        match self.enc {
            Some(enc) if enc != ContentEncryption::A256CbcHs512 && self.from.is_some() && !self.protect_sender => {
                let said = format!("authcrypt with {enc} is not allowed: with --from it is A256CBC-HS512");
                Err(Failure::words("combination-forbidden", said).hint("leave out --enc"))
            }
            _ => Ok(()),
        }
    }

    /// The plaintext, with those headers that it could not be packed without.
    fn message(&self, text: &str) -> Result<Message, Failure> {
        let mut value: Value = serde_json::from_str(text)
            .map_err(|error| Failure::new("bad-message", format!("the message is not JSON: {error}")))?;
        if let Some(members) = value.as_object_mut().filter(|members| !members.contains_key("id")) {
            members.insert("id".to_owned(), Message::new_id().into());
            return Ok(self.addressed(Message::from_json(&value.to_string())?));
        }
        // As it came: the strict parser sees a member that stands twice.
        Ok(self.addressed(Message::from_json(text)?))
    }

    fn addressed(&self, mut message: Message) -> Message {
        let did = |name: &Option<String>| name.as_deref().and_then(did_of).map(str::to_owned);
        if message.from.is_none() {
            message.from = did(&self.from).or_else(|| did(&self.sign_by));
        }
        if message.to.is_none() && self.sign_by.is_some() {
            message.to = did(&self.to).map(|to| vec![to]);
        }
        message
    }

    /// Our DIDs that the arguments name, on their tokens. All that needs no token comes first.
    async fn identities(&self, own: &mut Own<'_>) -> Result<Identities, Failure> {
        let mut wanted = Vec::new();
        if let Some(to) = &self.to {
            own.keys(to, Relationship::KeyAgreement).await?;
        }
        for (name, relationship) in
            [(&self.from, Relationship::KeyAgreement), (&self.sign_by, Relationship::Authentication)]
        {
            if let Some(name) = name {
                own.adopt(name).await?;
                wanted.extend(own.keys(name, relationship).await?);
            }
        }
        own.identities(&Wanted::All(wanted)).await
    }
}

/// A packed message and what was chosen for it.
struct Packed {
    text: String,
    chosen: PackEncryptedMetadata,
}

async fn pack(args: &Args, message: &Message, own: &Own<'_>, me: &Identities) -> Result<Packed, Failure> {
    let Some(to) = &args.to else {
        let signer = args.sign_by.as_deref().unwrap_or_default();
        let (text, chosen) = message.pack_signed(signer, me).await?;
        let mut packed = Packed { text, chosen: PackEncryptedMetadata::default() };
        packed.chosen.sign_by_kid = Some(chosen.sign_by_kid);
        return Ok(packed);
    };
    let options = PackEncryptedOptions {
        protect_sender: args.protect_sender,
        forward: !args.no_forward,
        enc: args.enc.unwrap_or(ContentEncryption::A256CbcHs512),
        ..Default::default()
    };
    let (from, sign_by) = (args.from.as_deref(), args.sign_by.as_deref());
    let (text, chosen) = message.pack_encrypted(to, from, sign_by, &own.resolver, me, &options).await?;
    Ok(Packed { text, chosen })
}

impl Packed {
    /// What was done, for people.
    fn told(&self) -> Vec<String> {
        let chosen = &self.chosen;
        let mut told = Vec::new();
        if let Some(kid) = &chosen.sign_by_kid {
            told.push(format!("signed by {}", short(kid)));
        }
        if !chosen.to_kids.is_empty() {
            let how = match &chosen.from_kid {
                Some(kid) => format!("authcrypt from {}", short(kid)),
                None => "anoncrypt".to_owned(),
            };
            let to: Vec<String> = chosen.to_kids.iter().map(|kid| short(kid)).collect();
            told.push(format!("{how} to {}", to.join(", ")));
        }
        if let Some(service) = &chosen.messaging_service {
            told.push(format!("to be sent to {}", service.service_endpoint));
        }
        told
    }
}
