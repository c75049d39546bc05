//! A PKCS#11 module that stands before a real one: it passes every call on, writes it down, and lies or fails as it is
//! told. For tests of what Claviger makes of a token that is not as it should be.
//!
//! | environment variable | |
//! |---|---|
//! | `CLAVIGER_FAULT_MODULE` | the real module; SoftHSM where Debian puts it if not said |
//! | `CLAVIGER_FAULT_CONTROL` | the file with the orders (see [`Order`]); it is read at every call. With `.trace` behind its name, the file that each call is written to. Without it: no orders, no trace |
//!
//! The crate is built twice over: as the module, and as a library with which a test gives orders and counts calls
//! ([`Shim`]).

mod control;
mod plain;
mod real;
mod shim;
mod special;

pub use control::Order;
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
