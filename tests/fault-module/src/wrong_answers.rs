//! The functions that can return wrong results, and the list of mechanisms.
//!
//! Each function calls the real one first, so that only the result is wrong.
#![allow(non_snake_case)]

use std::slice;

use cryptoki_sys::*;

use crate::{
    call::{Call, Scope},
    function::Function,
    lifetimes::{record_object, succeeded},
    real::{self, mechanism_type, real},
};

pub(crate) fn install(functions: &mut CK_FUNCTION_LIST) {
    functions.C_GetTokenInfo = functions.C_GetTokenInfo.map(|_| C_GetTokenInfo as _);
    functions.C_GetMechanismList = functions.C_GetMechanismList.map(|_| C_GetMechanismList as _);
    functions.C_GetAttributeValue = functions.C_GetAttributeValue.map(|_| C_GetAttributeValue as _);
    functions.C_DigestFinal = functions.C_DigestFinal.map(|_| C_DigestFinal as _);
    functions.C_Sign = functions.C_Sign.map(|_| C_Sign as _);
    functions.C_WrapKey = functions.C_WrapKey.map(|_| C_WrapKey as _);
    functions.C_DeriveKey = functions.C_DeriveKey.map(|_| C_DeriveKey as _);
}

/// With the order `wrong`, the token's time is no text, as with openCryptoki 3.8.1.
unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetTokenInfo") }, Scope::Slot);
    let code = real!(call, C_GetTokenInfo(slot, info));
    if code == CKR_OK && call.is_wrong() {
        // SAFETY: the real function has just written there.
        unsafe {
            (*info).flags |= CKF_CLOCK_ON_TOKEN;
            (*info).utcTime = *b"20\0\xff\xff no time  \0";
        }
    }
    call.end(code)
}

unsafe extern "C" fn C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetMechanismList") }, Scope::Slot);
    let claims = call.claims();
    if list.is_null() || claims.is_empty() {
        let code = real!(call, C_GetMechanismList(slot, list, count));
        if code == CKR_OK && !count.is_null() {
            // SAFETY: the real function has just written there.
            unsafe { *count += claims.len() as CK_ULONG };
        }
        return call.end(code);
    }
    // SAFETY: not null, hence the place of a count (PKCS#11 v3.1 section 5.5.7).
    let room = unsafe { *count };
    let code = real!(call, C_GetMechanismList(slot, list, count));
    if code == CKR_OK {
        // SAFETY: the real function has written this many entries, at most `room`.
        let written = unsafe { *count };
        if written + claims.len() as CK_ULONG > room {
            return call.end(CKR_BUFFER_TOO_SMALL);
        }
        for (at, claim) in claims.iter().enumerate() {
            // SAFETY: within `room`, as checked above.
            unsafe { *list.add(written as usize + at) = *claim };
        }
        // SAFETY: as above.
        unsafe { *count = written + claims.len() as CK_ULONG };
    }
    call.end(code)
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetAttributeValue") }, Scope::Session(session));
    let code = real!(call, C_GetAttributeValue(session, object, template, count));
    if code == CKR_OK && call.is_wrong() {
        // SAFETY: the real function has accepted the template, so it has `count` attributes.
        for attribute in unsafe { slice::from_raw_parts(template, count as usize) } {
            if attribute.type_ == CKA_VALUE && attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION {
                flip_bit(attribute.pValue.cast(), attribute.ulValueLen);
            }
        }
    }
    call.end(code)
}

unsafe extern "C" fn C_DigestFinal(session: CK_SESSION_HANDLE, digest: *mut CK_BYTE, length: *mut CK_ULONG) -> CK_RV {
    let call = Call::begin(const { Function::named("C_DigestFinal") }, Scope::Session(session));
    let code = real!(call, C_DigestFinal(session, digest, length));
    falsify_if_ordered(&call, code, digest, length);
    call.end(code)
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_Sign") }, Scope::Session(session));
    let code = real!(call, C_Sign(session, data, data_length, signature, length));
    falsify_if_ordered(&call, code, signature, length);
    call.end(code)
}

unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_WrapKey") }, Scope::Session(session));
    call.mechanism = mechanism_type(mechanism);
    let code = real!(call, C_WrapKey(session, mechanism, wrapping, key, wrapped, length));
    falsify_if_ordered(&call, code, wrapped, length);
    call.end(code)
}

/// With the order `wrong`, the derivation returns another object, with the same template and a fixed value; with the order
/// `empty`, one with an empty value.
unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_DeriveKey") }, Scope::Session(session));
    call.mechanism = mechanism_type(mechanism);
    if call.mechanism == Some(CKM_ECDH1_DERIVE) {
        // SAFETY: the mechanism's parameter is a CK_ECDH1_DERIVE_PARAMS (PKCS#11 v3.1 section 6.3.19), whose public data
        // the caller keeps until the call returns.
        let point = unsafe {
            let parameters = (*mechanism).pParameter.cast::<CK_ECDH1_DERIVE_PARAMS>().read_unaligned();
            slice::from_raw_parts(parameters.pPublicData, parameters.ulPublicDataLen as usize)
        };
        call.refuse_point(point);
    }
    let code = real!(call, C_DeriveKey(session, mechanism, base, template, count, key));
    if code != CKR_OK || !call.is_wrong() {
        if succeeded(&call, code) {
            record_object(session, template, count, key);
        }
        return call.end(code);
    }
    // SAFETY: the real function has accepted the template, so it has `count` attributes.
    let requested = unsafe { slice::from_raw_parts(template, count as usize) };
    let length = if call.is_empty() { 0 } else { length_in(requested).unwrap_or(32) };
    let mut value = vec![0x5a_u8; length];
    let mut other: Vec<_> = requested.iter().filter(|attribute| attribute.type_ != CKA_VALUE_LEN).copied().collect();
    other.push(CK_ATTRIBUTE {
        type_: CKA_VALUE,
        pValue: value.as_mut_ptr().cast(),
        ulValueLen: value.len() as CK_ULONG,
    });
    let functions = real::functions();
    let (Some(create), Some(destroy)) = (functions.C_CreateObject, functions.C_DestroyObject) else {
        return call.end(CKR_FUNCTION_NOT_SUPPORTED);
    };
    // SAFETY: `key` holds the handle that the real function wrote; the new template's pointers are the caller's and
    // that of `value`, which outlives the call.
    let code = unsafe {
        destroy(session, *key);
        create(session, other.as_mut_ptr(), other.len() as CK_ULONG, key)
    };
    if code == CKR_OK {
        record_object(session, template, count, key);
    }
    call.end(code)
}

fn length_in(template: &[CK_ATTRIBUTE]) -> Option<usize> {
    let length = template.iter().find(|attribute| attribute.type_ == CKA_VALUE_LEN)?;
    // SAFETY: CKA_VALUE_LEN is a CK_ULONG, and the module has taken it.
    let length = unsafe { length.pValue.cast::<CK_ULONG>().read_unaligned() };
    Some(length as usize)
}

fn falsify_if_ordered(call: &Call, code: CK_RV, output: *mut CK_BYTE, length: *const CK_ULONG) {
    // A null output asks for the length only.
    if code == CKR_OK && call.is_wrong() && !output.is_null() {
        // SAFETY: the real function has written the length there.
        flip_bit(output, unsafe { *length });
    }
}

/// Changes one bit of an output that the real function has written.
fn flip_bit(output: *mut CK_BYTE, length: CK_ULONG) {
    if !output.is_null() && length > 0 {
        // SAFETY: the real function has written `length` bytes there, at least one.
        unsafe { *output ^= 1 };
    }
}
