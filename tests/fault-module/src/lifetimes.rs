//! The functions that begin and end sessions and objects, and those that show whether the token is present.
#![allow(non_snake_case)]

use std::{ffi::c_void, slice};

use cryptoki_sys::*;

use crate::{
    call::{Call, Scope},
    function::Function,
    live_objects,
    real::{mechanism_type, real},
};

pub(crate) fn install(functions: &mut CK_FUNCTION_LIST) {
    macro_rules! install {
        ($($name:ident)*) => {
            $(functions.$name = functions.$name.map(|_| $name as _);)*
        };
    }
    install!(C_Finalize C_GetSlotList C_GetSlotInfo C_OpenSession C_CloseSession C_CloseAllSessions C_Logout);
    install!(C_CreateObject C_CopyObject C_DestroyObject C_FindObjects C_GenerateKey C_GenerateKeyPair C_UnwrapKey);
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    let call = Call::begin(const { Function::named("C_Finalize") }, Scope::Module);
    let code = real!(call, C_Finalize(reserved));
    if succeeded(&call, code) {
        live_objects::sessions_closed(|_, _| true);
    }
    call.end(code)
}

unsafe extern "C" fn C_GetSlotList(with_token: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetSlotList") }, Scope::Module);
    let code = real!(call, C_GetSlotList(with_token, list, count));
    if succeeded(&call, code) && call.is_gone() && with_token != CK_FALSE {
        // SAFETY: the real function has just written there.
        unsafe { *count = 0 };
    }
    call.end(code)
}

unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    let call = Call::begin(const { Function::named("C_GetSlotInfo") }, Scope::Slot);
    let code = real!(call, C_GetSlotInfo(slot, info));
    if succeeded(&call, code) && call.is_gone() {
        // SAFETY: the real function has just written there.
        unsafe { (*info).flags &= !CKF_TOKEN_PRESENT };
    }
    call.end(code)
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_OpenSession") }, Scope::Slot);
    let code = real!(call, C_OpenSession(slot, flags, application, notify, session));
    if succeeded(&call, code) {
        // SAFETY: the real function has just written there.
        live_objects::session_opened(unsafe { *session }, slot);
    }
    call.end(code)
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    let call = Call::begin(const { Function::named("C_CloseSession") }, Scope::Session(session));
    let code = real!(call, C_CloseSession(session));
    if succeeded(&call, code) {
        live_objects::sessions_closed(|closed, _| closed == session);
    }
    call.end(code)
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    let call = Call::begin(const { Function::named("C_CloseAllSessions") }, Scope::Slot);
    let code = real!(call, C_CloseAllSessions(slot));
    if succeeded(&call, code) {
        live_objects::sessions_closed(|_, of| of == slot);
    }
    call.end(code)
}

unsafe extern "C" fn C_Logout(session: CK_SESSION_HANDLE) -> CK_RV {
    let call = Call::begin(const { Function::named("C_Logout") }, Scope::Session(session));
    let code = real!(call, C_Logout(session));
    if succeeded(&call, code) {
        live_objects::logged_out(session);
    }
    call.end(code)
}

unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_CreateObject") }, Scope::Session(session));
    let code = real!(call, C_CreateObject(session, template, count, object));
    if succeeded(&call, code) {
        record_object(session, template, count, object);
    }
    call.end(code)
}

unsafe extern "C" fn C_CopyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_CopyObject") }, Scope::Session(session));
    let code = real!(call, C_CopyObject(session, object, template, count, copy));
    // A copy of a token object is a token object unless the template says otherwise.
    if succeeded(&call, code) && (live_objects::is_live(object) || bool_in(template, count, CKA_TOKEN) == Some(false)) {
        record_object(session, template, count, copy);
    }
    call.end(code)
}

unsafe extern "C" fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    let call = Call::begin(const { Function::named("C_DestroyObject") }, Scope::Session(session));
    let code = real!(call, C_DestroyObject(session, object));
    if succeeded(&call, code) {
        live_objects::object_destroyed(object);
    }
    call.end(code)
}

/// A dead token finds no objects.
unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    room: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    let call = Call::begin(const { Function::named("C_FindObjects") }, Scope::Session(session));
    let code = real!(call, C_FindObjects(session, objects, room, count));
    if succeeded(&call, code) && call.is_dead() {
        // SAFETY: the real function has just written there.
        unsafe { *count = 0 };
    }
    call.end(code)
}

unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_GenerateKey") }, Scope::Session(session));
    call.mechanism = mechanism_type(mechanism);
    let code = real!(call, C_GenerateKey(session, mechanism, template, count, key));
    if succeeded(&call, code) {
        record_object(session, template, count, key);
    }
    call.end(code)
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_GenerateKeyPair") }, Scope::Session(session));
    call.mechanism = mechanism_type(mechanism);
    let code = real!(
        call,
        C_GenerateKeyPair(session, mechanism, public, public_count, private, private_count, public_key, private_key)
    );
    if succeeded(&call, code) {
        record_object(session, public, public_count, public_key);
        record_object(session, private, private_count, private_key);
    }
    call.end(code)
}

unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut call = Call::begin(const { Function::named("C_UnwrapKey") }, Scope::Session(session));
    call.mechanism = mechanism_type(mechanism);
    let code = real!(call, C_UnwrapKey(session, mechanism, unwrapping, wrapped, length, template, count, key));
    if succeeded(&call, code) {
        record_object(session, template, count, key);
    }
    call.end(code)
}

/// Whether the real function was called and succeeded.
pub(crate) fn succeeded(call: &Call, code: CK_RV) -> bool {
    code == CKR_OK && call.refused().is_none()
}

/// Records a new object if it is a session object.
pub(crate) fn record_object(
    session: CK_SESSION_HANDLE,
    template: *const CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *const CK_OBJECT_HANDLE,
) {
    if bool_in(template, count, CKA_TOKEN) != Some(true) {
        // Without CKA_PRIVATE, most tokens make a private object.
        let private = bool_in(template, count, CKA_PRIVATE) != Some(false);
        // SAFETY: the real function has just written there.
        live_objects::object_made(session, unsafe { *object }, private);
    }
}

/// The value of a CK_BBOOL attribute in a template that the real function has accepted.
fn bool_in(template: *const CK_ATTRIBUTE, count: CK_ULONG, attribute: CK_ATTRIBUTE_TYPE) -> Option<bool> {
    if template.is_null() || count == 0 {
        return None;
    }
    // SAFETY: not null, and the real function has taken it as `count` attributes.
    let template = unsafe { slice::from_raw_parts(template, count as usize) };
    let found = template.iter().find(|one| one.type_ == attribute && !one.pValue.is_null() && one.ulValueLen == 1)?;
    // SAFETY: not null, and one byte is there.
    Some(unsafe { *found.pValue.cast::<CK_BBOOL>() } != CK_FALSE)
}
