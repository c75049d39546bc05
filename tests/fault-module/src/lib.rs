//! A PKCS#11 module that stands before a real one: it passes every call on, writes it down, and lies or fails as it is
//! told. For tests of what Claviger makes of a token that is not as it should be.
//!
//! | environment variable | |
//! |---|---|
//! | `CLAVIGER_FAULT_MODULE` | the real module; SoftHSM where Debian puts it if not said |
//! | `CLAVIGER_FAULT_CONTROL` | the file with the orders, a line each; it is read at every call. With `.trace` behind its name, the file that each call is written to; with `.counts.PID`, the counters of a process. Without it: no orders, no trace |
//! | `CLAVIGER_FAULT_QUICK` | set: no trace is written, and the orders are read every 5 ms. For millions of calls |
//!
//! | order | |
//! |---|---|
//! | `claim 0x393` | C_GetMechanismList lists this mechanism too |
//! | `wrong F` | the function does its work and gives a wrong answer: C_DeriveKey, C_DigestFinal, C_GetAttributeValue (of CKA_VALUE), C_Sign, C_WrapKey |
//! | `skip F [WHEN]` | the function says CKR_OK and does nothing |
//! | `fail F 0x30 [WHEN]` | the function does nothing and returns this: what it was to make is not made, what it was to destroy is still there. Only C_CloseSession and C_CloseAllSessions do their work all the same, since nobody can close what he has let go of |
//! | `delay F 50 [WHEN]` | the function takes so many milliseconds longer |
//! | `hang F [WHEN]` | the function waits until this order is gone, and then does its work |
//! | `crash F [WHEN]` | the process is aborted |
//! | `gone` | the token is taken out: no slot has it, what is asked of it is CKR_TOKEN_NOT_PRESENT and what is asked in a session CKR_DEVICE_REMOVED. When the order goes the token is back, and the sessions of before are CKR_SESSION_HANDLE_INVALID |
//! | `dead` | the process has lost the token's objects for ever, as SoftHSM 2.6.1 has when its folder went away and came back: sessions open, searches find nothing, keys are CKR_OBJECT_HANDLE_INVALID, C_GetTokenInfo and C_Login CKR_GENERAL_ERROR. Taking the order away does not help; a new process does |
//!
//! F is a function, or `*` for every one that opens a session or works in one, but those that set a PIN. WHEN is `at N`
//! (that call only), `from N` or `one-in N [seed S]` (at random, the same for the same seed); calls are counted from 1
//! since the order was given, in each process. The first order that refuses a call decides; each `delay` and `hang`
//! is obeyed.
//!
//! The crate is built twice over: as the module, and as a library with which a test gives orders and counts calls
//! ([`Shim`]).

mod call;
mod control;
mod counts;
mod function;
mod ledger;
mod life;
mod order;
mod plain;
mod real;
mod shim;
mod special;

pub use shim::Shim;

use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_ARGUMENTS_BAD, CKR_OK};

/// Gives out the functions of this module, each of which calls its namesake in the real one.
///
/// # Safety
/// `list` is null or a valid place for one pointer (PKCS#11 v3.1 section 5.4.4).
#[allow(non_snake_case)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    static FUNCTIONS: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| {
        let mut functions = *real::functions();
        plain::install(&mut functions);
        special::install(&mut functions);
        life::install(&mut functions);
        functions.C_GetFunctionList = Some(C_GetFunctionList);
        functions
    });
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and a valid place as the caller promises. The functions live for ever, and no caller may write
    // to them, though the type lets it.
    unsafe { *list = std::ptr::from_ref(functions).cast_mut() };
    CKR_OK
}
