// @aviarytech/did-peer.

import { create as createPeer, resolve as resolvePeer } from '@aviarytech/did-peer'

export async function create({ method, keys, service }) {
    const signing = [{ type: 'Ed25519VerificationKey2020', publicKeyMultibase: keys.Ed25519.multikey }]
    const agreement = [{ type: 'X25519KeyAgreementKey2020', publicKeyMultibase: keys.X25519.multikey }]
    return { did: await createPeer(method === 'peer:0' ? 0 : 2, signing, agreement, service) }
}

export const resolve = ({ did }) => resolvePeer(did)
