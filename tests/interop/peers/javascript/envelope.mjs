// What a user of a JOSE library writes to get DIDComm envelopes.

import { createHash } from 'node:crypto'

const AGREEMENTS = { anoncrypt: 'ECDH-ES+A256KW', authcrypt: 'ECDH-1PU+A256KW' }

export const encode = (data) => Buffer.from(data).toString('base64url')

export const messageBytes = (request) => new TextEncoder().encode(JSON.stringify(request.message))

export const jwsHeader = (request) => ({ typ: 'application/didcomm-signed+json', alg: request.alg })

// The protected header of a JWE without `epk`, which is the library's to add.
export function jweHeader(request) {
    const kids = [...request.to].sort().join('.')
    const header = {
        typ: 'application/didcomm-encrypted+json',
        alg: AGREEMENTS[request.kind],
        enc: request.enc,
        apv: createHash('sha256').update(kids).digest('base64url'),
    }
    return request.kind === 'authcrypt' ? { ...header, skid: request.from, apu: encode(request.from) } : header
}

// A flattened JWE in the general form, which DIDComm requires.
export const general = ({ header, encrypted_key, ...flattened }) => ({
    ...flattened,
    recipients: [{ header, encrypted_key }],
})

// The public key with this id in the documents of the request.
export function publicJwk(request, kid) {
    const methods = request.documents.flatMap((document) => document.verificationMethod)
    return methods.find((method) => method.id === kid).publicKeyJwk
}

export const privateJwk = (request, kid) => request.secrets.find((secret) => secret.kid === kid)
