#!/usr/bin/env bash
# didcomm-python writes the coordinates of an ephemeral P-256 key without their leading zero octets.
#
# RFC 7518, section 6.2.1.2: the octet string of "x" must have the full size of a coordinate, 32 octets for P-256, which
# is 43 characters of base64url. didcomm 0.3.2 on Authlib 1.6.5 writes the shortest form of the number: about one message
# in 128 to a P-256 key has an "epk" whose "x" or "y" is shorter. A reader that insists on the full size refuses these
# messages, and only these; a sender's retry usually works, so the fault looks like a flaky network.
#
# Seen on 2026-11-29: of 1,000 anoncrypt messages to one P-256 key, between 1 and 25 have a short coordinate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'didcomm==0.3.2' 'authlib==1.6.5'

cat >"$folder/count.py" <<'PYTHON'
import asyncio
import base64
import json

from authlib.jose import ECKey
from didcomm.common.resolvers import ResolversConfig
from didcomm.did_doc.did_doc import DIDDoc
from didcomm.did_doc.did_resolver_in_memory import DIDResolverInMemory
from didcomm.message import Message
from didcomm.pack_encrypted import PackEncryptedConfig, pack_encrypted
from didcomm.secrets.secrets_resolver_in_memory import SecretsResolverInMemory

MESSAGES = 1000
DID = "did:example:bob"

jwk = ECKey.generate_key("P-256", is_private=False).as_dict()
document = DIDDoc.deserialize({
    "id": DID,
    "verificationMethod": [{
        "id": f"{DID}#1",
        "type": "JsonWebKey2020",
        "controller": DID,
        "publicKeyJwk": {member: jwk[member] for member in ("kty", "crv", "x", "y")},
    }],
    "keyAgreement": [f"{DID}#1"],
    "authentication": [],
    "service": [],
})
resolvers = ResolversConfig(
    secrets_resolver=SecretsResolverInMemory([]), did_resolver=DIDResolverInMemory([document])
)


async def main():
    short = 0
    for number in range(MESSAGES):
        message = Message(id=str(number), type="https://didcomm.org/empty/1.0/empty", body={})
        packed = await pack_encrypted(
            resolvers, message, to=DID, pack_config=PackEncryptedConfig(forward=False)
        )
        protected = json.loads(packed.packed_msg)["protected"]
        header = json.loads(base64.urlsafe_b64decode(protected + "=" * (-len(protected) % 4)))
        short += min(len(header["epk"]["x"]), len(header["epk"]["y"])) < 43
    print(f"{short} of {MESSAGES} messages have an epk with a coordinate shorter than 43 characters")
    assert 1 <= short <= 25, "the behaviour has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/count.py"
