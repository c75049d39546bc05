#!/usr/bin/env bash
# Each call of C_GetFunctionList of p11-kit's client module makes another instance of the module.
#
# PKCS#11 3.1, section 5.4.4: C_GetFunctionList returns a pointer to the library's list of functions. p11-kit-client.so
# 0.24.1 (Debian 12) returns another list each time, and each list has a state of its own. C_Initialize through one list
# leaves the others uninitialised. A program whose parts each ask for the list, such as a wrapper and the code beside
# it that calls a function the wrapper lacks, gets CKR_CRYPTOKI_NOT_INITIALIZED in one part only.
#
# Seen on 2026-11-29, with SoftHSM 2.6.1 behind `p11-kit server`: two calls return different lists. After C_Initialize
# through the first, C_GetSlotList returns 0x0 through the first and 0x190 through the second. SoftHSM itself returns
# the same list twice.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server"; } 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq p11-kit=0.24.1-2 p11-kit-modules=0.24.1-2 libp11-kit0=0.24.1-2 \
    softhsm2=2.6.1-2.1 libsofthsm2=2.6.1-2.1 >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" unpacked; done
softhsm=$folder/$(find unpacked -name libsofthsm2.so | head -n 1)
client=$folder/$(find unpacked -name p11-kit-client.so)
export LD_LIBRARY_PATH=${client%/pkcs11/*}
mkdir tokens run
chmod 700 run
printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$folder" >softhsm2.conf
export SOFTHSM2_CONF=$folder/softhsm2.conf
unpacked/usr/bin/softhsm2-util --module "$softhsm" --init-token --free --label t --so-pin 12345678 --pin 12345678 >/dev/null

export XDG_RUNTIME_DIR=$folder/run P11_KIT_PRIVATEDIR=$folder/unpacked/usr/libexec/p11-kit
"$P11_KIT_PRIVATEDIR/p11-kit-server" --foreground --name "$folder/run/socket" --provider "$softhsm" 'pkcs11:token=t' \
    >server.log 2>&1 &
server=$!
for _ in $(seq 100); do
    [ ! -S run/socket ] || break
    sleep 0.1
done
export P11_KIT_SERVER_ADDRESS=unix:path=$folder/run/socket

cat >lists.py <<'PYTHON'
import ctypes
import sys

CKR_OK = 0
CKR_CRYPTOKI_NOT_INITIALIZED = 0x190


class Functions(ctypes.Structure):
    """The start of CK_FUNCTION_LIST, up to the last function that is used here."""

    _fields_ = [
        ("version", ctypes.c_ubyte * 2),
        ("initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("get_info", ctypes.c_void_p),
        ("get_function_list", ctypes.c_void_p),
        (
            "get_slot_list",
            ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ubyte, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulong)),
        ),
    ]


def function_list(module):
    module.C_GetFunctionList.restype = ctypes.c_ulong
    functions = ctypes.POINTER(Functions)()
    assert module.C_GetFunctionList(ctypes.byref(functions)) == CKR_OK
    return functions.contents


def slots(functions):
    return functions.get_slot_list(1, None, ctypes.byref(ctypes.c_ulong()))


def try_twice(name, path):
    module = ctypes.CDLL(path)
    first, second = function_list(module), function_list(module)
    same = ctypes.addressof(first) == ctypes.addressof(second)
    assert first.initialize(None) == CKR_OK
    codes = slots(first), slots(second)
    assert first.finalize(None) == CKR_OK
    lists = "the same list" if same else "different lists"
    print(f"{name}: two calls return {lists}; C_GetSlotList returns {codes[0]:#x} and {codes[1]:#x}")
    return same, *codes


assert try_twice("SoftHSM", sys.argv[1]) == (True, CKR_OK, CKR_OK), "the behaviour has changed"
client = try_twice("p11-kit's client", sys.argv[2])
assert client == (False, CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED), "the behaviour has changed"
PYTHON
python3 lists.py "$softhsm" "$client"
