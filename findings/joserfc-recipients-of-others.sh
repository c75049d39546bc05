#!/usr/bin/env bash
# joserfc tries the one key it is given on every recipient of a JWE in General JSON.
#
# RFC 7516, section 5.2: with the JSON serialization, a recipient decrypts as one of the recipients, and the JWE is valid if that
# works. `jwe.decrypt_json` of joserfc 1.8.0 decrypts for each recipient in the list with the key of its caller, and raises an
# error at the first that is somebody else's. So each recipient of a message to two keys must cut the list down before it calls.
#
# Seen on 2026-11-30: neither of two recipients can decrypt the JWE that joserfc made for both; after the other recipient is taken
# out of the list, both can.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'joserfc==1.8.0'

cat >"$folder/two.py" <<'PYTHON'
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

ALGORITHMS = ["ECDH-ES+A256KW", "A256GCM"]
keys = {"first": ECKey.generate_key("P-256"), "second": ECKey.generate_key("P-256")}

encryption = jwe.GeneralJSONEncryption({"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}, b"to both")
for kid, key in keys.items():
    encryption.add_recipient({"kid": kid}, key)
both = jwe.encrypt_json(encryption, None, ALGORITHMS)

for kid, key in keys.items():
    try:
        jwe.decrypt_json(both, key, ALGORITHMS)
        raise SystemExit(f"the behaviour has changed: {kid} decrypts the JWE for both")
    except JoseError as error:
        print(f"{kid}: the JWE for both raises {type(error).__name__}")
    alone = {**both, "recipients": [one for one in both["recipients"] if one["header"]["kid"] == kid]}
    assert jwe.decrypt_json(alone, key, ALGORITHMS).plaintext == b"to both"
    print(f"{kid}: decrypts it without the other recipient in the list")
PYTHON
"$folder/venv/bin/python" "$folder/two.py"
