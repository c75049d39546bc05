//! `claviger unpack`: a packed message in, the message and its provenance out.

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
    input,
    output::{Out, Tally, short},
    own::{Own, Wanted},
    wait,
};

/// Unpacks the packed message on stdin: {"message": ..., "provenance": ...}.
#[derive(clap::Args)]
pub struct Args {
    /// One message a line, one result a line
    #[arg(long)]
    lines: bool,
    /// Leaves a forward that is addressed to ourselves unopened
    #[arg(long)]
    no_forward: bool,
    /// Of a forward for someone else prints the packed messages in it, one a line, as a mediator sends them on
    #[arg(long, conflicts_with = "lines")]
    forwarded: bool,
    /// Refuses nestings that DIDComm advises against or forbids, which are warnings otherwise
    #[arg(long)]
    strict: bool,
    /// Has a person asked for a PIN or a touch only for messages that say they are from this DID; may be given several times
    #[arg(long, value_name = "DID")]
    known: Vec<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let mut own = Own::load(config)?;
    own.close_in()?;
    let mut opener = Opener {
        own: &own,
        me: None,
        opened: Vec::new(),
        options: UnpackOptions {
            unwrap_forward: !args.no_forward,
            strict_nesting: args.strict,
            prompt_for: args.known()?,
            ..UnpackOptions::default()
        },
    };
    if args.lines {
        return wait(lines(&mut opener, out));
    }
    let packed = input::message(out, "a packed message")?;
    let opened = wait(opener.open(&packed))?;
    if args.forwarded {
        return forwarded(&opened.0, out);
    }
    out.document(&opened.to_json())
}

impl Args {
    fn known(&self) -> Result<Option<Vec<String>>, Failure> {
        if let Some(text) = self.known.iter().find(|text| !is_did(text)) {
            return Err(Failure::words("bad-did", format!("--known {text:?}: it is no DID")));
        }
        Ok((!self.known.is_empty()).then(|| self.known.clone()))
    }
}

async fn lines(opener: &mut Opener<'_>, out: &Out) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for line in input::lines() {
        let result = match line {
            Ok(line) => opener.open(&line).await.map(|opened| opened.to_json()),
            Err(failure) if failure.code == "io" => return Err(failure),
            Err(failure) => Err(failure),
        };
        tally.add(&result);
        out.json_line(&result.unwrap_or_else(|failure| failure.to_json()))?;
    }
    tally.end()
}

/// A message, and how it was protected.
struct Opened(Message, Provenance);

impl Opened {
    fn to_json(&self) -> Value {
        json!({ "message": self.0, "provenance": self.1 })
    }
}

/// What a forward carries; to whom it goes next is told to the person.
fn forwarded(message: &Message, out: &Out) -> Result<(), Failure> {
    let forward = Forward::from_message(message)
        .ok_or_else(|| Failure::new("not-a-forward", format!("the message is no forward, but {}", message.type_)))??;
    out.say(&format!("to be sent on to {}", short(&forward.next)));
    forward.forwarded.iter().try_for_each(|packed| out.line(packed))
}

/// Unpacks messages, and opens tokens when the first needs one.
struct Opener<'a> {
    own: &'a Own<'a>,
    me: Option<Identities>,
    /// The keys that tokens were opened for.
    opened: Vec<PublicKey>,
    options: UnpackOptions,
}

impl Opener<'_> {
    async fn open(&mut self, packed: &str) -> Result<Opened, Failure> {
        let wanted = self.wanted(packed)?;
        let mut me = self.identities(wanted).await?;
        loop {
            match Message::unpack(packed, &self.own.resolver, &me, &self.options).await {
                Ok((message, provenance)) => return Ok(Opened(message, provenance)),
                // An inner layer may be for a key in another token.
                Err(Error::NotForUs(kids)) => {
                    let keys = self.own.agreement_keys(kids.iter().map(String::as_str));
                    if keys.is_empty() || keys.iter().any(|key| self.opened.contains(key)) {
                        return Err(Error::NotForUs(kids).into());
                    }
                    me = self.identities(keys).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The keys of ours that the outermost layer needs; of a message that is not encrypted, those of the DIDs that it
    /// is for. All that can be wrong without a token is found here.
    fn wanted(&self, packed: &str) -> Result<Vec<PublicKey>, Failure> {
        let to = |message: &Value| -> Vec<PublicKey> {
            let dids = message["to"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let named = dids.filter_map(|did| self.own.documents.iter().find(|document| document.names(did)));
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
                Ok(serde_json::from_slice(jws.unverified_payload()).map_or(Vec::new(), |it| to(&it)))
            }
            Envelope::Plain(message) => Ok(to(&Value::Object(message))),
        }
    }

    /// Our DIDs, with one of the wanted keys if a token has one.
    async fn identities(&mut self, wanted: Vec<PublicKey>) -> Result<Identities, Failure> {
        if let Some(me) = &self.me {
            let held = me.secrets().keys().borrow().clone();
            if wanted.iter().any(|key| held.get(key).is_some()) || wanted.iter().all(|key| self.opened.contains(key)) {
                return Ok(me.clone());
            }
        }
        // Those of earlier messages as well, so that none is opened twice in turn.
        self.opened.extend(wanted);
        let wanted =
            if self.me.is_none() { Wanted::Any(self.opened.clone()) } else { Wanted::All(self.opened.clone()) };
        let me = self.own.identities(&wanted).await?;
        self.me = Some(me.clone());
        Ok(me)
    }
}
