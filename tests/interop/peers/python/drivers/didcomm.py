"""didcomm (sicpa-dlab/didcomm-python)."""

from didcomm.common.algorithms import AnonCryptAlg
from didcomm.common.resolvers import ResolversConfig
from didcomm.did_doc.did_doc import DIDDoc
from didcomm.did_doc.did_resolver_in_memory import DIDResolverInMemory
from didcomm.message import Message
from didcomm.pack_encrypted import PackEncryptedConfig, pack_encrypted
from didcomm.pack_plaintext import pack_plaintext
from didcomm.pack_signed import pack_signed
from didcomm.secrets.secrets_resolver_in_memory import SecretsResolverInMemory
from didcomm.secrets.secrets_util import jwk_to_secret
from didcomm.unpack import unpack

ENCRYPTIONS = {
    "A256CBC-HS512": AnonCryptAlg.A256CBC_HS512_ECDH_ES_A256KW,
    "A256GCM": AnonCryptAlg.A256GCM_ECDH_ES_A256KW,
    "XC20P": AnonCryptAlg.XC20P_ECDH_ES_A256KW,
}


def resolvers(request):
    return ResolversConfig(
        secrets_resolver=SecretsResolverInMemory([jwk_to_secret(secret) for secret in request["secrets"]]),
        did_resolver=DIDResolverInMemory([DIDDoc.deserialize(document) for document in request["documents"]]),
    )


async def pack(request):
    message = Message.from_dict(request["message"])
    if request["kind"] == "plain":
        return (await pack_plaintext(resolvers(request), message)).packed_msg
    if request["kind"] == "signed":
        return (await pack_signed(resolvers(request), message, request["from"])).packed_msg
    kind = request["kind"]
    config = PackEncryptedConfig(forward=False, protect_sender_id=kind == "anoncrypt(authcrypt)")
    config.enc_alg_anon = ENCRYPTIONS[request["enc"]]
    # A DID means all its keys on the curve.
    to = request["to"][0] if len(request["to"]) == 1 else request["to"][0].split("#")[0]
    sender = request["from"] if "authcrypt" in kind else None
    signer = request["from"] if "sign" in kind else None
    return (await pack_encrypted(resolvers(request), message, to, sender, signer, pack_config=config)).packed_msg


async def open(request):
    return (await unpack(resolvers(request), request["packed"])).message.as_dict()
