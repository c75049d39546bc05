"""didcomm-messaging, with its backend Askar. It packs and unpacks encrypted messages only."""

import json

from aries_askar import Key
from did_peer_2 import KeySpec, generate
from didcomm_messaging.crypto.backend.askar import AskarCryptoService, AskarSecretKey
from didcomm_messaging.crypto.backend.basic import InMemorySecretsManager
from didcomm_messaging.packaging import PackagingService
from didcomm_messaging.resolver import DIDResolver, PrefixResolver
from didcomm_messaging.resolver.peer import Peer2, Peer4


class Given(DIDResolver):
    """The documents of the request."""

    def __init__(self, request):
        self.documents = {document["id"]: document for document in request.get("documents", [])}

    async def is_resolvable(self, did):
        return did in self.documents

    async def resolve(self, did):
        return self.documents[did]


def resolver(request):
    return PrefixResolver({"did:peer:2": Peer2(), "did:peer:4": Peer4(), "did:example": Given(request)})


def create(request):
    # Its quick start makes a did:peer:2. It has no function for a did:peer:4.
    if request["method"] != "peer:2":
        return None
    keys = request["keys"]
    specs = [KeySpec.authentication(keys["Ed25519"]["multikey"]), KeySpec.key_agreement(keys["X25519"]["multikey"])]
    return {"did": generate(specs, [request["service"]])}


async def resolve(request):
    return await resolver(request).resolve(request["did"])


async def secrets(request, kids):
    """The private keys with these ids."""
    manager = InMemorySecretsManager()
    for secret in request["secrets"]:
        if secret["kid"] in kids:
            await manager.add_secret(AskarSecretKey(Key.from_jwk(json.dumps(secret)), secret["kid"]))
    return manager


async def pack(request):
    sender = request["from"] if request["kind"] == "authcrypt" else None
    message = json.dumps(request["message"]).encode()
    packed = await PackagingService().pack(
        AskarCryptoService(), resolver(request), await secrets(request, [sender]), message, request["to"], sender
    )
    return packed.decode()


async def open(request):
    recipients = [recipient["header"]["kid"] for recipient in json.loads(request["packed"])["recipients"]]
    plaintext, _ = await PackagingService().unpack(
        AskarCryptoService(), resolver(request), await secrets(request, recipients), request["packed"]
    )
    return json.loads(plaintext)
