"""Uses a YubiKey's PIV application through yubikit, the library of ykman: `piv.py SERIAL COMMANDS`.

COMMANDS is a JSON array of arrays, and the results are printed as a JSON array:

["keys"]                        the keys by slot: what GET METADATA says, and the subject of the certificate
["attest", SLOT]                the attestation of a key, and the certificate of slot F9, in DER
["generate", SLOT, ALGORITHM]   a new key, and its public key
["agree", SLOT, PEER]           ECDH with the peer's public key
["sign", SLOT, MESSAGE]         ECDSA with SHA-256 in DER, or Ed25519

SLOT and byte strings are hexadecimal. A public key is a SEC 1 point, or the 32 bytes of curve 25519. If the YubiKey returns
a status word instead, the result is {"sw": "6982"}.
"""

import json
import sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from ykman.pcsc import list_devices
from yubikit.core.smartcard import ApduError, SmartCardConnection
from yubikit.piv import KEY_TYPE, SLOT, PivSession

PIN = "123456"
MANAGEMENT_KEY = bytes.fromhex("010203040506070801020304050607080102030405060708")


def connect(serial):
    for device in list_devices():
        try:
            session = PivSession(device.open_connection(SmartCardConnection))
        except Exception:  # A reader without a card.
            continue
        if session.get_serial() == serial:
            return session
    sys.exit(f"no YubiKey {serial}")


def encoded(key):
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint).hex()
    return key.public_bytes_raw().hex()


def decoded(key_type, key):
    curves = {KEY_TYPE.ECCP256: ec.SECP256R1(), KEY_TYPE.ECCP384: ec.SECP384R1()}
    if key_type in curves:
        return ec.EllipticCurvePublicKey.from_encoded_point(curves[key_type], key)
    return x25519.X25519PublicKey.from_public_bytes(key)


def keys(session):
    found = {}
    for slot in SLOT:
        try:
            metadata = session.get_slot_metadata(slot)
        except ApduError:
            continue
        found[f"{slot:02x}"] = {
            "algorithm": metadata.key_type.name,
            "origin": "generated" if metadata.generated else "imported",
            "pin": metadata.pin_policy.name,
            "touch": metadata.touch_policy.name,
            "key": encoded(metadata.public_key),
            "certificate": certificate(session, slot),
        }
    return found


def certificate(session, slot):
    try:
        read = session.get_certificate(slot)
    except ApduError:
        return None
    return {"subject": read.subject.rfc4514_string(), "key": encoded(read.public_key())}


def run(session, command, arguments):
    if command == "keys":
        return keys(session)
    slot = SLOT(int(arguments[0], 16))
    if command == "generate":
        session.authenticate(MANAGEMENT_KEY)
        return encoded(session.generate_key(slot, KEY_TYPE[arguments[1]]))
    if command == "attest":
        chain = [session.attest_key(slot), session.get_certificate(SLOT.ATTESTATION)]
        return [certificate.public_bytes(serialization.Encoding.DER).hex() for certificate in chain]
    key_type = session.get_slot_metadata(slot).key_type
    data = bytes.fromhex(arguments[1])
    session.verify_pin(PIN)
    if command == "agree":
        return session.calculate_secret(slot, decoded(key_type, data)).hex()
    return session.sign(slot, key_type, data, hashes.SHA256()).hex()


def result(session, command, *arguments):
    try:
        return run(session, command, arguments)
    except ApduError as error:
        return {"sw": f"{error.sw:04x}"}


serial, commands = sys.argv[1:]
session = connect(int(serial))
print(json.dumps([result(session, *command) for command in json.loads(commands)]))
