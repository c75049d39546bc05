#!/usr/bin/env bash
# didcomm-messaging compares `apv` with the hash of the recipients as they stand, and not sorted.
#
# DIDComm v2.1, "ECDH-1PU key wrapping and common protected headers": `apv` is the SHA-256 of the recipients' key ids, "sorted
# alphanumerically" and joined by ".". So the order of the recipients in the message does not matter. didcomm-messaging 0.1.1
# (Python) sorts when it packs, but not when it unpacks: a message whose recipients are in another order, for example with the
# preferred key first, has an "Invalid apv value" for it.
#
# Seen on 2026-11-30: its own message to two keys passes the check; with the two recipients swapped it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'didcomm-messaging==0.1.1' 'aries-askar==0.5.0' 'did-peer-2==0.1.2' 'did-peer-4==0.1.4'

cat >"$folder/swap.py" <<'PYTHON'
import asyncio
import json

from aries_askar import Key, KeyAlg
from did_peer_2 import KeySpec, generate
from didcomm_messaging.crypto.backend.askar import AskarCryptoService, AskarSecretKey
from didcomm_messaging.crypto.backend.basic import InMemorySecretsManager
from didcomm_messaging.multiformats import multibase, multicodec
from didcomm_messaging.packaging import PackagingService, PackagingServiceError
from didcomm_messaging.resolver import PrefixResolver
from didcomm_messaging.resolver.peer import Peer2


def multikey(codec, key):
    return multibase.encode(multicodec.wrap(codec, key.get_public_bytes()), "base58btc")


async def main():
    secrets = InMemorySecretsManager()
    resolver = PrefixResolver({"did:peer:2": Peer2()})
    recipients = {}
    for _ in range(2):
        signing, agreement = Key.generate(KeyAlg.ED25519), Key.generate(KeyAlg.X25519)
        did = generate([
            KeySpec.verification(multikey("ed25519-pub", signing)),
            KeySpec.key_agreement(multikey("x25519-pub", agreement)),
        ], [])
        recipients[did] = agreement

    service = PackagingService()
    packed = json.loads(await service.pack(AskarCryptoService(), resolver, secrets, b"{}", list(recipients), None))
    for header in (recipient["header"] for recipient in packed["recipients"]):
        did = header["kid"].partition("#")[0]
        await secrets.add_secret(AskarSecretKey(recipients[did], header["kid"]))
    await service.extract_packed_message_metadata(json.dumps(packed), secrets)
    print("sorted recipients: the check passes")
    packed["recipients"].reverse()
    try:
        await service.extract_packed_message_metadata(json.dumps(packed), secrets)
    except PackagingServiceError as error:
        print(f"swapped recipients: {error}")
        assert "apv" in str(error), "the behaviour has changed"
        return
    raise SystemExit("the behaviour has changed: swapped recipients pass")


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/swap.py"
