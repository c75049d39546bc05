"""did-webvh (decentralized-identity/didwebvh-py)."""

import tempfile
from pathlib import Path

from aries_askar import Key
from did_webvh.askar import AskarSigningKey
from did_webvh.provision import genesis_document, provision_did
from did_webvh.resolver import resolve_did


def create(request):
    key = AskarSigningKey(Key.from_secret_bytes("ed25519", bytes.fromhex(request["keys"]["Ed25519"]["private"])))
    document = genesis_document(f"did:webvh:{{SCID}}:{request['location']}")
    agreement = {
        "id": f"{document['id']}#key-1",
        "type": "Multikey",
        "controller": document["id"],
        "publicKeyMultibase": request["keys"]["X25519"]["multikey"],
    }
    document["keyAgreement"] = [agreement]
    state = provision_did(document, params={"updateKeys": [key.multikey]})
    state.proofs.append(state.create_proof(key, timestamp=state.timestamp))
    return {"did": state.document_id, "log": state.history_json()}


async def resolve(request):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "did.jsonl"
        log.write_text(request["log"])
        result = await resolve_did(request["did"], local_history=log, add_implicit=False)
    if not result.document:
        raise ValueError(result.resolution_metadata)
    return result.document
