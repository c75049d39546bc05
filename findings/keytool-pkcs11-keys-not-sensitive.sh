#!/usr/bin/env bash
# keytool makes private keys in a PKCS#11 token that are not sensitive.
#
# PKCS#11 3.1, section 4.9: the value of a private key can be read unless CKA_SENSITIVE is true or CKA_EXTRACTABLE is false.
# `keytool -genkeypair` of OpenJDK 17 (SunPKCS11) sets CKA_EXTRACTABLE to false, but leaves CKA_SENSITIVE false: on a token whose
# default that is, such as SoftHSM 2.6.1, the key is not sensitive, and a program that insists on both attributes does not use it. A
# line `attributes(generate, CKO_PRIVATE_KEY, *) = { CKA_SENSITIVE = true }` in the provider's configuration makes it sensitive.
#
# Seen on 2026-11-30: `sensitive` is false without that line, and true with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq softhsm2=2.6.1-2.1 libsofthsm2=2.6.1-2.1 openjdk-17-jre-headless=17.0.21.1+2-1~deb12u1 >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" unpacked; done
module=$(find "$folder/unpacked" -name libsofthsm2.so | head -n 1)
java=$(find "$folder/unpacked/usr/lib/jvm" -maxdepth 1 -name 'java-17-openjdk-*' -type d | head -n 1)
# The package's configuration is behind links to /etc.
find "$java" -lname '/etc/java-17-openjdk/*' | while read -r link; do ln -sfn "$folder/unpacked$(readlink "$link")" "$link"; done
mkdir tokens

printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$folder" >softhsm2.conf
export SOFTHSM2_CONF=$folder/softhsm2.conf
unpacked/usr/bin/softhsm2-util --module "$module" --init-token --free --label t --so-pin 12345678 --pin 12345678 >/dev/null
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install 'python-pkcs11==0.9.5'

make_key() {
    printf 'name = t\nlibrary = %s\nslotListIndex = 0\n%s\n' "$module" "$2" >"$1.cfg"
    "$java/bin/keytool" -genkeypair -alias "$1" -keyalg EC -groupname secp256r1 -dname "CN=$1" -storetype PKCS11 -keystore NONE \
        -storepass 12345678 -addprovider SunPKCS11 -providerArg "$1.cfg" >keytool.log 2>&1 || { cat keytool.log >&2; exit 1; }
}
make_key plain ''
make_key asked 'attributes(generate, CKO_PRIVATE_KEY, *) = {
  CKA_SENSITIVE = true
}'

cat >look.py <<'PYTHON'
import sys

import pkcs11
from pkcs11 import Attribute, ObjectClass

with pkcs11.lib(sys.argv[1]).get_token(token_label="t").open(user_pin="12345678") as session:
    for alias, sensitive in [("plain", False), ("asked", True)]:
        [key] = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: alias.encode()})
        print(f"{alias}: sensitive {key[Attribute.SENSITIVE]}, extractable {key[Attribute.EXTRACTABLE]}")
        assert key[Attribute.SENSITIVE] is sensitive and key[Attribute.EXTRACTABLE] is False, "the behaviour has changed"
PYTHON
venv/bin/python look.py "$module"
