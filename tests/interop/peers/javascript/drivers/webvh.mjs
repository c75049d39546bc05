// didwebvh-ts. It has no cryptography of its own: the user brings a signer and a verifier.

import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'

import { AbstractCrypto, createDID, multibaseEncode, MultibaseEncoding, prepareDataForSigning, resolveDIDFromLog } from 'didwebvh-ts'

class Crypto extends AbstractCrypto {
    async sign({ document, proof }) {
        const signature = sign(null, await prepareDataForSigning(document, proof), this.verificationMethod.secret)
        return { proofValue: multibaseEncode(signature, MultibaseEncoding.BASE58_BTC) }
    }

    async verify(signature, message, publicKey) {
        const x = Buffer.from(publicKey).toString('base64url')
        return verify(null, message, createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' }), signature)
    }
}

export async function create(request) {
    const { Ed25519, X25519 } = request.keys
    const secret = createPrivateKey({ key: Ed25519.jwk, format: 'jwk' })
    const crypto = new Crypto({
        verificationMethod: { type: 'Multikey', publicKeyMultibase: Ed25519.multikey, secret },
    })
    const { did, log } = await createDID({
        domain: 'example.com:8443',
        paths: ['a', 'b'],
        signer: crypto,
        verifier: crypto,
        updateKeys: [Ed25519.multikey],
        verificationMethods: [{ type: 'Multikey', publicKeyMultibase: X25519.multikey, purpose: 'keyAgreement' }],
    })
    return { did, log: log.map((entry) => JSON.stringify(entry)).join('\n') }
}

export async function resolve({ log }) {
    const lines = log.trim().split('\n').map((line) => JSON.parse(line))
    const { doc, meta } = await resolveDIDFromLog(lines, { verifier: new Crypto({}) })
    if (meta.error) {
        throw new Error(meta.problemDetails?.detail ?? meta.error)
    }
    return doc
}
