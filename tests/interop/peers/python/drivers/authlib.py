"""authlib.jose, with its drafts ECDH-1PU and XC20P."""

import json

from authlib.jose import JsonWebEncryption, JsonWebKey, JsonWebSignature
from authlib.jose.drafts import register_jwe_draft

import envelope

register_jwe_draft(JsonWebEncryption)

SIGNATURES = ["EdDSA", "ES256", "ES256K"]


def pack(request):
    if request["kind"] == "signed":
        member = {"protected": envelope.jws_header(request), "header": {"kid": request["from"]}}
        private = JsonWebKey.import_key(envelope.private_jwk(request, request["from"]))
        return json.dumps(JsonWebSignature(SIGNATURES).serialize_json([member], envelope.message_bytes(request), private))
    header = {
        "protected": envelope.jwe_header(request),
        "recipients": [{"header": {"kid": kid}} for kid in request["to"]],
    }
    keys = [JsonWebKey.import_key(envelope.public_jwk(request, kid)) for kid in request["to"]]
    sender = {}
    if request["kind"] == "authcrypt":
        sender["sender_key"] = JsonWebKey.import_key(envelope.private_jwk(request, request["from"]))
    return json.dumps(JsonWebEncryption().serialize_json(header, envelope.message_bytes(request), keys, **sender))


def open(request):
    if request["kind"] == "signed":
        value = json.loads(request["packed"])
        public = JsonWebKey.import_key(envelope.public_jwk(request, value["signatures"][0]["header"]["kid"]))
        return json.loads(JsonWebSignature(SIGNATURES).deserialize_json(value, public)["payload"])
    value, protected, kid, secret = envelope.opened(request)
    sender = {}
    if "skid" in protected:
        sender["sender_key"] = JsonWebKey.import_key(envelope.public_jwk(request, protected["skid"]))
    key = (kid, JsonWebKey.import_key(secret))
    return json.loads(JsonWebEncryption().deserialize_json(value, key, **sender)["payload"])
