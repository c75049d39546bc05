// jose (panva).

import { FlattenedEncrypt, GeneralEncrypt, GeneralSign, generalDecrypt, generalVerify, importJWK } from 'jose'

import { general, jweHeader, jwsHeader, messageBytes, privateJwk, publicJwk } from '../envelope.mjs'

const key = ({ kid, ...jwk }, alg) => importJWK(jwk, alg)

export async function pack(request) {
    if (request.kind === 'signed') {
        const sign = new GeneralSign(messageBytes(request))
        const signature = sign.addSignature(await key(privateJwk(request, request.from), request.alg))
        signature.setProtectedHeader(jwsHeader(request)).setUnprotectedHeader({ kid: request.from })
        return JSON.stringify(await sign.sign())
    }
    // The library writes `apv` itself, beside `epk`.
    const { apu, apv, ...header } = jweHeader(request)
    const parties = { apv: Buffer.from(apv, 'base64url'), ...(apu && { apu: Buffer.from(apu, 'base64url') }) }
    const one = request.to.length === 1
    const encrypt = new (one ? FlattenedEncrypt : GeneralEncrypt)(messageBytes(request)).setProtectedHeader(header)
    if (one) {
        encrypt.setUnprotectedHeader({ kid: request.to[0] }).setKeyManagementParameters(parties)
        return JSON.stringify(general(await encrypt.encrypt(await key(publicJwk(request, request.to[0]), header.alg))))
    }
    for (const kid of request.to) {
        const recipient = encrypt.addRecipient(await key(publicJwk(request, kid), header.alg))
        recipient.setUnprotectedHeader({ kid }).setKeyManagementParameters(parties)
    }
    return JSON.stringify(await encrypt.encrypt())
}

export async function open(request) {
    const value = JSON.parse(request.packed)
    if (request.kind === 'signed') {
        const { payload } = await generalVerify(value, await key(publicJwk(request, value.signatures[0].header.kid), request.alg))
        return JSON.parse(Buffer.from(payload))
    }
    const { kid } = value.recipients.map(({ header }) => header).find((header) => privateJwk(request, header.kid))
    const { plaintext } = await generalDecrypt(value, await key(privateJwk(request, kid), 'ECDH-ES+A256KW'))
    return JSON.parse(Buffer.from(plaintext))
}
