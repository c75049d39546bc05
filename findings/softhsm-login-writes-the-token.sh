#!/usr/bin/env bash
# SoftHSM writes the token's file at each C_Login, although nothing changes but a counter in it.
#
# PKCS#11 3.1, section 5.6.8: C_Login logs a user into a token. SoftHSM 2.6.1 (Debian 12) stores the token's flags again
# each time, with the value that they had, and increments the counter at the beginning of `token.object`. So a login costs a
# write to the disk, and whoever compares or copies the folder of a token finds it changed although nobody changed the token.
# Keep a session logged in instead of logging in for each operation.
#
# Seen on 2026-11-30: five right logins are five writes of `token.object`, each of which changes the first 8 bytes alone.
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
cat >login.py <<'PYTHON'
import glob
import os
import sys
import time

import pkcs11

[path] = glob.glob("tokens/*/token.object")
token = pkcs11.lib(sys.argv[1]).get_token(token_label="t")


def state():
    with open(path, "rb") as file:
        return os.stat(path).st_mtime_ns, file.read()


_, before = state()
times, changed = set(), set()
for _ in range(5):
    time.sleep(0.05)
    session = token.open(user_pin="12345678")
    time.sleep(0.05)
    mtime, after = state()
    session.close()
    times.add(mtime)
    changed |= {at for at in range(max(len(before), len(after))) if before[at : at + 1] != after[at : at + 1]}
    before = after
print(f"{len(times)} writes in 5 logins, which change the bytes {sorted(changed)} of {len(before)}")
assert len(times) == 5 and changed and max(changed) < 8, "the behaviour has changed"
PYTHON
venv/bin/python login.py "$module"
