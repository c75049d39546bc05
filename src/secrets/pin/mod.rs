//! PINs and where they come from. A PIN is read when it is needed, wiped after, and never printed.

mod guard;

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use guard::{Guard, Held, Refusal};
pub use guard::{PinMemory, PinOutcome};

use super::{Purpose, TokenError};

/// A file longer than this, in bytes, holds no PIN.
const LONGEST: u64 = 1024;

/// A PIN: wiped when it is dropped, and never shown.
#[derive(Clone)]
pub struct Pin(SecretString);

impl Pin {
    /// A PIN from its characters.
    pub fn new(pin: impl Into<String>) -> Self {
        Self(SecretString::from(pin.into()))
    }

    #[cfg(feature = "pkcs11")]
    pub(super) fn secret(&self) -> &SecretString {
        &self.0
    }

    #[cfg(feature = "yubikey")]
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }

    /// A PIN as a file holds it: UTF-8, and one newline at the end is not part of it.
    fn from_file(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let pin = std::str::from_utf8(bytes).ok().filter(|pin| !pin.is_empty())?;
        Some(Self::new(pin))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

impl PartialEq for Pin {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.expose_secret().as_bytes().ct_eq(other.0.expose_secret().as_bytes()).into()
    }
}

impl Eq for Pin {}

/// What a person who is asked for a PIN is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinPrompt {
    /// The token's label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// What the token says of the tries left.
    pub state: PinState,
    /// How many tries are left, if the token says so.
    pub tries_left: Option<u8>,
    /// What it is wanted for, if that is known.
    pub purpose: Option<Purpose>,
}

/// What a token says of the tries that its user's PIN has left, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinState {
    /// Nothing is wrong.
    Ready,
    /// A wrong PIN was given since the last right one (CKF_USER_PIN_COUNT_LOW). SoftHSM 2.6.1 says so after one.
    CountLow,
    /// One more wrong PIN locks it (CKF_USER_PIN_FINAL_TRY).
    FinalTry,
    /// It is locked (CKF_USER_PIN_LOCKED).
    Locked,
}

/// What a token's URI says of its PIN.
#[derive(Clone, Copy, Default)]
pub(super) struct InUri<'a> {
    /// `pin-source`.
    pub(super) source: Option<&'a str>,
    /// `pin-value`.
    pub(super) value: Option<&'a Pin>,
}

/// Asks a person for a PIN. The library has no terminal: who has one gives it this.
pub type Prompt = Arc<dyn Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync>;

/// Where a PIN comes from.
#[derive(Clone)]
pub struct PinSource(Source);

#[derive(Clone)]
enum Source {
    Uri,
    File(PathBuf),
    Credential(String),
    Value(Pin),
    Prompt(Option<Prompt>),
}

impl PinSource {
    /// From `pin-source` or `pin-value` of the token's URI.
    pub fn uri() -> Self {
        Self(Source::Uri)
    }

    /// From a file, which is relative to `OpenOptions::base_dir`. One newline at its end
    /// is not part of the PIN.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// From a systemd credential: the file of this name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    pub fn credential(name: impl Into<String>) -> Self {
        Self(Source::Credential(name.into()))
    }

    /// The PIN itself.
    pub fn value(pin: Pin) -> Self {
        Self(Source::Value(pin))
    }

    /// From a person, each time it is needed.
    pub fn prompt(ask: impl Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync + 'static) -> Self {
        Self(Source::Prompt(Some(Arc::new(ask))))
    }

    /// As `pin-source` says it: `file:PATH`, a plain path, `credential:NAME`, or `prompt` (also `terminal`, `pinentry`)
    /// for the prompt of `OpenOptions::prompt`.
    ///
    /// # Errors
    /// [`TokenError::Config`] for `|command`, which RFC 7512 section 2.4 allows and this program does not run, and for
    /// any other scheme.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let source = match text.split_once(':') {
            Some(("file", path)) => {
                Source::File(path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path).into())
            }
            Some(("credential", name)) => Source::Credential(name.to_owned()),
            _ if ["prompt", "terminal", "pinentry"].contains(&text) => Source::Prompt(None),
            None if !text.is_empty() && !text.starts_with('|') => Source::File(text.into()),
            _ => {
                let reason = "pin-source wants file:PATH, credential:NAME or prompt; commands are not run";
                return Err(TokenError::Config(reason.into()));
            }
        };
        Ok(Self(source))
    }

    /// Whether a person is asked for it.
    pub(super) fn asks(&self, uri: InUri<'_>, ask: Option<&Prompt>) -> bool {
        match &self.0 {
            Source::Prompt(_) => true,
            Source::Uri => match uri.source {
                Some(source) => Self::parse(source).is_ok_and(|source| matches!(source.0, Source::Prompt(_))),
                None => uri.value.is_none() && ask.is_some(),
            },
            Source::File(_) | Source::Credential(_) | Source::Value(_) => false,
        }
    }

    /// Where the PIN is, found now and not read yet. `uri` and `ask` stand in where the source is `uri()` or a prompt
    /// without its own callback. `label` is the token's.
    pub(super) fn find(
        &self,
        uri: InUri<'_>,
        base: Option<&Path>,
        ask: Option<&Prompt>,
        label: &str,
    ) -> Result<FoundPin, TokenError> {
        match &self.0 {
            Source::Uri => match (uri.source, uri.value) {
                (Some(source), _) => match Self::parse(source)? {
                    Self(Source::Uri) => Err(TokenError::Config("pin-source names itself".into())),
                    source => source.find(uri, base, ask, label),
                },
                (None, Some(pin)) => {
                    tracing::warn!(token = %label, "the PIN stands in the URI as pin-value: prefer pin-source=file:PATH");
                    Ok(FoundPin::Value(pin.clone()))
                }
                (None, None) if ask.is_some() => Self(Source::Prompt(None)).find(uri, base, ask, label),
                (None, None) => Err(TokenError::Pin(format!(
                    "the token {label:?} wants a PIN and none is configured: add pin-source=file:PATH to its URI"
                ))),
            },
            Source::File(path) => {
                let file = PinFile::open(base.map_or_else(|| path.clone(), |base| base.join(path)))?;
                file.warn_of_readers();
                Ok(FoundPin::File(file))
            }
            Source::Credential(name) => {
                if name.is_empty() || name.starts_with('.') || name.contains('/') {
                    return Err(TokenError::Config(format!("{name:?} is no name of a credential")));
                }
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    TokenError::Pin(format!(
                        "there is no credential {name:?}: CREDENTIALS_DIRECTORY is not set (systemd LoadCredential=)"
                    ))
                })?;
                // systemd sets the permissions of its credentials itself.
                Ok(FoundPin::Credential(name.clone(), PinFile::open(Path::new(&folder).join(name))?))
            }
            Source::Value(pin) => Ok(FoundPin::Value(pin.clone())),
            Source::Prompt(own) => own.as_ref().or(ask).cloned().map(FoundPin::Person).ok_or_else(|| {
                TokenError::Pin(format!("the PIN of {label:?} is asked of a person, and there is no one to ask"))
            }),
        }
    }
}

/// Where a PIN comes from, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinPlace {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether others than its owner may read it.
        others_may_read: bool,
    },
    /// A systemd credential.
    Credential,
    /// The token's URI has it as `pin-value`.
    Uri,
    /// The program that opens the token has it.
    Program,
    /// A person is asked.
    Person,
}

impl PinSource {
    /// Where it is, without reading it.
    #[cfg(feature = "pkcs11")]
    pub(super) fn place(&self, uri: InUri<'_>, base: Option<&Path>) -> PinPlace {
        match &self.0 {
            Source::Uri => match (uri.source, uri.value) {
                (Some(source), _) => match Self::parse(source) {
                    Ok(source) => source.place(InUri::default(), base),
                    Err(_) => PinPlace::Person,
                },
                (None, Some(_)) => PinPlace::Uri,
                (None, None) => PinPlace::Person,
            },
            Source::File(path) => {
                let path = base.map_or_else(|| path.clone(), |base| base.join(path));
                let others_may_read = path.metadata().is_ok_and(|metadata| others_may_read(&metadata));
                PinPlace::File { path, others_may_read }
            }
            Source::Credential(_) => PinPlace::Credential,
            Source::Value(_) => PinPlace::Program,
            Source::Prompt(_) => PinPlace::Person,
        }
    }
}

/// Whether it is from file, credential, value or a person; nothing of the PIN.
impl fmt::Debug for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Uri => f.write_str("PinSource::Uri"),
            Source::File(path) => write!(f, "PinSource::File({path:?})"),
            Source::Credential(name) => write!(f, "PinSource::Credential({name:?})"),
            Source::Value(_) => f.write_str("PinSource::Value(redacted)"),
            Source::Prompt(_) => f.write_str("PinSource::Prompt"),
        }
    }
}

/// A source that is there.
pub(super) enum FoundPin {
    File(PinFile),
    Credential(String, PinFile),
    Value(Pin),
    Person(Prompt),
}

/// What a source is, so that it is known again: nothing of the PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SourceId {
    File {
        path: PathBuf,
        inode: u64,
        /// When its content was changed, in nanoseconds since 1970. Not when its inode was: a backup changes that.
        modified: u64,
    },
    /// By name: systemd makes the file anew at each start, and a wrong PIN would be tried at each.
    Credential(String),
    Value,
    /// Who acts each time.
    Person,
}

impl FoundPin {
    pub(super) fn id(&self) -> Result<SourceId, TokenError> {
        Ok(match self {
            Self::File(file) => file.id().map_err(|error| file.failed(&error))?,
            Self::Credential(name, _) => SourceId::Credential(name.clone()),
            Self::Value(_) => SourceId::Value,
            Self::Person(_) => SourceId::Person,
        })
    }

    pub(super) fn read(self, prompt: &PinPrompt) -> Result<Pin, TokenError> {
        match self {
            Self::File(file) | Self::Credential(_, file) => file.read(),
            Self::Value(pin) => Ok(pin),
            Self::Person(ask) => ask(prompt)
                .map_err(|error| TokenError::Pin(format!("no PIN for the token {:?}: {error}", prompt.label))),
        }
    }
}

/// An open file with a PIN, so that what is looked at is what is read.
pub(super) struct PinFile {
    path: PathBuf,
    file: File,
}

impl PinFile {
    fn open(path: PathBuf) -> Result<Self, TokenError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn failed(&self, error: &std::io::Error) -> TokenError {
        failed(&self.path, error)
    }

    fn id(&self) -> std::io::Result<SourceId> {
        let metadata = self.file.metadata()?;
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let modified = modified.as_nanos().try_into().unwrap_or(u64::MAX);
        Ok(SourceId::File { path: self.path.canonicalize()?, inode, modified })
    }

    fn warn_of_readers(&self) {
        if self.file.metadata().is_ok_and(|metadata| others_may_read(&metadata)) {
            tracing::warn!(path = %self.path.display(), "others than its owner may read the PIN's file: chmod 600 it");
        }
    }

    fn read(self) -> Result<Pin, TokenError> {
        // At its full size from the start, so that no copy is left behind when it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        (&self.file).take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| self.failed(&error))?;
        let path = self.path.display();
        if bytes.len() as u64 > LONGEST {
            return Err(TokenError::Pin(format!("the PIN's file {path} is too long for a PIN")));
        }
        Pin::from_file(&bytes)
            .ok_or_else(|| TokenError::Pin(format!("the PIN's file {path} holds no PIN (UTF-8, not empty)")))
    }
}

#[cfg(unix)]
fn others_may_read(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

/// Elsewhere permissions are no bits.
#[cfg(not(unix))]
fn others_may_read(_: &std::fs::Metadata) -> bool {
    false
}

fn failed(path: &Path, error: &std::io::Error) -> TokenError {
    TokenError::Pin(format!("the PIN's file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &PinSource, uri: InUri<'_>, base: Option<&Path>) -> Result<Pin, TokenError> {
        let prompt = PinPrompt {
            label: "demo".into(),
            serial: "1".into(),
            state: PinState::Ready,
            tries_left: None,
            purpose: None,
        };
        source.find(uri, base, None, "demo")?.read(&prompt)
    }

    #[test]
    fn a_file_relative_to_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        for (content, pin) in [("1234\n", "1234"), ("1234\r\n", "1234"), ("12 34 \n\n", "12 34 \n"), ("1234", "1234")] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let uri = InUri { source: Some("file:pin"), value: None };
            assert_eq!(read(&PinSource::uri(), uri, Some(folder.path())).unwrap(), Pin::new(pin));
        }
        for content in [&b""[..], b"\n", b"\xff\n", &[b'1'; 2000]] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let error = read(&PinSource::file("pin"), InUri::default(), Some(folder.path())).unwrap_err();
            assert!(matches!(&error, TokenError::Pin(reason) if !reason.contains("1111")), "{error}");
        }
    }

    #[test]
    fn sources_by_name() {
        let parse = |text: &str| format!("{:?}", PinSource::parse(text).unwrap());
        assert_eq!(parse("file:/etc/pin"), r#"PinSource::File("/etc/pin")"#);
        assert_eq!(parse("file:///etc/pin"), r#"PinSource::File("/etc/pin")"#);
        assert_eq!(parse("demo.pin"), r#"PinSource::File("demo.pin")"#);
        assert_eq!(parse("credential:hsm"), r#"PinSource::Credential("hsm")"#);
        assert_eq!(parse("pinentry"), "PinSource::Prompt");
        for refused in ["|cat /etc/pin", "", "https://example.org/pin"] {
            assert!(matches!(PinSource::parse(refused), Err(TokenError::Config(_))), "{refused}");
        }
    }

    #[test]
    fn a_pin_is_never_shown() {
        let source = PinSource::value(Pin::new("4711"));
        assert!(!format!("{source:?} {:?}", Pin::new("4711")).contains("4711"));
        assert!(read(&PinSource::uri(), InUri::default(), None).is_err());
        assert!(read(&PinSource::credential("../x"), InUri::default(), None).is_err());
    }

    /// A file is another source once it is written or replaced, and not because it is named another way or was read.
    #[cfg(unix)]
    #[test]
    fn a_source_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let found =
            |name: &str| PinSource::file(name).find(InUri::default(), Some(folder.path()), None, "demo").unwrap();
        let id = || found("pin").id().unwrap();
        let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let write = |path: &Path, seconds| {
            std::fs::write(path, "1234").unwrap();
            File::options().write(true).open(path).unwrap().set_modified(at(seconds)).unwrap();
        };
        write(&path, 1000);
        let first = id();
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!([found("link").id().unwrap(), found("./pin").id().unwrap()], [first.clone(), first.clone()]);
        write(&path, 2000);
        assert_ne!(id(), first, "written again");
        write(&path, 1000);
        assert_eq!(id(), first);
        write(&folder.path().join("other"), 1000);
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_ne!(id(), first, "replaced by another that is as old");
        let text = serde_json::to_string(&[first, SourceId::Credential("hsm".into()), SourceId::Value]).unwrap();
        assert!(!text.contains("1234"), "{text}");
    }
}
