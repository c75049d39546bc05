//! The few calls that `cryptoki` 0.12 cannot make, or makes only by leaving copies of secrets in memory. This is the
//! crate's only unsafe code.
//!
//! - CKM_SHA256_KEY_DERIVATION: cryptoki's `MechanismType` has no way to name it (`new_vendor_defined` accepts only
//!   numbers above CKM_VENDOR_DEFINED).
//! - C_Initialize with a string for the module in pReserved, which NSS softokn needs.
//! - C_GetFunctionList alone, once (`one_symbol.rs` says why).
//! - C_GetMechanismList and C_GetMechanismInfo: cryptoki leaves out the mechanisms that it does not know.
//! - C_GetSlotList: cryptoki asks again without a limit while the module says that the buffer is too small.
//! - C_GetInfo, C_GetSlotInfo and C_GetTokenInfo: cryptoki refuses the whole answer if one text in it is malformed, as the utcTime of
//!   openCryptoki 3.8.1 is.
//! - C_GetAttributeValue of CKA_VALUE, and C_DigestFinal: one call, into a buffer that the caller erases. cryptoki
//!   makes two calls, the first for the length, and does not erase its buffer.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    path::Path,
    ptr::NonNull,
    sync::{
        Mutex,
        atomic::{AtomicPtr, Ordering},
    },
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error, Result, Rv, RvError},
    object::{Attribute, ObjectHandle},
    session::Session,
    slot::Slot,
};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM, CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_RV, CK_SLOT_ID,
    CK_SLOT_INFO, CK_TOKEN_INFO, CK_TRUE, CK_UNAVAILABLE_INFORMATION, CKA_VALUE, CKM_SHA256_KEY_DERIVATION,
    CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL, CKR_OK,
};

use super::one_symbol;
use crate::secrets::mutex::lock;

/// How often a list of slots is asked for while it grows.
const SLOT_LIST_TRIES: usize = 8;

/// Initialises a module, with a string of parameters if the module needs one.
///
/// In CK_C_INITIALIZE_ARGS of NSS 3.87 the member LibraryParameters, a C string, is in the place of pReserved (NSS,
/// lib/util/pkcs11t.h). Without it C_Initialize returns CKR_ARGUMENTS_BAD. NSS also reads one member behind the
/// structure as its own pReserved, but never uses that member.
pub(super) fn initialize(context: &Pkcs11, parameters: Option<&CStr>) -> Result<()> {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    context.initialize(match parameters {
        None => CInitializeArgs::new(flags),
        // SAFETY: the pointer is to a C string that lives until the call returns; the module only reads it. A module
        // without parameters must refuse any pointer here (PKCS#11 v3.1 section 5.4.1).
        Some(text) => unsafe { CInitializeArgs::new_with_reserved(flags, NonNull::from(text).cast()) },
    })
}

/// The number of a slot as a CK_ULONG, which has 32 bits on some platforms.
#[allow(clippy::useless_conversion)]
fn slot_id(slot: Slot) -> Result<CK_SLOT_ID> {
    Ok(slot.id().try_into()?)
}

/// The function list that [`get_function_list`] returns.
static FUNCTION_LIST: AtomicPtr<CK_FUNCTION_LIST> = AtomicPtr::new(std::ptr::null_mut());

/// C_GetFunctionList of the library in memory.
unsafe extern "C" fn get_function_list(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and a valid place as the caller promises (PKCS#11 v3.1 section 5.4.4).
    unsafe { *list = FUNCTION_LIST.load(Ordering::Acquire) };
    CKR_OK
}

/// A context with the functions in `list`; none if the system does not load the library in
/// memory, or does not return its symbol unchanged.
fn context_of(list: *mut CK_FUNCTION_LIST) -> Option<Pkcs11> {
    // Held until the context has read the list.
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = lock(&LOADING);
    FUNCTION_LIST.store(list, Ordering::Release);
    let own: unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV = get_function_list;
    let file = memory_file(&one_symbol::library("C_GetFunctionList", own as usize)?)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    // SAFETY: the library has no code.
    let library = unsafe { cryptoki_sys::Pkcs11::new(&path) }.ok()?;
    let is_unchanged = library.C_GetFunctionList.as_ref().is_ok_and(|found| *found as usize == own as usize);
    if !is_unchanged || library.C_GetInterface.is_ok() {
        return None;
    }
    Pkcs11::new(&path).ok()
}

#[cfg(target_os = "linux")]
fn memory_file(bytes: &[u8]) -> Option<std::fs::File> {
    let memory = rustix::fs::memfd_create("claviger-function-list", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = std::fs::File::from(memory);
    std::io::Write::write_all(&mut file, bytes).ok()?;
    Some(file)
}

#[cfg(not(target_os = "linux"))]
fn memory_file(_: &[u8]) -> Option<std::fs::File> {
    None
}

/// The functions of a loaded module.
pub(super) struct Raw {
    functions: CK_FUNCTION_LIST,
    /// Keeps the module loaded while the function pointers exist.
    _library: cryptoki_sys::Pkcs11,
}

impl Raw {
    /// Loads the module at `path`. The context and the functions are those of one C_GetFunctionList of the module itself.
    /// C_GetInterface is not asked.
    pub(super) fn load(path: &Path) -> Result<(Pkcs11, Self)> {
        // SAFETY: loading a library runs its initialisers. This is the module that the operator configured.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(Error::LibraryLoading)?;
        if library.C_GetFunctionList.is_err() {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for one pointer. C_GetFunctionList may be called at any time (PKCS#11 v3.1
        // section 5.4.4).
        Rv::from(unsafe { library.C_GetFunctionList(&mut list) }).into_result(Function::GetFunctionList)?;
        if list.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: CKR_OK means that `list` points to the module's CK_FUNCTION_LIST, which lives as long as the module
        // is loaded. The structure is plain data, and this copies it.
        let functions = unsafe { list.read_unaligned() };
        let context = match context_of(list) {
            Some(context) => context,
            // The system takes no library from memory.
            None => Pkcs11::new(path)?,
        };
        Ok((context, Self { functions, _library: library }))
    }

    /// Reads CK_INFO as the module returns it. Nothing in it is checked.
    pub(super) fn info(&self) -> Result<CK_INFO> {
        let read = self.functions.C_GetInfo.ok_or(Error::NullFunctionPointer)?;
        let mut info = CK_INFO::default();
        // SAFETY: `info` is a CK_INFO of plain data, borrowed mutably until the call returns.
        let code = unsafe { read(&mut info) };
        Rv::from(code).into_result(Function::GetInfo)?;
        Ok(info)
    }

    /// The slots that have a token.
    ///
    /// The token of another slot may appear between the two calls. A module that then does not write the greater number
    /// (ykcs11 2.2.0) keeps `cryptoki` 0.12.1 in a loop without an end, so here it is asked for the number again.
    pub(super) fn slots_with_token(&self) -> Result<Vec<Slot>> {
        let list = self.functions.C_GetSlotList.ok_or(Error::NullFunctionPointer)?;
        let mut room = 0;
        for _ in 0..SLOT_LIST_TRIES {
            if room == 0 {
                // SAFETY: a null pointer asks for the number alone, which is written to `room`.
                let code = unsafe { list(CK_TRUE, std::ptr::null_mut(), &mut room) };
                Rv::from(code).into_result(Function::GetSlotList)?;
            }
            let (mut slots, mut count) = (vec![0; usize::try_from(room)?], room);
            // SAFETY: `slots` has room for `count` numbers, and is borrowed mutably until the call returns.
            let code = unsafe { list(CK_TRUE, slots.as_mut_ptr(), &mut count) };
            if code != CKR_BUFFER_TOO_SMALL {
                Rv::from(code).into_result(Function::GetSlotList)?;
                slots.truncate(usize::try_from(count)?);
                return slots.into_iter().map(Slot::try_from).collect();
            }
            // SoftHSM 2.6.1 finds slots in the second call only, and says how many.
            room = if count > room { count } else { 0 };
        }
        Err(Error::Pkcs11(RvError::BufferTooSmall, Function::GetSlotList))
    }

    /// Reads CK_SLOT_INFO as the module returns it. Nothing in it is checked.
    pub(super) fn slot_info(&self, slot: Slot) -> Result<CK_SLOT_INFO> {
        let read = self.functions.C_GetSlotInfo.ok_or(Error::NullFunctionPointer)?;
        let mut info = CK_SLOT_INFO::default();
        // SAFETY: `info` is a CK_SLOT_INFO of plain data, borrowed mutably until the call returns.
        let code = unsafe { read(slot_id(slot)?, &mut info) };
        Rv::from(code).into_result(Function::GetSlotInfo)?;
        Ok(info)
    }

    /// Reads CK_TOKEN_INFO as the module returns it. Nothing in it is checked.
    pub(super) fn token_info(&self, slot: Slot) -> Result<CK_TOKEN_INFO> {
        let read = self.functions.C_GetTokenInfo.ok_or(Error::NullFunctionPointer)?;
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: `info` is a CK_TOKEN_INFO of plain data, borrowed mutably until the call returns.
        let code = unsafe { read(slot_id(slot)?, &mut info) };
        Rv::from(code).into_result(Function::GetTokenInfo)?;
        Ok(info)
    }

    /// The numbers of the mechanisms that the module lists for a slot's token.
    pub(super) fn mechanism_types(&self, slot: Slot) -> Result<Vec<CK_MECHANISM_TYPE>> {
        let list = self.functions.C_GetMechanismList.ok_or(Error::NullFunctionPointer)?;
        let mut count = 0;
        // SAFETY: a null pointer asks for the number alone, which is written to `count`.
        let code = unsafe { list(slot_id(slot)?, std::ptr::null_mut(), &mut count) };
        Rv::from(code).into_result(Function::GetMechanismList)?;
        let mut types = vec![0; usize::try_from(count)?];
        // SAFETY: `types` has room for `count` numbers, and is borrowed mutably until the call returns.
        let code = unsafe { list(slot_id(slot)?, types.as_mut_ptr(), &mut count) };
        Rv::from(code).into_result(Function::GetMechanismList)?;
        types.truncate(usize::try_from(count)?);
        Ok(types)
    }

    /// Reads CK_MECHANISM_INFO as the module returns it. Nothing in it is checked.
    pub(super) fn mechanism_info(&self, slot: Slot, mechanism: CK_MECHANISM_TYPE) -> Result<CK_MECHANISM_INFO> {
        let read = self.functions.C_GetMechanismInfo.ok_or(Error::NullFunctionPointer)?;
        let mut info = CK_MECHANISM_INFO::default();
        // SAFETY: `info` is a CK_MECHANISM_INFO of plain data, borrowed mutably until the call returns.
        let code = unsafe { read(slot_id(slot)?, mechanism, &mut info) };
        Rv::from(code).into_result(Function::GetMechanismInfo)?;
        Ok(info)
    }

    /// Derives a secret by hashing the whole value of `base` (PKCS#11 v3.1 section 6.22.6). Returns the handle of
    /// the new object.
    pub(super) fn sha256_key_derivation(
        &self,
        session: &Session,
        base: ObjectHandle,
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let derive = self.functions.C_DeriveKey.ok_or(Error::NullFunctionPointer)?;
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_SHA256_KEY_DERIVATION, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        let mut handle = 0;
        // SAFETY: mechanism, template and handle live until the call returns, and the length is that of the template.
        // The template points to values borrowed from the caller's attributes, which outlive it; the module only reads
        // them. `session` is not Sync, so no other thread uses its handle meanwhile.
        let code = unsafe {
            derive(
                session.handle(),
                &mut mechanism,
                base.handle(),
                template.as_mut_ptr(),
                template.len().try_into()?,
                &mut handle,
            )
        };
        Rv::from(code).into_result(Function::DeriveKey)?;
        // SAFETY: the module has just returned the handle. A wrong handle could only make later calls fail.
        Ok(unsafe { ObjectHandle::new_from_raw(handle) })
    }

    /// Reads CKA_VALUE into `value`. Fails if the lengths differ.
    pub(super) fn read_value(&self, session: &Session, object: ObjectHandle, value: &mut [u8]) -> Result<()> {
        let read = self.functions.C_GetAttributeValue.ok_or(Error::NullFunctionPointer)?;
        let length = value.len().try_into()?;
        let mut template = CK_ATTRIBUTE { type_: CKA_VALUE, pValue: value.as_mut_ptr().cast(), ulValueLen: length };
        // SAFETY: the template is one attribute with the pointer and the length of `value`, which is borrowed mutably
        // until the call returns.
        let code = unsafe { read(session.handle(), object.handle(), &mut template, 1) };
        Rv::from(code).into_result(Function::GetAttributeValue)?;
        match template.ulValueLen {
            // For a sensitive value some modules return CKR_OK and no value.
            CK_UNAVAILABLE_INFORMATION => Err(Error::Pkcs11(RvError::AttributeSensitive, Function::GetAttributeValue)),
            read if read == length => Ok(()),
            _ => Err(Error::InvalidValue),
        }
    }

    /// Calls C_DigestFinal for a digest of 32 bytes.
    pub(super) fn digest_final(&self, session: &Session, digest: &mut [u8; 32]) -> Result<()> {
        let end = self.functions.C_DigestFinal.ok_or(Error::NullFunctionPointer)?;
        let mut length = 32;
        // SAFETY: `digest` has the 32 bytes that `length` says, and is borrowed mutably until the call returns.
        let code = unsafe { end(session.handle(), digest.as_mut_ptr(), &mut length) };
        Rv::from(code).into_result(Function::DigestFinal)?;
        if length == 32 { Ok(()) } else { Err(Error::InvalidValue) }
    }
}
