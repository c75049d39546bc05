"""peerdid (sicpa-dlab/peer-did-python)."""

import json

from peerdid import dids
from peerdid.keys import Ed25519VerificationKey, X25519KeyAgreementKey


def create(request):
    keys = request["keys"]
    signing = Ed25519VerificationKey.from_multibase(keys["Ed25519"]["multikey"])
    if request["method"] == "peer:0":
        return {"did": dids.create_peer_did_numalgo_0(signing)}
    agreement = X25519KeyAgreementKey.from_multibase(keys["X25519"]["multikey"])
    return {"did": dids.create_peer_did_numalgo_2([agreement], [signing], request["service"])}


def resolve(request):
    return json.loads(dids.resolve_peer_did(request["did"]).to_json())
