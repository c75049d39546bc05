#!/usr/bin/env bash
# did-webvh (Python) refuses domain names with a short label or one that begins with a digit, and converts no international ones.
#
# did:webvh 1.0 lets the host of a DID be any domain name, and "The DID to HTTPS Transformation", step 3, converts an
# internationalised name by IDNA. did-webvh 1.0.1 demands two characters and a letter at the beginning of each label, which RFC 1123
# does not. A percent-encoded international name is decoded and stays so: the text that the library writes back has characters that
# no DID can have.
#
# Seen on 2026-11-30: `x.org` and `3box.io` are invalid, `example.org` is valid; `b%C3%BCcher.example` comes back as `bücher.example`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'did-webvh==1.0.1'

cat >"$folder/hosts.py" <<'PYTHON'
import urllib.parse  # which did_webvh.domain_path uses, and does not import

from did_webvh.domain_path import DomainPath

SCID = "QmfGEUAcMpzo25kF2Rhn8L5FAXysfGnkzjwdKoNPi615XQ"


def written(host):
    try:
        return DomainPath.parse_identifier(f"{SCID}:{host}").identifier.removeprefix(f"{SCID}:")
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


for host, starts in [
    ("example.org", "example.org"),
    ("x.org", "ValueError"),
    ("3box.io", "ValueError"),
    ("b%C3%BCcher.example", "bücher.example"),
]:
    result = written(host)
    print(f"{host}: {result}")
    assert result.startswith(starts), "the behaviour has changed"
PYTHON
PYTHONIOENCODING=utf-8 "$folder/venv/bin/python" "$folder/hosts.py"
