// @hyperledger/identus-sdk: its did:peer:2, and DIDComm over that.

import { Apollo, Castor, DIDCommWrapper, Domain, Ed25519PublicKey, PeerDID, X25519PrivateKey, X25519PublicKey } from '@hyperledger/identus-sdk'

const apollo = new Apollo()
const castor = new Castor(apollo)

export async function create({ keys, service }) {
    const { uri, accept } = service.serviceEndpoint
    const publicKeys = [
        new Ed25519PublicKey(Buffer.from(keys.Ed25519.public, 'hex')),
        new X25519PublicKey(Buffer.from(keys.X25519.public, 'hex')),
    ]
    const own = new Domain.DIDDocument.Service('#didcomm', [service.type], { uri, accept, routingKeys: [] })
    return { did: (await castor.createPeerDID(publicKeys, [own])).toString() }
}

// Castor has its own type of document.
export async function resolve({ did }) {
    const document = await castor.resolveDID(did)
    return JSON.parse(JSON.stringify({ id: document.id.toString(), verificationMethod: document.verificationMethods, service: document.services }))
}

// An agent without a store. It has the private keys of one DID, as Pluto would return them.
function wrapper({ did, secrets }) {
    const keys = secrets.filter(({ crv }) => crv === 'X25519').map(({ d, crv }) => ({
        keyCurve: { curve: crv },
        value: new X25519PrivateKey(Buffer.from(d, 'base64url')).getEncoded(),
    }))
    const own = new PeerDID(Domain.DID.fromString(did), keys)
    return new DIDCommWrapper(apollo, castor, { getAllPeerDIDs: async () => [own] })
}

export async function pack(request) {
    const { id, type, body, attachments, thid, pthid, created_time, expires_time } = request.message
    const message = new Domain.Message(
        body, id, type, undefined, undefined,
        attachments.map(({ id, media_type, data }) => new Domain.AttachmentDescriptor(data, media_type, id)),
        thid, [], created_time, expires_time, [], undefined, undefined, pthid,
    )
    const did = (url) => Domain.DID.fromString(url.split('#')[0])
    return wrapper(request).packEncrypted(message, did(request.to[0]), request.kind === 'authcrypt' ? did(request.from) : undefined)
}

export async function open(request) {
    const message = await wrapper(request).unpack(request.packed)
    const { id, piuri, from, to, thid, pthid, createdTime, body, attachments } = message
    return {
        id, type: piuri, from: from?.toString(), to: [to?.toString()], thid, pthid, created_time: createdTime, body,
        attachments: attachments.map(({ id, mediaType, data }) => ({ id, media_type: mediaType, data })),
    }
}
