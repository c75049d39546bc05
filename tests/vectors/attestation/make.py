#!/usr/bin/env python3
"""Makes the files own-*.pem: attestations by an authority of one's own, one for each algorithm of its signature.

Each file has three certificates: of the attested key, of the attestation key (F9), and the root. The root signs the
second with the algorithm of the file's name. The keys are thrown away, so each run writes other bytes.
Needs the package cryptography.
"""

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

HERE = Path(__file__).parent
# Firmware 5.7.1, serial number 1111, PIN policy once, touch policy cached, USB-C.
STATEMENT = {3: "050701", 7: "02020457", 8: "0203", 9: "03"}


def certificate(subject, key, issuer, signer, digest, extensions, **options):
    name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2120, 1, 1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, digest, **options).public_bytes(serialization.Encoding.PEM).decode()


def statement():
    arc = "1.3.6.1.4.1.41482.3."
    values = {ObjectIdentifier(f"{arc}{last}"): bytes.fromhex(value) for last, value in STATEMENT.items()}
    return [(x509.UnrecognizedExtension(oid, value), False) for oid, value in values.items()]


def authority(length):
    return [(x509.BasicConstraints(ca=True, path_length=length), True)]


def write(name, root, digest, **options):
    key, f9 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    title = f"Example root, {name}"
    chain = [
        certificate("YubiKey PIV Attestation 9d", key, "Example attestation", f9, hashes.SHA256(), statement()),
        certificate("Example attestation", f9, title, root, digest, authority(0), **options),
        certificate(title, root, title, root, digest, authority(1), **options),
    ]
    (HERE / f"own-{name}.pem").write_text("".join(chain))


RSA = rsa.generate_private_key(65537, 2048)
ROOTS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": RSA,
}
for digest in [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]:
    for name, root in ROOTS.items():
        write(f"{name}-{digest.name}", root, digest)
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    write(f"rsa-pss-{digest.name}", RSA, digest, rsa_padding=pss)
write("ed25519", ed25519.Ed25519PrivateKey.generate(), None)
