#!/usr/bin/env python3
"""Recomputes every vector of this folder with code that shares nothing with ours.

A vector copied wrongly proves the wrong thing for years, so each number here was checked
before it was committed, and can be checked again:

    python3 -m venv venv && venv/bin/pip install cryptography pycryptodome
    venv/bin/python tests/vectors/verify.py
"""
import base64
import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path

from Crypto.Cipher import ChaCha20_Poly1305
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.padding import PKCS7

HERE = Path(__file__).resolve().parent
COUNT = 0


def main():
    for check in (didcomm, ecdh_1pu, rfc3394, rfc7516, rfc7518, rfc7520, rfc8037):
        before = COUNT
        check()
        print(f"{check.__name__}: {COUNT - before} checks")


# The suites, one a folder.


def didcomm():
    root = HERE / "didcomm-v2.1"
    index = load(root / "index.json")
    secrets, public = {}, {}
    for who in ("alice", "bob"):
        for jwk in load(root / f"secrets/{who}.json"):
            kid = jwk.get("kid") or jwk["kid "]
            secrets[kid] = jwk
        document = load(root / f"documents/{who}.json")
        for relationship in ("authentication", "keyAgreement"):
            for method in document.get(relationship, []):
                public[method["id"]] = method["publicKeyJwk"]
    equal(sorted(secrets), sorted(public))
    for kid, jwk in secrets.items():
        equal(public_half(jwk), public[kid])
        equal(computed_public_half(jwk), public[kid])

    listed = {entry["file"] for entry in index["messages"]}
    equal(listed, {f"messages/{p.name}" for p in (root / "messages").glob("c*.json")})
    for entry in index["messages"]:
        found = []
        text = (root / entry["file"]).read_bytes()
        while (layer := outermost(json.loads(text), secrets, public)) is not None:
            text, facts = layer
            found.append(facts)
        equal(found, entry["layers"])
        if entry["layers"]:
            equal(text, (root / entry["plaintext"]).read_bytes())
        kinds = [layer["kind"] for layer in found]
        equal(
            entry["provenance"],
            {
                "encrypted": "anoncrypt" in kinds or "authcrypt" in kinds,
                "authenticated": "authcrypt" in kinds or "signed" in kinds,
                "non_repudiable": "signed" in kinds,
                "sender_hidden": kinds[:1] == ["anoncrypt"],
            },
        )


def ecdh_1pu():
    a = load(HERE / "ecdh-1pu-04/appendix-a.json")
    epk, alice, bob = a["keys"]["ephemeral"], a["keys"]["alice"], a["keys"]["bob"]
    equal(ecdh(epk, bob).hex(), a["ze"])
    equal(ecdh(bob, epk).hex(), a["ze"])
    equal(ecdh(alice, bob).hex(), a["zs"])
    equal(ecdh(bob, alice).hex(), a["zs"])
    equal(a["ze"] + a["zs"], a["z"])
    header = a["header"]
    equal(header["epk"], public_half(epk))
    info = other_info(header["enc"], header, 256)
    equal(info.hex(), a["other_info"])
    equal(concat_kdf(bytes.fromhex(a["z"]), info, 256).hex(), a["derived_key"])

    b = load(HERE / "ecdh-1pu-04/appendix-b.json")
    jwe, keys = b["jwe"], b["keys"]
    header = b["header"]
    equal(json.loads(unb64(jwe["protected"])), header)
    equal(unb64(jwe["protected"]).decode(), b["header_text"])
    equal(header["epk"], public_half(keys["ephemeral"]))
    cek, iv = bytes.fromhex(b["cek"]), bytes.fromhex(b["iv"])
    equal(b64(iv), jwe["iv"])
    ciphertext, tag = cbc_hs_seal(cek, iv, jwe["protected"].encode(), b["plaintext"].encode())
    equal(b64(ciphertext), jwe["ciphertext"])
    equal(b64(tag), jwe["tag"])
    equal(tag.hex(), b["tag"])
    info = other_info(header["alg"], header, 128, tag)
    equal(info.hex(), b["other_info"])
    for slot, recipient in zip(jwe["recipients"], b["recipients"], strict=True):
        own = keys[recipient["name"]]
        equal(slot["header"]["kid"], own["kid"])
        equal(recipient["kid"], own["kid"])
        equal(ecdh(keys["ephemeral"], own).hex(), recipient["ze"])
        equal(ecdh(own, keys["ephemeral"]).hex(), recipient["ze"])
        equal(ecdh(keys["alice"], own).hex(), recipient["zs"])
        equal(ecdh(own, keys["alice"]).hex(), recipient["zs"])
        equal(recipient["ze"] + recipient["zs"], recipient["z"])
        kek = concat_kdf(bytes.fromhex(recipient["z"]), info, 128)
        equal(kek.hex(), recipient["kek"])
        equal(b64(aes_key_wrap(kek, cek)), recipient["encrypted_key"])
        equal(slot["encrypted_key"], recipient["encrypted_key"])
    for key in keys.values():
        equal(computed_public_half(key), public_half(key))


def rfc3394():
    for v in load(HERE / "rfc3394/section-4.json")["vectors"]:
        kek, key = bytes.fromhex(v["kek"]), bytes.fromhex(v["key"])
        equal(aes_key_wrap(kek, key).hex(), v["wrapped"])


def rfc7516():
    v = load(HERE / "rfc7516/appendix-a3.json")
    cek = aes_key_unwrap(unb64(v["key"]["k"]), unb64(v["jwe"]["encrypted_key"]))
    equal(cek.hex(), v["cek"])
    equal(json.loads(unb64(v["jwe"]["protected"])), v["header"])
    equal(open_content(v["header"]["enc"], cek, v["jwe"]), v["plaintext"].encode())


def rfc7518():
    v = load(HERE / "rfc7518/appendix-b3.json")
    key, iv, aad, plaintext = (bytes.fromhex(v[n]) for n in ("key", "iv", "aad", "plaintext"))
    ciphertext, tag = cbc_hs_seal(key, iv, aad, plaintext)
    equal(ciphertext.hex(), v["ciphertext"])
    equal(tag.hex(), v["tag"])

    v = load(HERE / "rfc7518/appendix-c.json")
    alice, bob, header = v["keys"]["alice_ephemeral"], v["keys"]["bob"], v["header"]
    equal(header["epk"], public_half(alice))
    equal(ecdh(alice, bob).hex(), v["z"])
    equal(ecdh(bob, alice).hex(), v["z"])
    info = other_info(header["enc"], header, 128)
    equal(info.hex(), v["other_info"])
    equal(concat_kdf(bytes.fromhex(v["z"]), info, 128).hex(), v["derived_key"])
    equal(b64(bytes.fromhex(v["derived_key"])), v["derived_key_base64url"])


def rfc7520():
    for path in sorted((HERE / "rfc7520").glob("section-*.json")):
        v = load(path)
        jwe, header, key = v["jwe"], v["header"], v["key"]
        equal({**json.loads(unb64(jwe["protected"])), **v["recipient_header"]}, header)
        if header["alg"] == "A128KW":
            kek = unb64(key["k"])
        else:
            z = ecdh(key, header["epk"])
            equal(z.hex(), v["z"])
            direct = header["alg"] == "ECDH-ES"
            bits = {"ECDH-ES": 256, "ECDH-ES+A128KW": 128, "ECDH-ES+A256KW": 256}[header["alg"]]
            algorithm = header["enc"] if direct else header["alg"]
            kek = concat_kdf(z, other_info(algorithm, header, bits), bits)
            equal(kek.hex(), v["derived_key"])
        if "encrypted_key" in v:
            cek = aes_key_unwrap(kek, unb64(v["encrypted_key"]))
        else:
            cek = kek
        equal(cek.hex(), v["cek"])
        equal(open_content(header["enc"], cek, jwe), v["plaintext"].encode())


def rfc8037():
    v = load(HERE / "rfc8037/appendix-a4.json")
    signed = f"{v['jws']['protected']}.{v['jws']['payload']}".encode()
    equal(unb64(v["jws"]["payload"]).decode(), v["payload"])
    key = ed25519.Ed25519PrivateKey.from_private_bytes(unb64(v["key"]["d"]))
    equal(b64(key.sign(signed)), v["jws"]["signature"])
    equal(b64(key.public_key().public_bytes_raw()), v["key"]["x"])

    v = load(HERE / "rfc8037/appendix-a6.json")
    equal(ecdh(v["keys"]["ephemeral"], v["keys"]["bob"]).hex(), v["z"])
    equal(computed_public_half(v["keys"]["ephemeral"]), public_half(v["keys"]["ephemeral"]))


# One layer of a DIDComm message: what it wraps, and the facts that index.json states of it.


def outermost(message, secrets, public):
    if "signatures" in message:
        (signature,) = message["signatures"]
        header = json.loads(unb64(signature["protected"]))
        kid = signature["header"]["kid"]
        signed = f"{signature['protected']}.{message['payload']}".encode()
        raw = unb64(signature["signature"])
        verify(header["alg"], public[kid], signed, raw)
        facts = {"kind": "signed", "alg": header["alg"], "kid": kid, "kid_in": "unprotected"}
        if header["alg"] == "ES256":
            order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
            facts["high_s"] = int.from_bytes(raw[32:]) > order // 2
        return unb64(message["payload"]), facts
    if "ciphertext" not in message:
        return None
    header = json.loads(unb64(message["protected"]))
    kids = [slot["header"]["kid"] for slot in message["recipients"]]
    equal(b64(hashlib.sha256(".".join(sorted(kids)).encode()).digest()), header["apv"])
    sender = header.get("skid")
    if sender:
        equal(unb64(header["apu"]).decode(), sender)
    tag = unb64(message["tag"]) if sender else None
    ceks = set()
    for slot in message["recipients"]:
        own = secrets[slot["header"]["kid"]]
        equal(own["crv"], header["epk"]["crv"])
        z = ecdh(own, header["epk"])
        if sender:
            z += ecdh(own, public[sender])
        info = other_info(header["alg"], header, 256, tag)
        ceks.add(aes_key_unwrap(concat_kdf(z, info, 256), unb64(slot["encrypted_key"])))
    (cek,) = ceks
    facts = {
        "kind": "authcrypt" if sender else "anoncrypt",
        "alg": header["alg"],
        "enc": header["enc"],
        "curve": header["epk"]["crv"],
        "recipients": kids,
    }
    if sender:
        facts["skid"] = sender
    return open_content(header["enc"], cek, message), facts


# The algorithms.


def ecdh(private, public):
    equal(private["crv"], public["crv"])
    if private["crv"] == "X25519":
        own = x25519.X25519PrivateKey.from_private_bytes(unb64(private["d"]))
        return own.exchange(x25519.X25519PublicKey.from_public_bytes(unb64(public["x"])))
    return ec_private(private).exchange(ec.ECDH(), ec_public(public))


def concat_kdf(z, info, bits):
    assert bits <= 256, "one round is all that JOSE needs here"
    return hashlib.sha256(struct.pack(">I", 1) + z + info).digest()[: bits // 8]


def other_info(algorithm, header, bits, tag=None):
    parts = [algorithm.encode(), unb64(header.get("apu", "")), unb64(header.get("apv", ""))]
    info = b"".join(struct.pack(">I", len(p)) + p for p in parts) + struct.pack(">I", bits)
    return info if tag is None else info + struct.pack(">I", len(tag)) + tag


def open_content(enc, cek, jwe):
    iv, ciphertext, tag = (unb64(jwe[n]) for n in ("iv", "ciphertext", "tag"))
    aad = jwe["protected"].encode()
    if enc.endswith("GCM"):
        return AESGCM(cek).decrypt(iv, ciphertext + tag, aad)
    if enc == "XC20P":
        cipher = ChaCha20_Poly1305.new(key=cek, nonce=iv)
        cipher.update(aad)
        return cipher.decrypt_and_verify(ciphertext, tag)
    half = len(cek) // 2
    equal(cbc_hs_tag(cek, iv, aad, ciphertext), tag)
    decryptor = Cipher(algorithms.AES(cek[half:]), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()


def cbc_hs_seal(key, iv, aad, plaintext):
    padder = PKCS7(128).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key[len(key) // 2 :]), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    return ciphertext, cbc_hs_tag(key, iv, aad, ciphertext)


def cbc_hs_tag(key, iv, aad, ciphertext):
    half = len(key) // 2
    digest = {16: hashlib.sha256, 32: hashlib.sha512}[half]
    text = aad + iv + ciphertext + struct.pack(">Q", len(aad) * 8)
    return hmac.new(key[:half], text, digest).digest()[:half]


def verify(alg, jwk, signed, raw):
    global COUNT
    COUNT += 1
    if alg == "EdDSA":
        return ed25519.Ed25519PublicKey.from_public_bytes(unb64(jwk["x"])).verify(raw, signed)
    equal(jwk["crv"], {"ES256": "P-256", "ES256K": "secp256k1"}[alg])
    half = len(raw) // 2
    der = utils.encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    ec_public(jwk).verify(der, signed, ec.ECDSA(hashes.SHA256()))


# Keys and encodings.

CURVES = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}


def ec_public(jwk):
    x, y = (int.from_bytes(unb64(jwk[n])) for n in "xy")
    return ec.EllipticCurvePublicNumbers(x, y, CURVES[jwk["crv"]]).public_key()


def ec_private(jwk):
    return ec.derive_private_key(int.from_bytes(unb64(jwk["d"])), CURVES[jwk["crv"]])


def public_half(jwk):
    return {n: jwk[n] for n in ("kty", "crv", "x", "y") if n in jwk}


def computed_public_half(jwk):
    d = unb64(jwk["d"])
    if jwk["crv"] in ("X25519", "Ed25519"):
        kind = {
            "X25519": x25519.X25519PrivateKey,
            "Ed25519": ed25519.Ed25519PrivateKey,
        }[jwk["crv"]]
        raw = kind.from_private_bytes(d).public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": jwk["crv"], "x": b64(raw)}
    numbers = ec_private(jwk).public_key().public_numbers()
    size = (CURVES[jwk["crv"]].key_size + 7) // 8
    x, y = (b64(n.to_bytes(size)) for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": jwk["crv"], "x": x, "y": y}


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def load(path):
    return json.loads(path.read_text())


def equal(found, expected):
    global COUNT
    COUNT += 1
    if found != expected:
        sys.exit(f"expected {expected!r}\n   found {found!r}")


if __name__ == "__main__":
    main()
