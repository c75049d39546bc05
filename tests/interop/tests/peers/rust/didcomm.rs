//! didcomm 0.4.1.

use claviger_interop::Peer;
use claviger_interop::didcomm::PackEncryptedOptions;
use claviger_interop::didcomm::algorithms::AnonCryptAlg;
use serde_json::Value;

use super::{list, text, wait};

fn peer(request: &Value) -> Peer {
    Peer::new(list(request, "documents").to_vec(), list(request, "secrets").to_vec())
}

pub fn pack(request: &Value) -> Result<String, String> {
    let message = serde_json::from_value(request["message"].clone()).map_err(|error| error.to_string())?;
    let peer = peer(request);
    let packed = wait(async {
        match text(request, "kind") {
            "plain" => peer.pack_plaintext(&message).await,
            "signed" => peer.pack_signed(&message, text(request, "from")).await.map(|(packed, _)| packed),
            kind => {
                let enc_alg_anon = match text(request, "enc") {
                    "A256GCM" => AnonCryptAlg::A256gcmEcdhEsA256kw,
                    "XC20P" => AnonCryptAlg::Xc20pEcdhEsA256kw,
                    _ => AnonCryptAlg::A256cbcHs512EcdhEsA256kw,
                };
                let protect_sender = kind == "anoncrypt(authcrypt)";
                let options =
                    PackEncryptedOptions { enc_alg_anon, protect_sender, forward: false, ..Default::default() };
                let from = kind.contains("authcrypt").then(|| text(request, "from"));
                let signer = kind.contains("sign").then(|| text(request, "from"));
                // A DID means all its keys on the curve.
                let to = match list(request, "to") {
                    [one] => one.as_str().unwrap(),
                    several => several[0].as_str().unwrap().split('#').next().unwrap(),
                };
                peer.pack_encrypted(&message, to, from, signer, &options).await.map(|(packed, _)| packed)
            }
        }
    });
    packed.map_err(|error| error.to_string())
}

pub fn open(request: &Value) -> Result<Value, String> {
    let opened = wait(peer(request).unpack(text(request, "packed"))).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(opened.0).unwrap())
}
