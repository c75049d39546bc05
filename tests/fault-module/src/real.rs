//! The real module, loaded once and never unloaded.

use std::{path::PathBuf, sync::OnceLock};

use cryptoki_sys::{CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CKR_OK};

/// The real module's functions. Ends the process if there is no real module, since nothing could be tested.
pub(crate) fn functions() -> &'static CK_FUNCTION_LIST {
    static FUNCTIONS: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let path = std::env::var_os("CLAVIGER_FAULT_MODULE")
            .map_or_else(|| PathBuf::from("/usr/lib/softhsm/libsofthsm2.so"), PathBuf::from);
        // SAFETY: loading a library runs its initialisers. This is the module that the test names.
        let library = match unsafe { cryptoki_sys::Pkcs11::new(&path) } {
            Ok(library) => Box::leak(Box::new(library)),
            Err(error) => crate::control::abort_with(&format!("{}: {error}", path.display())),
        };
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for one pointer; the function may be called at any time.
        let code = unsafe { library.C_GetFunctionList(&mut list) };
        if code != CKR_OK || list.is_null() {
            crate::control::abort_with(&format!("{}: C_GetFunctionList failed: {code:#x}", path.display()));
        }
        // SAFETY: the list is plain data, and valid while the module is loaded. The module is never unloaded.
        unsafe { list.read_unaligned() }
    })
}

/// Calls the real function of this name with these arguments, unless the call is refused.
macro_rules! real {
    ($call:expr, $name:ident($($argument:expr),*)) => {
        $call.refused().unwrap_or_else(|| match $crate::real::functions().$name {
            // SAFETY: the caller's own arguments, passed on to the same function.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        })
    };
}
pub(crate) use real;

/// A mechanism's type, for the trace.
pub(crate) fn mechanism_type(mechanism: *const CK_MECHANISM) -> Option<CK_MECHANISM_TYPE> {
    // SAFETY: null, or the caller's mechanism, which lives until the call returns.
    unsafe { mechanism.as_ref() }.map(|mechanism| mechanism.mechanism)
}
