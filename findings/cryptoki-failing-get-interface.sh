#!/usr/bin/env bash
# cryptoki does not load a module whose C_GetInterface returns an error, though its C_GetFunctionList works.
#
# PKCS#11 3.1, section 5.4.6: C_GetInterface came with version 3.0. Some modules export it and return
# CKR_FUNCTION_NOT_SUPPORTED (0x54), as Luna 10.5 does with an older firmware; all they have is in the list that
# C_GetFunctionList returns. cryptoki 0.12.1 asks for that list if C_GetInterface is missing, or succeeds without a list
# of version 3. If it returns an error, Pkcs11::new returns this error, and no other constructor takes a list.
#
# Seen on 2026-11-29, with a module that passes on the list of SoftHSM 2.6.1 and returns 0x54 for C_GetInterface:
# cryptoki loads SoftHSM and refuses this module. pkcs11-tool of OpenSC 0.23.0 lists the token of both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq softhsm2=2.6.1-2.1 libsofthsm2=2.6.1-2.1 opensc=0.23.0-0.3+deb12u2 >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" root; done
softhsm=$folder/$(find root -name libsofthsm2.so | head -n 1)
mkdir tokens
printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$folder" >softhsm2.conf
export SOFTHSM2_CONF=$folder/softhsm2.conf
root/usr/bin/softhsm2-util --module "$softhsm" --init-token --free --label t --so-pin 12345678 --pin 12345678 >/dev/null

cat >module.c <<'C'
#include <dlfcn.h>

unsigned long C_GetFunctionList(void **list)
{
    void *softhsm = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    unsigned long (*get)(void **) = dlsym(softhsm, "C_GetFunctionList");
    return get(list);
}

unsigned long C_GetInterface(unsigned char *name, void *version, void **interface, unsigned long flags)
{
    (void)name, (void)version, (void)interface, (void)flags;
    return 0x54; /* CKR_FUNCTION_NOT_SUPPORTED */
}
C
module=$folder/module.so
cc -Wall -shared -fPIC -DSOFTHSM="\"$softhsm\"" -o "$module" module.c

mkdir src
printf '[package]\nname = "load"\nedition = "2021"\n[dependencies]\ncryptoki = "=0.12.1"\n' >Cargo.toml
cat >src/main.rs <<'RUST'
fn main() {
    for module in std::env::args().skip(1) {
        match cryptoki::context::Pkcs11::new(module) {
            Ok(_) => println!("loaded"),
            Err(error) => println!("{error:?}"),
        }
    }
}
RUST
CARGO_TARGET_DIR=$folder/target cargo build --quiet

# Whether pkcs11-tool lists the token.
lists() {
    root/usr/bin/pkcs11-tool --module "$1" --list-slots 2>/dev/null | grep -c 'token label *: t$'
}
seen="pkcs11-tool: $(lists "$softhsm") $(lists "$module")
cryptoki: $(target/debug/load "$softhsm" "$module")"
echo "$seen"
[ "$seen" = 'pkcs11-tool: 1 1
cryptoki: loaded
Pkcs11(FunctionNotSupported, GetInterface)' ] || { echo 'the behaviour has changed'; exit 1; }
