"""What a user of a JOSE library writes to get DIDComm envelopes."""

import base64
import hashlib
import json

AGREEMENTS = {"anoncrypt": "ECDH-ES+A256KW", "authcrypt": "ECDH-1PU+A256KW"}


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwe_header(request):
    """The protected header of a JWE without `epk`, which is the library's to add."""
    kids = ".".join(sorted(request["to"]))
    header = {
        "typ": "application/didcomm-encrypted+json",
        "alg": AGREEMENTS[request["kind"]],
        "enc": request["enc"],
        "apv": encode(hashlib.sha256(kids.encode()).digest()),
    }
    if request["kind"] == "authcrypt":
        header["skid"] = request["from"]
        header["apu"] = encode(request["from"].encode())
    return header


def jws_header(request):
    return {"typ": "application/didcomm-signed+json", "alg": request["alg"]}


def message_bytes(request):
    return json.dumps(request["message"]).encode()


def general(flattened):
    """A flattened JWE in the general form, which DIDComm requires."""
    recipient = {name: flattened.pop(name) for name in ("header", "encrypted_key")}
    return {**flattened, "recipients": [recipient]}


def public_jwk(request, kid):
    """The public key with this id in the documents of the request."""
    for document in request["documents"]:
        for method in document["verificationMethod"]:
            if method["id"] == kid:
                return method["publicKeyJwk"]
    raise KeyError(kid)


def private_jwk(request, kid):
    return next(secret for secret in request["secrets"] if secret["kid"] == kid)


def opened(request):
    """A JWE, its protected header, and the id and private key of the first recipient of whom we have the key."""
    jwe = json.loads(request["packed"])
    secrets = {secret["kid"]: secret for secret in request["secrets"]}
    kid = next(recipient["header"]["kid"] for recipient in jwe["recipients"] if recipient["header"]["kid"] in secrets)
    return jwe, json.loads(decode(jwe["protected"])), kid, secrets[kid]
