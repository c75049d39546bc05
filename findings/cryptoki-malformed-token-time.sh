#!/usr/bin/env bash
# cryptoki refuses everything a token says of itself if the token's time is malformed.
#
# PKCS#11 3.1, section 3.2: the utcTime of a token with a clock has the form YYYYMMDDhhmmss00. openCryptoki 3.8.1
# (Debian 12) says that its token has a clock, and writes the local time of day instead, such as "14:05:09". If cryptoki
# 0.12.1 cannot read the time, get_token_info returns no label and no serial number either, and
# get_slots_with_initialized_token returns no slot at all, not even those of other tokens.
#
# Seen on 2026-11-29, with SoftHSM 2.6.1 behind a module that adds a clock: with the time "2026112914050900" both
# functions work; with "14:05:09" both return an error (ParseInt). pkcs11-tool of OpenSC 0.23.0 lists the token of both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq softhsm2=2.6.1-2.1 libsofthsm2=2.6.1-2.1 opensc=0.23.0-0.3+deb12u2 libp11-kit-dev=0.24.1-2 \
    >/dev/null 2>&1
for package in ./*.deb; do dpkg -x "$package" root; done
softhsm=$folder/$(find root -name libsofthsm2.so | head -n 1)
mkdir tokens
printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$folder" >softhsm2.conf
export SOFTHSM2_CONF=$folder/softhsm2.conf
root/usr/bin/softhsm2-util --module "$softhsm" --init-token --free --label t --so-pin 12345678 --pin 12345678 >/dev/null

cat >module.c <<'C'
#include <dlfcn.h>
#include <string.h>

#include <p11-kit/pkcs11.h>

static CK_FUNCTION_LIST functions;
static CK_C_GetTokenInfo real_get_token_info;

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    CK_RV code = real_get_token_info(slot, info);
    if (code == CKR_OK) {
        static const char time[16] = TIME;
        memcpy(info->utcTime, time, sizeof time);
        info->flags |= CKF_CLOCK_ON_TOKEN;
    }
    return code;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    void *softhsm = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get = dlsym(softhsm, "C_GetFunctionList");
    CK_FUNCTION_LIST *real;
    CK_RV code = get(&real);
    if (code != CKR_OK)
        return code;
    functions = *real;
    real_get_token_info = real->C_GetTokenInfo;
    functions.C_GetTokenInfo = get_token_info;
    *list = &functions;
    return CKR_OK;
}
C
# A module whose token has this time.
module() {
    cc -Wall -shared -fPIC -Iroot/usr/include/p11-kit-1 -DSOFTHSM="\"$softhsm\"" -DTIME="\"$2\"" -o "$1" module.c
}
module "$folder/good.so" 2026112914050900
module "$folder/malformed.so" 14:05:09

mkdir src
printf '[package]\nname = "describe"\nedition = "2021"\n[dependencies]\ncryptoki = "=0.12.1"\n' >Cargo.toml
cat >src/main.rs <<'RUST'
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};

fn main() {
    let module = Pkcs11::new(std::env::args().nth(1).unwrap()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    // SoftHSM's initialised token comes first.
    let slot = module.get_slots_with_token().unwrap()[0];
    let label = module.get_token_info(slot).map(|info| info.label().to_owned());
    let slots = module.get_slots_with_initialized_token().map(|slots| slots.len());
    println!("get_token_info: {label:?}");
    println!("get_slots_with_initialized_token: {slots:?}");
    module.finalize().unwrap();
}
RUST
CARGO_TARGET_DIR=$folder/target cargo build --quiet

# Whether pkcs11-tool lists the token.
lists() {
    root/usr/bin/pkcs11-tool --module "$1" --list-slots 2>/dev/null | grep -c 'token label *: t$'
}
seen="pkcs11-tool: $(lists "$folder/good.so") $(lists "$folder/malformed.so")
$(target/debug/describe "$folder/good.so")
$(target/debug/describe "$folder/malformed.so")"
echo "$seen"
[ "$seen" = 'pkcs11-tool: 1 1
get_token_info: Ok("t")
get_slots_with_initialized_token: Ok(1)
get_token_info: Err(ParseInt(ParseIntError { kind: InvalidDigit }))
get_slots_with_initialized_token: Err(ParseInt(ParseIntError { kind: InvalidDigit }))' ] || {
    echo 'the behaviour has changed'
    exit 1
}
