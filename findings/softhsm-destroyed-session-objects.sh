#!/usr/bin/env bash
# SoftHSM keeps memory for each session object that was destroyed, until C_Finalize.
#
# PKCS#11 3.1, section 5.7.3: C_DestroyObject destroys the object. SoftHSM 2.6.1 (Debian 12) takes the object out of
# reach, but frees neither it nor its attributes: a program that derives a secret for each message and destroys it at
# once grows with the number of messages. Closing the session and logging out free nothing; only C_Finalize does, which
# ends every session of the process. A long-running program has to end its process from time to time.
#
# Seen on 2026-11-29: 100,000 generic secrets, each created and destroyed at once, leave more than 100 bytes each behind,
# also after every session is closed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq softhsm2=2.6.1-2.1 libsofthsm2=2.6.1-2.1 >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" root; done
module=$(find root -name libsofthsm2.so | head -n 1)
mkdir tokens
printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$folder" >softhsm2.conf
export SOFTHSM2_CONF=$folder/softhsm2.conf
root/usr/bin/softhsm2-util --module "$module" --init-token --free --label t --so-pin 12345678 --pin 12345678 >/dev/null

python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install 'python-pkcs11==0.9.5'
cat >grow.py <<'PYTHON'
import sys

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

OBJECTS = 100_000


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


token = pkcs11.lib(sys.argv[1]).get_token(token_label="t")


def churn(objects):
    with token.open(user_pin="12345678") as session:
        for _ in range(objects):
            session.create_object({
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.TOKEN: False,
                Attribute.VALUE: bytes(32),
            }).destroy()


churn(10_000)  # what the library and Python set up once
before = resident()
churn(OBJECTS)
left = (resident() - before) / OBJECTS
print(f"{left:.0f} bytes left for each of {OBJECTS} destroyed objects")
assert left > 100, "the behaviour has changed"
PYTHON
venv/bin/python grow.py "$module"
