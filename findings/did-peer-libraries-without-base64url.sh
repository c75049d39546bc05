#!/usr/bin/env bash
# Two libraries for peer DIDs refuse a did:peer:2 with `-` or `_` in its service, which base64url has.
#
# The Peer DID specification encodes the services of a did:peer:2 as base64url without padding, whose alphabet has `-` and `_`. The
# patterns of peerdid 0.5.2 (Python) and @aviarytech/did-peer 0.0.22 (JavaScript) do not know them: the first refuses the DID, and
# for the second it is no valid peer DID. Whether a DID has these characters depends on the text of its endpoint: one in a few.
#
# Seen on 2026-11-30: the same keys are accepted with the service endpoint `https://example.com/didcomm`, and refused with
# `https://example.com/~bob`, by both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'peerdid==0.5.2' 'pydid==0.3.11'
(cd "$folder" && npm init --yes >npm.log && npm install --silent --no-audit --no-fund '@aviarytech/did-peer@0.0.22' >>npm.log)

cat >"$folder/dids.py" <<'PYTHON'
import base64
import json

from peerdid import dids
from peerdid.errors import MalformedPeerDIDError

KEYS = "did:peer:2.Ez6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc.Vz6MkqRYqQiSgvZQdnBytw86Qbs2ZWUkGv22od935YF4s8M7V"


def did(uri):
    service = json.dumps({"t": "dm", "s": uri, "a": ["didcomm/v2"]}, separators=(",", ":"))
    return f"{KEYS}.S{base64.urlsafe_b64encode(service.encode()).rstrip(b'=').decode()}"


plain, special = did("https://example.com/didcomm"), did("https://example.com/~bob")
assert not set("-_") & set(plain) and set("-_") & set(special)
dids.resolve_peer_did(plain)
try:
    dids.resolve_peer_did(special)
    raise SystemExit("the behaviour of peerdid has changed: it resolves the DID")
except MalformedPeerDIDError:
    pass
print(json.dumps([plain, special]))
PYTHON
"$folder/venv/bin/python" "$folder/dids.py" >"$folder/dids.json"
echo 'peerdid 0.5.2: refuses the DID with - or _, and resolves the other'

cat >"$folder/dids.cjs" <<'JAVASCRIPT'
const { resolve } = require('@aviarytech/did-peer')
const [plain, special] = require('./dids.json')
const outcome = (did) => resolve(did).then(() => 'resolved', ({ message }) => message.replace(did, 'it'))
Promise.all([outcome(plain), outcome(special)]).then((outcomes) => {
    console.log(`@aviarytech/did-peer 0.0.22: the DID with - or _: "${outcomes[1]}"; the other: ${outcomes[0]}`)
    if (outcomes[0] !== 'resolved' || outcomes[1] !== 'it is not a valid did:peer') throw new Error('the behaviour has changed')
})
JAVASCRIPT
(cd "$folder" && node dids.cjs)
