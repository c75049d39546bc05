"""did-peer-2."""

import did_peer_2
from did_peer_2 import KeySpec


def create(request):
    keys = request["keys"]
    specs = [KeySpec.authentication(keys["Ed25519"]["multikey"]), KeySpec.key_agreement(keys["X25519"]["multikey"])]
    return {"did": did_peer_2.generate(specs, [request["service"]])}


def resolve(request):
    return did_peer_2.resolve(request["did"])
