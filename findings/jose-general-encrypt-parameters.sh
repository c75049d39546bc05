#!/usr/bin/env bash
# jose (JavaScript) cannot make the JWE that DIDComm v2 asks for if there is more than one recipient.
#
# DIDComm v2.1, "ECDH-1PU key wrapping and common protected headers": `epk`, `apu` and `apv` are in the protected header, one of
# each for all recipients, so that they are authenticated. jose 6.2.18 puts them into the unprotected header of each recipient
# (GeneralEncrypt), with an ephemeral key of its own for each. RFC 7516 allows both. For one recipient it puts them into the
# protected header, so a program works in its tests and fails with the first peer that has two keys.
#
# Seen on 2026-11-30: `epk` and `apv` are in `protected` for one recipient, in the recipients' headers for two, and the two
# ephemeral keys differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cd "$folder"
npm init --yes >npm.log
npm install --silent --no-audit --no-fund 'jose@6.2.18' >>npm.log

cat >jwe.mjs <<'JAVASCRIPT'
import { GeneralEncrypt, decodeProtectedHeader, generateKeyPair } from 'jose'

async function parameters(recipients) {
    const encrypt = new GeneralEncrypt(new TextEncoder().encode('{}'))
    encrypt.setProtectedHeader({ alg: 'ECDH-ES+A256KW', enc: 'A256CBC-HS512' })
    for (let number = 0; number < recipients; number++) {
        const { publicKey } = await generateKeyPair('ECDH-ES+A256KW', { crv: 'P-256' })
        encrypt.addRecipient(publicKey)
            .setUnprotectedHeader({ kid: `did:example:bob#${number}` })
            .setKeyManagementParameters({ apv: new Uint8Array(32) })
    }
    const jwe = await encrypt.encrypt()
    return { inProtected: decodeProtectedHeader(jwe), inRecipients: jwe.recipients.map(({ header }) => header ?? {}) }
}

const places = ({ inProtected, inRecipients }) => ['epk', 'apv'].map((name) =>
    `${name}: ${name in inProtected ? 'protected' : inRecipients.every((header) => name in header) ? 'each recipient' : 'nowhere'}`)
const one = await parameters(1)
const two = await parameters(2)
console.log(`one recipient: ${places(one)}`)
console.log(`two recipients: ${places(two)}`)
const [first, second] = two.inRecipients.map(({ epk }) => epk?.x)
if (places(one).join() !== 'epk: protected,apv: protected') throw new Error('the behaviour with one recipient has changed')
if (places(two).join() !== 'epk: each recipient,apv: each recipient' || first === second) throw new Error('the behaviour with two has changed')
JAVASCRIPT
node jwe.mjs
