"""joserfc, with its drafts ECDH-1PU and XC20P."""

import json

from joserfc import jwe, jws
from joserfc.drafts.jwe_chacha20 import register_chacha20_poly1305
from joserfc.drafts.jwe_ecdh_1pu import register_ecdh_1pu
from joserfc.jwk import ECKey, OKPKey

import envelope

register_chacha20_poly1305()
register_ecdh_1pu()

ENCRYPTIONS = ["ECDH-ES+A256KW", "ECDH-1PU+A256KW", "A256CBC-HS512", "A256GCM", "XC20P"]
SIGNATURES = ["EdDSA", "ES256", "ES256K"]


def key(jwk):
    jwk = {name: value for name, value in jwk.items() if name in ("kty", "crv", "x", "y", "d")}
    return (OKPKey if jwk["kty"] == "OKP" else ECKey).import_key(jwk)


def pack(request):
    if request["kind"] == "signed":
        member = {"protected": envelope.jws_header(request), "header": {"kid": request["from"]}}
        private = key(envelope.private_jwk(request, request["from"]))
        return json.dumps(jws.serialize_json([member], envelope.message_bytes(request), private, SIGNATURES))
    sender = key(envelope.private_jwk(request, request["from"])) if request["kind"] == "authcrypt" else None
    one = len(request["to"]) == 1
    form = jwe.FlattenedJSONEncryption if one else jwe.GeneralJSONEncryption
    encryption = form(envelope.jwe_header(request), envelope.message_bytes(request))
    for kid in request["to"]:
        encryption.add_recipient({"kid": kid}, key(envelope.public_jwk(request, kid)))
    encrypted = jwe.encrypt_json(encryption, None, ENCRYPTIONS, sender_key=sender)
    return json.dumps(envelope.general(encrypted) if one else encrypted)


def open(request):
    if request["kind"] == "signed":
        value = json.loads(request["packed"])
        public = key(envelope.public_jwk(request, value["signatures"][0]["header"]["kid"]))
        return json.loads(jws.deserialize_json(value, public, SIGNATURES).payload)
    value, protected, kid, secret = envelope.opened(request)
    # The library decrypts for every recipient in the list.
    value["recipients"] = [it for it in value["recipients"] if it["header"]["kid"] == kid]
    sender = key(envelope.public_jwk(request, protected["skid"])) if "skid" in protected else None
    return json.loads(jwe.decrypt_json(value, key(secret), ENCRYPTIONS, sender_key=sender).plaintext)
