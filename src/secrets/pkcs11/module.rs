//! PKCS#11 modules, each loaded and initialised once in a process, and never finalised.

use std::{
    collections::{BTreeMap, HashMap},
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
    ckr::{CallError, CallFailure, During},
    profile::Profile,
    raw::{self, Raw},
    slot_token::{SlotToken, text},
    uri::Uri,
};
use crate::secrets::{TokenError, mutex::lock};

/// A loaded module.
pub(super) struct Module {
    pub(super) context: Pkcs11,
    pub(super) raw: Raw,
    pub(super) path: PathBuf,
    /// CK_INFO.manufacturerID.
    pub(super) manufacturer: String,
    /// CK_INFO.libraryDescription.
    description: String,
    /// CK_INFO.libraryVersion, major and minor.
    version: (u8, u8),
    /// The slots whose tokens could not be read last, with the errors.
    unreadable: Mutex<BTreeMap<u64, String>>,
}

/// The loaded modules, by canonical path. None is ever removed: C_Finalize at exit crashes SoftHSM (its issues 635 and
/// 780), and other code of this process that uses the module would lose its sessions.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

impl Module {
    /// Returns the module at a path, and loads it if it was not loaded before. `base_dir` is the folder of
    /// the configuration.
    pub(super) fn load(path: &Path, base_dir: Option<&Path>) -> Result<Arc<Self>, TokenError> {
        let failed = |reason: String| TokenError::Config(format!("the PKCS#11 module {}: {reason}", path.display()));
        let canonical = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let mut modules = lock(&MODULES);
        if let Some(module) = modules.get(&canonical) {
            return Ok(module.clone());
        }
        let (context, raw) = Raw::load(&canonical).map_err(|error| failed(error.to_string()))?;
        let variable = Profile::initialize_variable(&canonical, base_dir)?;
        let parameters = variable.as_deref().and_then(std::env::var_os).map(|text| CString::new(text.into_vec()));
        let parameters = parameters.transpose().expect("no environment variable has a zero byte");
        match raw::initialize(&context, parameters.as_deref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => {
                let hint = variable.map(|it| format!(" (it reads the environment variable {it})"));
                let may_start_later = may_start_later(&error);
                let error = CallFailure::new("C_Initialize", &error);
                let reason = format!("{error}{}", hint.unwrap_or_default());
                return Err(if may_start_later {
                    TokenError::Away(format!("the PKCS#11 module {} does not start: {reason}", path.display()))
                } else {
                    failed(reason)
                });
            }
        }
        let info = raw.info().during("C_GetInfo")?;
        let module = Arc::new(Self {
            context,
            raw,
            path: canonical.clone(),
            manufacturer: text(&info.manufacturerID),
            description: text(&info.libraryDescription),
            version: (info.libraryVersion.major, info.libraryVersion.minor),
            unreadable: Mutex::default(),
        });
        modules.insert(canonical, module.clone());
        Ok(module)
    }

    /// The module that a URI names.
    pub(super) fn for_uri(uri: &Uri, base_dir: Option<&Path>) -> Result<Arc<Self>, TokenError> {
        Self::load(&module_file(uri, base_dir)?, base_dir)
    }

    /// The tokens in the module's slots, initialised or not.
    pub(super) fn tokens(&self) -> Result<Vec<(Slot, SlotToken)>, TokenError> {
        let mut tokens = Vec::new();
        for slot in self.raw.slots_with_token().during("C_GetSlotList")? {
            let read = self.raw.token_info(slot).during("C_GetTokenInfo");
            self.report_unreadable(slot, read.as_ref().err());
            tokens.extend(read.ok().map(|info| (slot, SlotToken::new(slot, &info))));
        }
        Ok(tokens)
    }

    /// Logs that a slot's token cannot be read. The same error of a slot is logged once.
    fn report_unreadable(&self, slot: Slot, error: Option<&CallError>) {
        let mut unreadable = lock(&self.unreadable);
        let Some(error) = error else {
            unreadable.remove(&slot.id());
            return;
        };
        let error = error.to_string();
        if unreadable.get(&slot.id()) != Some(&error) {
            tracing::warn!(
                module = %self.path.display(),
                %slot,
                error,
                "token left out: the module does not describe it"
            );
            unreadable.insert(slot.id(), error);
        }
    }

    /// The slots whose tokens could not be read last, for an error message; empty if there are none.
    fn unreadable_slots(&self) -> String {
        let unreadable = lock(&self.unreadable);
        let slots =
            unreadable.iter().map(|(slot, error)| format!("; the token in slot {slot} cannot be read ({error})"));
        slots.collect()
    }

    /// Checks that the module describes itself as the URI does (`library-*`).
    fn check_library(&self, uri: &Uri) -> Result<(), TokenError> {
        let is = |wanted: &Option<String>, own: &str| wanted.as_deref().is_none_or(|wanted| wanted == own);
        if is(&uri.library_manufacturer, &self.manufacturer)
            && is(&uri.library_description, &self.description)
            && uri.library_version.is_none_or(|wanted| wanted == self.version)
        {
            return Ok(());
        }
        let (major, minor) = self.version;
        Err(TokenError::Config(format!(
            "the module {} has library-manufacturer {:?}, library-description {:?} and library-version {major}.{minor}, \
             and not those of the URI {uri}; an update may have changed them: take them out of the URI",
            self.path.display(),
            self.manufacturer,
            self.description,
        )))
    }

    /// Whether a slot is described as in the URI (`slot-description`, `slot-manufacturer`).
    fn is_slot_of(&self, uri: &Uri, slot: Slot) -> Result<bool, TokenError> {
        if uri.slot_description.is_none() && uri.slot_manufacturer.is_none() {
            return Ok(true);
        }
        let info = self.raw.slot_info(slot).during("C_GetSlotInfo")?;
        let is = |wanted: &Option<String>, own: &[u8]| wanted.as_deref().is_none_or(|wanted| wanted == text(own));
        Ok(is(&uri.slot_description, &info.slotDescription) && is(&uri.slot_manufacturer, &info.manufacturerID))
    }

    /// Finds the one initialised token that a URI names.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the token is not present, [`TokenError::Config`] if several match. Both list the tokens
    /// that are present.
    pub(super) fn find_token(&self, uri: &Uri) -> Result<(Slot, SlotToken), TokenError> {
        self.check_library(uri)?;
        let present: Vec<_> = self.tokens()?.into_iter().filter(|(_, token)| token.initialized).collect();
        let mut matching = Vec::new();
        for found in present.iter().filter(|(_, token)| token.matches(uri)) {
            if self.is_slot_of(uri, found.0)? {
                matching.push(found);
            }
        }
        match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] if present.is_empty() => Err(TokenError::Away(format!(
                "no token matches {uri}: the module {} has none{}",
                self.path.display(),
                self.unreadable_slots()
            ))),
            [] => Err(TokenError::Away(format!(
                "no token matches {uri}; there are: {}{}",
                list(present.iter()),
                self.unreadable_slots()
            ))),
            several => Err(TokenError::Config(format!(
                "several tokens match {uri}: {}; add serial= to name one",
                list(several.iter().copied())
            ))),
        }
    }
}

/// The module's file that a URI names by path or by name. `base_dir` is the folder of the configuration.
pub(super) fn module_file(uri: &Uri, base_dir: Option<&Path>) -> Result<PathBuf, TokenError> {
    match (&uri.module_path, &uri.module_name) {
        (Some(path), _) => Ok(base_dir.map_or_else(|| path.into(), |base| base.join(path))),
        (None, Some(name)) => find_module(name),
        (None, None) => Err(TokenError::Config(format!(
            "the URI {uri} names no module: add ?module-path=FILE, the PKCS#11 library that came with the token"
        ))),
    }
}

/// Whether C_Initialize may succeed later. SoftHSM 2.6.1 returns CKR_GENERAL_ERROR when its token folder is missing,
/// and so does the module of a network HSM that does not reach its device. Wrong arguments fail each time.
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

fn list<'a>(tokens: impl Iterator<Item = &'a (Slot, SlotToken)>) -> String {
    let tokens: Vec<_> = tokens.map(|(_, token)| token.to_string()).collect();
    tokens.join(", ")
}

/// Where modules are installed: p11-kit's folders and SoftHSM's. `*` stands for any one folder.
const MODULE_FOLDERS: [&str; 10] = [
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

/// Finds a module by name: `softhsm2` is `libsofthsm2.so` or `softhsm2.so`. The name has neither `lib` nor the suffix
/// (RFC 7512 section 2.3), and its case is ignored.
fn find_module(name: &str) -> Result<PathBuf, TokenError> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(TokenError::Config(format!("{name:?} is not a valid name of a PKCS#11 module")));
    }
    let matches = |path: &Path| {
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else { return false };
        let stem = file.strip_suffix(".so").or_else(|| file.strip_suffix(".dylib"));
        let same = |stem: &str| stem.eq_ignore_ascii_case(name);
        stem.is_some_and(|stem| same(stem) || stem.strip_prefix("lib").is_some_and(same))
    };
    let mut searched = MODULE_FOLDERS.iter().flat_map(|pattern| folders(pattern));
    let found = searched.find_map(|folder| {
        let mut files: Vec<_> = entries(&folder).filter(|path| matches(path)).collect();
        files.sort();
        files.into_iter().next()
    });
    found.ok_or_else(|| {
        TokenError::Config(format!(
            "no PKCS#11 module {name:?} in {}: set module-path to its file",
            MODULE_FOLDERS.join(", ")
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
    fn the_error_names_a_missing_module() {
        for name in ["", "../x", "no-such-module"] {
            assert!(matches!(find_module(name), Err(TokenError::Config(reason)) if reason.contains(name)), "{name}");
        }
        let error = Module::load(Path::new("/nonexistent/module.so"), None).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/module.so"));
        assert!(matches!(Module::for_uri(&Uri::default(), None), Err(TokenError::Config(_))));
    }
}
