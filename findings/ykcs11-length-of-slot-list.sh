#!/usr/bin/env bash
# ykcs11 does not say how long the list of slots is when the buffer for it is too small.
#
# PKCS#11 3.1, section 5.2: a function that returns CKR_BUFFER_TOO_SMALL writes the number that it needs to the count. C_GetSlotList of
# ykcs11 2.2.0 leaves the caller's count as it is. A caller that asks for the number, then for the list, and then again with the number
# that it was told comes to no end if a card is inserted between its first two calls; the crate `cryptoki` 0.12.1 is such a caller. The
# number is right when it is asked for alone, with a null pointer.
#
# Seen on 2026-11-30, with two readers of pcscd 1.9.9 (vsmartcard-vpcd 3.3) and no card in them: the count stays 0 and should be 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq pcscd=1.9.9-2 libpcsclite1=1.9.9-2 vsmartcard-vpcd=3.3+dfsg-2 ykcs11=2.2.0-1.1 libykpiv2=2.2.0-1.1 >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" unpacked; done
libraries=$(dirname "$(find "$folder/unpacked" -name 'libykcs11.so.2' | head -n 1)")
driver=$(find "$folder/unpacked" -name 'libifdvpcd.so.*' | head -n 1)
printf 'FRIENDLYNAME "Yubico YubiKey"\nDEVICENAME /dev/null:0x8C7B\nLIBPATH %s\nCHANNELID 0x8C7B\n' "$driver" >readers

cat >slots.c <<'C'
#include <dlfcn.h>
#include <stdio.h>

/* The members of CK_FUNCTION_LIST up to the one that is called: the version, and pointers to functions. */
typedef unsigned long (*function)();
struct list { unsigned char version[2]; function c[68]; };
enum { INITIALIZE = 0, GET_SLOT_LIST = 4 };

int main(int count, char **arguments) {
    void *module = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    function get = module ? (function)dlsym(module, "C_GetFunctionList") : NULL;
    struct list *functions;
    unsigned long slots = 0, slot, code;
    if (!get || get(&functions) || functions->c[INITIALIZE](NULL)) return 2;
    if (functions->c[GET_SLOT_LIST](0, NULL, &slots)) return 2;
    printf("slots: %lu\n", slots);
    slots = 0;
    code = functions->c[GET_SLOT_LIST](0, &slot, &slots);
    printf("with room for none: 0x%lx, count %lu\n", code, slots);
    return code == 0x150 && slots == 0 ? 0 : 1;
}
C
cc -w -o slots slots.c -ldl

# pcscd has its socket at a fixed place, so it gets a /run of its own.
cat >run <<'SH'
mount -t tmpfs none /run
mkdir /run/pcscd
"$1/unpacked/usr/sbin/pcscd" --foreground --config "$1/readers" >/dev/null 2>&1 &
for _ in $(seq 100); do
    [ -S /run/pcscd/pcscd.comm ] && break
    sleep 0.1
done
sleep 1
code=0
LD_LIBRARY_PATH=$2 "$1/slots" "$2/libykcs11.so.2" || code=$?
kill %1
exit $code
SH
unshare --user --map-root-user --mount --net --pid --fork bash run "$folder" "$libraries" || {
    echo 'the behaviour has changed' >&2
    exit 1
}
