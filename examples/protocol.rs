//! An agent with a protocol of its own: `https://example.org/offer/1.0`, in which one side offers a thing for a price
//! and the other accepts.
//!
//! ```sh
//! uri='pkcs11:token=...?module-path=...&pin-source=file:...'
//! cargo run --features agent --example protocol -- "$uri" DID.json store.db 127.0.0.1:8080
//! ```
//!
//! `DID.json` is the document of a DID whose keys are in the token and whose service is the URL of the address, as
//! `claviger did create` makes it. The agent runs until Ctrl-C.

use std::{error::Error, net::TcpListener, path::Path, sync::Arc};

use async_trait::async_trait;
use claviger::{
    Keyring,
    agent::{
        Agent, OwnDocuments, Server, Transports,
        protocol::{HandleError, Problem, Protocol, Received, RecordType, Transaction},
        store::{Millis, SqliteOptions, SqliteStore, Store},
    },
    did,
    net::HttpClient,
    secrets::pkcs11::{self, PinSource},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const ACCEPT: &str = "https://example.org/offer/1.0/accept";
/// How long an offer is remembered, in milliseconds: a week.
const REMEMBERED: Millis = 7 * 24 * 60 * 60 * 1000;

/// Accepts the first offer of each thread whose price is at most `max_price`. The application sees every offer, and the
/// peers' answers to its own offers.
struct OfferProtocol {
    max_price: u64,
}

/// An offer of a peer, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Offer {
    price: u64,
    is_accepted: bool,
}

impl RecordType for Offer {
    const KIND: &'static str = "org.example.offer";
}

#[async_trait]
impl Protocol for OfferProtocol {
    fn piuri(&self) -> &str {
        "https://example.org/offer/1.0"
    }

    fn roles(&self) -> &[&str] {
        &["seller", "buyer"]
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if received.is("offer") {
            self.handle_offer(received, tx).await
        } else if received.is("accept") {
            tx.deliver(); // without this, the application sees nothing
            Ok(())
        } else {
            Err(received.unknown_type().into())
        }
    }
}

impl OfferProtocol {
    async fn handle_offer(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        // Without `accepts_anonymous`, every sender is proved.
        let Some(sender) = &received.sender else { return Ok(()) };
        // The sender gets a problem report, and no effect of the transaction takes place.
        let Some(price) = received.message.body.get("price").and_then(Value::as_u64) else {
            return Err(Problem::new("e.m.msg.no-price", "An offer has a whole number as its price.").into());
        };
        let key = format!("{sender} {}", received.message.thread());
        // `get` before `put`, so that the agent handles the message again if the record changes meanwhile.
        if tx.get::<Offer>(&key).await?.is_some() {
            return Err(Problem::new("e.m.req.second-offer", "The thread {1} has an offer.")
                .arg(received.message.thread())
                .into());
        }
        let offer = Offer { price, is_accepted: price <= self.max_price };
        tx.put(&key, &offer, Some(received.time + REMEMBERED));
        if offer.is_accepted {
            tx.answer(ACCEPT, json!({ "price": price }), |message| message);
        }
        tx.deliver();
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, document, store, address] = &arguments[..] else {
        return Err("name a token, a DID document, a store and an address to listen on".into());
    };

    // The private keys stay in the token. The agent reads its PIN from the source that the URI names.
    let secrets = Keyring::start([pkcs11::open(uri, PinSource::uri())?]).await?;
    let created = did::read_documents(Path::new(document))?.into_iter().map(|(_, document)| document).collect();
    let documents = OwnDocuments { created, ..Default::default() };
    // Messages, and records such as `Offer`, are sealed in the store by the keys of the token.
    let store = Arc::new(SqliteStore::open(Path::new(store), SqliteOptions::default())?);
    let http = HttpClient::for_public_servers()?; // connects to no private address

    let agent = Agent::builder(Arc::new(secrets), documents, Arc::new(did::local()), store.clone())
        .transports(Transports::default().with(http.clone()))
        .http(http)
        .protocol(OfferProtocol { max_price: 100 })
        .build()?;

    let server = Server::new(TcpListener::bind(address)?, None); // plain HTTP, for use behind a proxy with TLS
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    println!("{} on {address}", agent.own_dids().dids().join(", "));
    agent.run(vec![server], shutdown).await?;
    store.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Mutex};

    use claviger::{
        Message, Provenance,
        agent::{
            protocol::{Effect, Features, RecordReader},
            store::StoreError,
        },
    };

    use super::*;

    /// The records of a test, by kind and key. Each has the revision 1.
    #[derive(Default)]
    struct Records(Mutex<HashMap<(String, String), Value>>);

    #[async_trait]
    impl RecordReader for Records {
        async fn read(&self, kind: &str, key: &str) -> Result<Option<(Value, i64)>, StoreError> {
            let records = self.0.lock().unwrap();
            Ok(records.get(&(kind.to_owned(), key.to_owned())).map(|value| (value.clone(), 1)))
        }
    }

    /// Hands a message of Alice to the protocol. Returns the types of the answers, and whether the message
    /// is delivered.
    async fn handle(records: &Records, name: &str, body: Value) -> Result<(Vec<String>, bool), HandleError> {
        let kind = format!("https://example.org/offer/1.0/{name}");
        let message = Message::build(Message::new_id(), kind, body).thid("thread").finalize();
        let mut provenance = Provenance::default();
        (provenance.encrypted, provenance.authenticated) = (true, true);
        let received = Received {
            message,
            provenance,
            recipient: "did:example:ours".to_owned(),
            sender: Some("did:example:alice".to_owned()),
            time: 1_700_000_000_000,
        };
        let features = Features::default();
        let mut tx = Transaction::new(&received, records, &features);
        OfferProtocol { max_price: 100 }.handle(&received, &mut tx).await?;
        let (mut answers, mut is_delivered) = (Vec::new(), false);
        for effect in tx.effects() {
            match effect {
                Effect::Send(message) => answers.push(message.type_),
                Effect::Deliver => is_delivered = true,
                Effect::Put { kind, key, value, .. } => drop(records.0.lock().unwrap().insert((kind, key), value)),
                Effect::KeepSender | Effect::Event { .. } => {}
                Effect::Delete { kind, key } => drop(records.0.lock().unwrap().remove(&(kind, key))),
            }
        }
        Ok((answers, is_delivered))
    }

    /// Returns the code of the problem that is reported to Alice.
    async fn problem(records: &Records, name: &str, body: Value) -> String {
        match handle(records, name, body).await {
            Err(HandleError::Problem(problem)) => problem.code,
            other => panic!("no problem: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_cheap_offer_is_accepted_once() {
        let records = Records::default();
        let accepted = handle(&records, "offer", json!({"price": 100})).await.unwrap();
        assert_eq!(accepted, (vec![ACCEPT.to_owned()], true));
        assert_eq!(problem(&records, "offer", json!({"price": 99})).await, "e.m.req.second-offer");
    }

    #[tokio::test]
    async fn other_messages_get_no_acceptance() {
        for (name, body) in [("offer", json!({"price": 101})), ("accept", json!({}))] {
            assert_eq!(handle(&Records::default(), name, body).await.unwrap(), (Vec::new(), true), "{name}");
        }
        assert_eq!(problem(&Records::default(), "offer", json!({})).await, "e.m.msg.no-price");
        assert_eq!(problem(&Records::default(), "refuse", json!({})).await, "e.m.msg.unknown-type");
    }
}
