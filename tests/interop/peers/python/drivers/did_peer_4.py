"""did-peer-4."""

import did_peer_4


def create(request):
    keys = request["keys"]
    methods = [
        {"id": f"#key-{number}", "type": "Multikey", "publicKeyMultibase": keys[curve]["multikey"]}
        for number, curve in enumerate(("Ed25519", "X25519"), 1)
    ]
    service = {"id": "#service", **request["service"]}
    document = {"verificationMethod": methods, "authentication": ["#key-1"], "keyAgreement": ["#key-2"], "service": [service]}
    return {"did": did_peer_4.encode(document)}


def resolve(request):
    return did_peer_4.resolve(request["did"])
