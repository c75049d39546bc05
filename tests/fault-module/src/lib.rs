//! A PKCS#11 module that wraps a real one. It passes each call on and records it, and fails or returns wrong results on
//! order. For tests of how Claviger handles faulty tokens.
//!
//! | environment variable | meaning |
//! |---|---|
//! | `CLAVIGER_FAULT_MODULE` | the real module. Default: SoftHSM at its path on Debian |
//! | `CLAVIGER_FAULT_CONTROL` | the file with the orders, one a line. It is read at every call. The calls are written to the file with `.trace` appended to this name; the counters of a process are in the file with `.counts.PID` appended. Without the variable: no orders, no trace |
//! | `CLAVIGER_FAULT_QUICK` | if set, no trace is written, and the orders are read every 5 ms. For millions of calls |
//!
//! | order | effect |
//! |---|---|
//! | `claim 0x393` | C_GetMechanismList lists this mechanism too |
//! | `wrong F [WHEN]` | the function does its work and returns a wrong result: C_DeriveKey, C_DigestFinal, C_GetAttributeValue (of CKA_VALUE), C_GetTokenInfo (a utcTime that is no text), C_Sign, C_WrapKey |
//! | `refuse-point HEX 0x30` | ECDH with this public key, in the encoding of the caller, returns this code |
//! | `empty C_DeriveKey [WHEN]` | the function makes an object with an empty value, and returns CKR_OK |
//! | `skip F [WHEN]` | the function does nothing and returns CKR_OK |
//! | `fail F 0x30 [WHEN]` | the function does nothing and returns this code: no object is made or destroyed. Exception: C_CloseSession and C_CloseAllSessions do their work, since the caller gives up the handle and could never close the session |
//! | `recode F 0x80000001` | the function does its work; if it fails, it returns this code |
//! | `delay F 50 [WHEN]` | the function takes this many milliseconds longer |
//! | `hang F [WHEN]` | the function waits until this order is withdrawn, and then does its work |
//! | `crash F [WHEN]` | the process is aborted |
//! | `gone` | the token is removed: no slot has it, calls on it return CKR_TOKEN_NOT_PRESENT, and calls in a session CKR_DEVICE_REMOVED. When the order is withdrawn, the token is back, and calls in the old sessions return CKR_SESSION_HANDLE_INVALID |
//! | `dead` | the process has lost the token's objects for ever, like SoftHSM 2.6.1 after its folder was removed and came back: sessions open, searches find nothing, calls with a key return CKR_OBJECT_HANDLE_INVALID, C_GetTokenInfo and C_Login return CKR_GENERAL_ERROR. Withdrawing the order does not help; a new process does |
//! | `stuck 0x30` | every call but C_Initialize returns this code, like those of p11-kit's client after its connection was lost. Withdrawing the order does not help; a new process does |
//!
//! F is a function, or `*` for every function that opens a session or works in one, except those that set a PIN. WHEN
//! is `at N` (the Nth call only), `from N` (the Nth call and all later ones), `every N` (each Nth call) or
//! `one-in N [seed S]` (pseudo-random calls, the same for the same seed). Calls are counted from 1 since the order was given, in each process. If several
//! orders refuse a call, the first one decides. Every `delay` and `hang` is obeyed.
//!
//! The crate is built as two things: as the module, and as a library with which a test gives orders and counts
//! calls ([`Shim`]).

mod call;
mod control;
mod counters;
mod function;
mod lifetimes;
mod live_objects;
mod order;
mod pass_through;
mod real;
mod shim;
mod wrong_answers;

pub use shim::Shim;

use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_ARGUMENTS_BAD, CKR_OK};

/// Returns the functions of this module. Each calls the function of the same name in the real module.
///
/// # Safety
/// `list` is null or a valid place for one pointer (PKCS#11 v3.1 section 5.4.4).
#[allow(non_snake_case)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    static FUNCTIONS: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| {
        let mut functions = *real::functions();
        pass_through::install(&mut functions);
        wrong_answers::install(&mut functions);
        lifetimes::install(&mut functions);
        functions.C_GetFunctionList = Some(C_GetFunctionList);
        functions
    });
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and a valid place as the caller promises. The functions are never freed. No caller may write to
    // them, though the type allows it.
    unsafe { *list = std::ptr::from_ref(functions).cast_mut() };
    CKR_OK
}
