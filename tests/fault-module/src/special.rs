//! The functions whose answers can be made wrong, and the list of mechanisms.
//!
//! Each does the real work first, so that a wrong answer is the only thing that is wrong.
#![allow(non_snake_case)]

use std::slice;

use cryptoki_sys::*;

use crate::{
    call::{Call, Place},
    function::Function,
    life::{done, made},
    real::{self, kind, real},
};

pub(crate) fn install(functions: &mut CK_FUNCTION_LIST) {
    functions.C_GetMechanismList = functions.C_GetMechanismList.map(|_| C_GetMechanismList as _);
    functions.C_GetAttributeValue = functions.C_GetAttributeValue.map(|_| C_GetAttributeValue as _);
    functions.C_DigestFinal = functions.C_DigestFinal.map(|_| C_DigestFinal as _);
    functions.C_Sign = functions.C_Sign.map(|_| C_Sign as _);
    functions.C_WrapKey = functions.C_WrapKey.map(|_| C_WrapKey as _);
    functions.C_DeriveKey = functions.C_DeriveKey.map(|_| C_DeriveKey as _);
}

unsafe extern "C" fn C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetMechanismList") }, Place::Slot);
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
        // SAFETY: the real function has written so many, of the `room` that there is.
        let written = unsafe { *count };
        if written + claims.len() as CK_ULONG > room {
            return call.end(CKR_BUFFER_TOO_SMALL);
        }
        for (at, claim) in claims.iter().enumerate() {
            // SAFETY: within the room, as has just been seen.
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
    let call = Call::begin(const { Function::named("C_GetAttributeValue") }, Place::Session(session));
    let code = real!(call, C_GetAttributeValue(session, object, template, count));
    if code == CKR_OK && call.is_wrong() {
        // SAFETY: the real function has taken the template, so it is one of `count` attributes.
        for attribute in unsafe { slice::from_raw_parts(template, count as usize) } {
            if attribute.type_ == CKA_VALUE && attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION {
                flip(attribute.pValue.cast(), attribute.ulValueLen);
            }
        }
    }
    call.end(code)
}

unsafe extern "C" fn C_DigestFinal(session: CK_SESSION_HANDLE, digest: *mut CK_BYTE, length: *mut CK_ULONG) -> CK_RV {
    let call = Call::begin(const { Function::named("C_DigestFinal") }, Place::Session(session));
    let code = real!(call, C_DigestFinal(session, digest, length));
    wrong_if_ordered(&call, code, digest, length);
    call.end(code)
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_Sign") }, Place::Session(session));
    let code = real!(call, C_Sign(session, data, data_length, signature, length));
    wrong_if_ordered(&call, code, signature, length);
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
    let mut call = Call::begin(const { Function::named("C_WrapKey") }, Place::Session(session));
    call.mechanism = kind(mechanism);
    let code = real!(call, C_WrapKey(session, mechanism, wrapping, key, wrapped, length));
    wrong_if_ordered(&call, code, wrapped, length);
    call.end(code)
}

/// Wrong is: the derived object is another, with the same template and a value of its own.
unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_DeriveKey") }, Place::Session(session));
    call.mechanism = kind(mechanism);
    let code = real!(call, C_DeriveKey(session, mechanism, base, template, count, key));
    if code != CKR_OK || !call.is_wrong() {
        if done(&call, code) {
            made(session, template, count, key);
        }
        return call.end(code);
    }
    // SAFETY: the real function has taken the template, so it is one of `count` attributes.
    let asked = unsafe { slice::from_raw_parts(template, count as usize) };
    let mut value = vec![0x5a_u8; length_in(asked).unwrap_or(32)];
    let mut other: Vec<_> = asked.iter().filter(|attribute| attribute.type_ != CKA_VALUE_LEN).copied().collect();
    other.push(CK_ATTRIBUTE {
        type_: CKA_VALUE,
        pValue: value.as_mut_ptr().cast(),
        ulValueLen: value.len() as CK_ULONG,
    });
    let functions = real::functions();
    let (Some(create), Some(destroy)) = (functions.C_CreateObject, functions.C_DestroyObject) else {
        return call.end(CKR_FUNCTION_NOT_SUPPORTED);
    };
    // SAFETY: `key` holds the handle that the real function wrote; the new template's pointers are the caller's and that
    // of `value`, which lives on.
    let code = unsafe {
        destroy(session, *key);
        create(session, other.as_mut_ptr(), other.len() as CK_ULONG, key)
    };
    if code == CKR_OK {
        made(session, template, count, key);
    }
    call.end(code)
}

fn length_in(template: &[CK_ATTRIBUTE]) -> Option<usize> {
    let length = template.iter().find(|attribute| attribute.type_ == CKA_VALUE_LEN)?;
    // SAFETY: CKA_VALUE_LEN is a CK_ULONG, and the module has taken it.
    let length = unsafe { length.pValue.cast::<CK_ULONG>().read_unaligned() };
    Some(length as usize)
}

fn wrong_if_ordered(call: &Call, code: CK_RV, output: *mut CK_BYTE, length: *const CK_ULONG) {
    // A null output asks for the length only.
    if code == CKR_OK && call.is_wrong() && !output.is_null() {
        // SAFETY: the real function has written the length there.
        flip(output, unsafe { *length });
    }
}

/// Changes one bit of an output that the real function has written.
fn flip(output: *mut CK_BYTE, length: CK_ULONG) {
    if !output.is_null() && length > 0 {
        // SAFETY: the real function has written `length` bytes there, so there is a first.
        unsafe { *output ^= 1 };
    }
}
