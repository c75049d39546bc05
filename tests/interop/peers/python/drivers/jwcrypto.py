"""jwcrypto."""

import json

from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

import envelope

ENCRYPTIONS = ["ECDH-ES+A256KW", "ECDH-1PU+A256KW", "A256CBC-HS512", "A256GCM", "XC20P"]
SIGNATURES = ["EdDSA", "ES256", "ES256K"]


def pack(request):
    if request["kind"] == "signed":
        signed = JWS(envelope.message_bytes(request))
        signed.allowed_algs = SIGNATURES
        private = JWK(**envelope.private_jwk(request, request["from"]))
        header = json.dumps(envelope.jws_header(request))
        signed.add_signature(private, None, header, json.dumps({"kid": request["from"]}))
        value = json.loads(signed.serialize())
        signature = {name: value.pop(name) for name in ("protected", "header", "signature")}
        return json.dumps({**value, "signatures": [signature]})
    encrypted = JWE(envelope.message_bytes(request), json.dumps(envelope.jwe_header(request)), algs=ENCRYPTIONS)
    for kid in request["to"]:
        encrypted.add_recipient(JWK(**envelope.public_jwk(request, kid)), json.dumps({"kid": kid}))
    value = json.loads(encrypted.serialize())
    return json.dumps(value if "recipients" in value else envelope.general(value))


def open(request):
    if request["kind"] == "signed":
        signed = JWS()
        signed.allowed_algs = SIGNATURES
        signed.deserialize(request["packed"])
        kid = json.loads(request["packed"])["signatures"][0]["header"]["kid"]
        signed.verify(JWK(**envelope.public_jwk(request, kid)))
        return json.loads(signed.payload)
    _, _, _, secret = envelope.opened(request)
    encrypted = JWE(algs=ENCRYPTIONS)
    encrypted.deserialize(request["packed"], JWK(**secret))
    return json.loads(encrypted.payload)
