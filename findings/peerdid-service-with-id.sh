#!/usr/bin/env bash
# peerdid cannot resolve a did:peer:2 whose service has an `id`, and loses the parts of a DIDComm v2 service.
#
# The Peer DID specification lets a service in a did:peer:2 have an `id`, and recommends it. peerdid 0.5.2 passes the `id` that it
# makes and that of the service to one function, so it raises a TypeError, none of its own errors. Without an `id` the DID
# resolves; but the abbreviations are expanded at the top level alone: in a `serviceEndpoint` that is an object, as DIDComm v2 has
# it, `a` and `r` stay as they are, so the accepted media types and the routing keys are lost.
#
# Seen on 2026-11-30: TypeError with an `id`; without it, `serviceEndpoint` has the members `uri`, `a` and `r`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'peerdid==0.5.2' 'pydid==0.3.11'

cat >"$folder/resolve.py" <<'PYTHON'
import base64
import json

from peerdid import dids

KEYS = "did:peer:2.Ez6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc.Vz6MkqRYqQiSgvZQdnBytw86Qbs2ZWUkGv22od935YF4s8M7V"


def resolve(service):
    text = base64.urlsafe_b64encode(json.dumps(service, separators=(",", ":")).encode()).rstrip(b"=").decode()
    document = dids.resolve_peer_did(f"{KEYS}.S{text}")
    return json.loads(document.to_json() if hasattr(document, "to_json") else document)


endpoint = {"uri": "https://example.com/", "a": ["didcomm/v2"], "r": ["did:example:mediator#key-1"]}
try:
    resolve({"id": "#service", "t": "dm", "s": endpoint})
    raise SystemExit("the behaviour has changed: the service with an id resolves")
except TypeError as error:
    print(f"with an id: TypeError: {error}")

members = sorted(resolve({"t": "dm", "s": endpoint})["service"][0]["serviceEndpoint"])
print(f"without an id: serviceEndpoint has {members}")
assert members == ["a", "r", "uri"], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/resolve.py"
