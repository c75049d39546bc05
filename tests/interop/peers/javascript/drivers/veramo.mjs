// @veramo/did-comm, in an agent as its documentation sets one up, with keys and DIDs in memory.

import { createAgent } from '@veramo/core'
import { DIDComm } from '@veramo/did-comm'
import { DIDManager, MemoryDIDStore } from '@veramo/did-manager'
import { KeyDIDProvider, getDidKeyResolver } from '@veramo/did-provider-key'
import { PeerDIDProvider, getResolver } from '@veramo/did-provider-peer'
import { DIDResolverPlugin } from '@veramo/did-resolver'
import { KeyManager, MemoryKeyStore, MemoryPrivateKeyStore } from '@veramo/key-manager'
import { KeyManagementSystem } from '@veramo/kms-local'

const PACKINGS = { plain: 'none', signed: 'jws', anoncrypt: 'anoncrypt', authcrypt: 'authcrypt' }
const TYPES = { Ed25519: 'Ed25519', X25519: 'X25519', secp256k1: 'Secp256k1', 'P-256': 'Secp256r1' }

const hex = (text) => Buffer.from(text, 'base64url').toString('hex')

function agentFor(documents) {
    const given = async (did) => {
        const didDocument = documents.find((document) => document.id === did)
        return { didDocument: didDocument ?? null, didResolutionMetadata: {}, didDocumentMetadata: {} }
    }
    return createAgent({
        plugins: [
            new KeyManager({
                store: new MemoryKeyStore(),
                kms: { local: new KeyManagementSystem(new MemoryPrivateKeyStore()) },
            }),
            new DIDManager({
                store: new MemoryDIDStore(),
                defaultProvider: 'did:peer',
                providers: {
                    'did:key': new KeyDIDProvider({ defaultKms: 'local' }),
                    'did:peer': new PeerDIDProvider({ defaultKms: 'local' }),
                },
            }),
            new DIDResolverPlugin({ ...getResolver(), ...getDidKeyResolver(), example: given }),
            new DIDComm(),
        ],
    })
}

// An agent with the keys of the request.
async function agent({ documents = [], secrets, did }) {
    const made = agentFor(documents)
    const keys = secrets.filter(({ crv }) => TYPES[crv]).map(({ kid, crv, x, d }) => {
        const privateKeyHex = crv === 'Ed25519' ? hex(d) + hex(x) : hex(d)
        return { kid, type: TYPES[crv], kms: 'local', privateKeyHex }
    })
    await made.didManagerImport({ did, provider: 'did:peer', keys })
    return made
}

export async function create(request) {
    const { Ed25519, X25519 } = request.keys
    const made = await agentFor([]).didManagerCreate({
        provider: request.method === 'key' ? 'did:key' : 'did:peer',
        options: {
            num_algo: request.method === 'peer:0' ? 0 : 2,
            key: { privateKeyHex: Ed25519.private + Ed25519.public },
            agreementKey: { privateKeyHex: X25519.private },
            ...(request.method === 'peer:2' && { service: request.service }),
        },
    })
    return { did: made.did }
}

export async function resolve({ did }) {
    const { didDocument, didResolutionMetadata } = await agentFor([]).resolveDid({ didUrl: did })
    if (!didDocument) {
        throw new Error(`${didResolutionMetadata.error} ${didResolutionMetadata.message}`)
    }
    return didDocument
}

export async function pack(request) {
    const { message } = await (await agent(request)).packDIDCommMessage({
        packing: PACKINGS[request.kind],
        message: request.message,
        ...(request.from && { keyRef: request.from }),
        options: { enc: request.enc, recipientKids: request.to },
    })
    return message
}

export async function open(request) {
    return (await (await agent(request)).unpackDIDCommMessage({ message: request.packed })).message
}
