//! PKCS#11 modules: loaded and initialised once in a process, and never finalised.

use std::{
    collections::HashMap,
    ffi::CString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    slot::Slot,
};

use super::{
    Profile, Uri,
    ckr::During,
    raw::{self, Raw},
};
use crate::secrets::{TokenError, TokenInfo, pin::PinState};

/// A loaded module.
pub(super) struct Module {
    pub(super) context: Pkcs11,
    pub(super) raw: Raw,
    pub(super) path: PathBuf,
    /// CK_INFO.manufacturerID.
    pub(super) manufacturer: String,
}

/// One context for each canonical path. Nothing is ever taken out: C_Finalize at exit crashes SoftHSM (its issues 635
/// and 780), and another user of the module in this process would lose its sessions.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

impl Module {
    /// The module at a path, loaded now or before. `base` is the folder of the configuration.
    pub(super) fn load(path: &Path, base: Option<&Path>) -> Result<Arc<Self>, TokenError> {
        let failed = |reason: String| TokenError::Config(format!("the PKCS#11 module {}: {reason}", path.display()));
        let canonical = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let mut modules = MODULES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(module) = modules.get(&canonical) {
            return Ok(module.clone());
        }
        let context = Pkcs11::new(&canonical).map_err(|error| failed(error.to_string()))?;
        let variable = Profile::parameters(&canonical, base)?;
        let parameters = variable.as_deref().and_then(std::env::var_os).map(|text| CString::new(text.into_vec()));
        let parameters = parameters.transpose().expect("no environment variable has a zero byte");
        match raw::initialize(&context, parameters.as_deref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => {
                let wants = variable.map(|it| format!(" (it reads the environment variable {it})"));
                let said = format!("{error}{}", wants.unwrap_or_default());
                return Err(if may_start_later(&error) {
                    TokenError::Away(format!("the PKCS#11 module {} does not start: {said}", path.display()))
                } else {
                    failed(said)
                });
            }
        }
        let raw = Raw::load(&canonical).map_err(|error| failed(error.to_string()))?;
        let info = context.get_library_info().map_err(|error| failed(error.to_string()))?;
        let manufacturer = clean(info.manufacturer_id());
        let module = Arc::new(Self { context, raw, path: canonical.clone(), manufacturer });
        modules.insert(canonical, module.clone());
        Ok(module)
    }

    /// The module that a URI names.
    pub(super) fn of(uri: &Uri, base: Option<&Path>) -> Result<Arc<Self>, TokenError> {
        match (&uri.module_path, &uri.module_name) {
            (Some(path), _) => Self::load(&base.map_or_else(|| path.into(), |base| base.join(path)), base),
            (None, Some(name)) => Self::load(&find(name)?, base),
            (None, None) => Err(TokenError::Config(format!(
                "the URI {uri} names no module: add ?module-path=FILE, the PKCS#11 library that came with the token"
            ))),
        }
    }

    /// The tokens that are there, initialised or not.
    pub(super) fn tokens(&self) -> Result<Vec<(Slot, SeenToken)>, TokenError> {
        let mut seen = Vec::new();
        for slot in self.context.get_slots_with_token().during("C_GetSlotList")? {
            match self.context.get_token_info(slot) {
                Ok(info) => seen.push((slot, SeenToken::new(slot, &info))),
                // Taken out since the list was made, or not of a kind that the module knows.
                Err(error) => tracing::debug!(%slot, %error, "C_GetTokenInfo"),
            }
        }
        Ok(seen)
    }

    /// The one initialised token that a URI names.
    ///
    /// # Errors
    /// [`TokenError::Away`] if it is not there, [`TokenError::Config`] if several match; both list what is there.
    pub(super) fn find(&self, uri: &Uri) -> Result<(Slot, SeenToken), TokenError> {
        let present: Vec<_> = self.tokens()?.into_iter().filter(|(_, token)| token.initialized).collect();
        let matching: Vec<_> = present.iter().filter(|(_, token)| token.matches(uri)).collect();
        match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] if present.is_empty() => {
                Err(TokenError::Away(format!("no token matches {uri}: the module {} has none", self.path.display())))
            }
            [] => Err(TokenError::Away(format!("no token matches {uri}; there are: {}", list(present.iter())))),
            several => Err(TokenError::Config(format!(
                "several tokens match {uri}: {}; add serial= to name one",
                list(several.iter().copied())
            ))),
        }
    }
}

/// Whether C_Initialize failed for what may pass: SoftHSM 2.6.1 says CKR_GENERAL_ERROR when its folder of tokens is not
/// there, and a network HSM's module when it does not reach its device. What it was given is wrong for ever.
fn may_start_later(error: &Error) -> bool {
    use RvError::*;
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(
        code,
        GeneralError
            | FunctionFailed
            | DeviceError
            | DeviceMemory
            | DeviceRemoved
            | HostMemory
            | TokenNotPresent
            | VendorDefined(_)
    )
}

fn list<'a>(tokens: impl Iterator<Item = &'a (Slot, SeenToken)>) -> String {
    let tokens: Vec<_> = tokens.map(|(_, token)| token.to_string()).collect();
    tokens.join(", ")
}

/// A token in a slot, as it shows itself without a login.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenToken {
    /// The slot's number, which may be another one next time.
    pub slot_id: u64,
    /// What it is.
    pub info: TokenInfo,
    /// Whether it was initialised (CKF_TOKEN_INITIALIZED): only then it has a label and may have keys.
    pub initialized: bool,
    /// Whether its user's PIN was set (CKF_USER_PIN_INITIALIZED).
    pub pin_set: bool,
    /// Whether its keys are seen only after a login (CKF_LOGIN_REQUIRED).
    pub login_required: bool,
    /// Whether it asks for the PIN itself, on a pad of its own (CKF_PROTECTED_AUTHENTICATION_PATH).
    pub own_pin_pad: bool,
    /// What it says of the tries left.
    pub pin: PinState,
}

impl SeenToken {
    fn new(slot: Slot, info: &cryptoki::slot::TokenInfo) -> Self {
        let pin = match () {
            () if info.user_pin_locked() => PinState::Locked,
            () if info.user_pin_final_try() => PinState::FinalTry,
            () if info.user_pin_count_low() => PinState::CountLow,
            () => PinState::Ready,
        };
        Self {
            slot_id: slot.id(),
            info: TokenInfo {
                longest_eddsa: None,
                label: clean(info.label()),
                serial: clean(info.serial_number()),
                manufacturer: clean(info.manufacturer_id()),
                model: clean(info.model()),
                firmware: info.firmware_version().to_string(),
            },
            initialized: info.token_initialized(),
            pin_set: info.user_pin_initialized(),
            login_required: info.login_required(),
            own_pin_pad: info.protected_authentication_path(),
            pin,
        }
    }

    fn matches(&self, uri: &Uri) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&uri.token, &self.info.label)
            && same(&uri.serial, &self.info.serial)
            && same(&uri.manufacturer, &self.info.manufacturer)
            && same(&uri.model, &self.info.model)
            && uri.slot_id.is_none_or(|wanted| wanted == self.slot_id)
    }
}

impl std::fmt::Display for SeenToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TokenInfo { label, serial, manufacturer, model, .. } = &self.info;
        write!(f, "{label:?} (serial {serial}, {manufacturer} {model}, slot {})", self.slot_id)
    }
}

/// Blank-padded by the specification, zero-padded by some.
fn clean(text: &str) -> String {
    text.trim_end_matches(['\0', ' ']).to_owned()
}

/// Where modules are installed: p11-kit's folders, and SoftHSM's own. `*` stands for any one folder.
const FOLDERS: [&str; 10] = [
    "/usr/lib/*/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/local/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib/*/softhsm",
    "/usr/lib64/softhsm",
    "/usr/local/lib/softhsm",
    "/usr/lib/*",
    "/usr/local/lib",
];

/// The module of a name: `softhsm2` is `libsofthsm2.so` or `softhsm2.so` (RFC 7512 section 2.3: without `lib` and the
/// suffix, in any case).
fn find(name: &str) -> Result<PathBuf, TokenError> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(TokenError::Config(format!("{name:?} is no name of a PKCS#11 module")));
    }
    let fits = |path: &Path| {
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else { return false };
        let stem = file.strip_suffix(".so").or_else(|| file.strip_suffix(".dylib"));
        let same = |stem: &str| stem.eq_ignore_ascii_case(name);
        stem.is_some_and(|stem| same(stem) || stem.strip_prefix("lib").is_some_and(same))
    };
    let mut searched = FOLDERS.iter().flat_map(|pattern| folders(pattern));
    let found = searched.find_map(|folder| {
        let mut files: Vec<_> = entries(&folder).filter(|path| fits(path)).collect();
        files.sort();
        files.into_iter().next()
    });
    found.ok_or_else(|| {
        TokenError::Config(format!(
            "no PKCS#11 module {name:?} in {}: give its file as module-path",
            FOLDERS.join(", ")
        ))
    })
}

fn folders(pattern: &str) -> Vec<PathBuf> {
    match pattern.split_once("/*") {
        None => vec![pattern.into()],
        Some((parent, rest)) => {
            let mut folders: Vec<_> = entries(Path::new(parent))
                .map(|path| path.join(rest.trim_start_matches('/')))
                .filter(|path| path.is_dir())
                .collect();
            folders.sort();
            folders
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_not_there_is_named() {
        for name in ["", "../x", "no-such-module"] {
            assert!(matches!(find(name), Err(TokenError::Config(reason)) if reason.contains(name)), "{name}");
        }
        let error = Module::load(Path::new("/nonexistent/module.so"), None).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/module.so"));
        assert!(matches!(Module::of(&Uri::default(), None), Err(TokenError::Config(_))));
    }
}
