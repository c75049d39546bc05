//! Where a PIN comes from: a file, a systemd credential, the token's URI, the program, or a person.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    file::PinFile,
    mark::PinMark,
    prompt::{PinPrompt, Prompt},
    source_id::PinSourceId,
    value::Pin,
};
use crate::secrets::{TokenError, TokenInfo, person::while_asked};

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
    /// `pin-source` or `pin-value` of the token's URI. If the URI has neither, a person is asked
    /// with `OpenOptions::prompt`.
    pub fn uri() -> Self {
        Self(Source::Uri)
    }

    /// A file. A relative path starts from `OpenOptions::base_dir`. One newline at the end of the file is not part of
    /// the PIN.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// A systemd credential: the file with this name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    pub fn credential(name: impl Into<String>) -> Self {
        Self(Source::Credential(name.into()))
    }

    /// The PIN itself.
    pub fn value(pin: Pin) -> Self {
        Self(Source::Value(pin))
    }

    /// A person, who is asked each time the PIN is needed.
    pub fn prompt(ask: impl Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync + 'static) -> Self {
        Self(Source::Prompt(Some(Arc::new(ask))))
    }

    /// Parses the value of `pin-source`: `file:PATH`, a plain path, `credential:NAME`, or `prompt` (also `terminal` and
    /// `pinentry`), which means the prompt of `OpenOptions::prompt`.
    ///
    /// # Errors
    /// [`TokenError::Config`] for any other scheme, and for `|command`: RFC 7512 section 2.4 allows it, and this
    /// program does not run commands.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let source = match text.split_once(':') {
            Some(("file", path)) => {
                Source::File(path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path).into())
            }
            Some(("credential", name)) => Source::Credential(name.to_owned()),
            _ if ["prompt", "terminal", "pinentry"].contains(&text) => Source::Prompt(None),
            None if !text.is_empty() && !text.starts_with('|') => Source::File(text.into()),
            _ => {
                let reason = "pin-source must be file:PATH, credential:NAME or prompt; commands are not run";
                return Err(TokenError::Config(reason.into()));
            }
        };
        Ok(Self(source))
    }

    /// Whether the PIN comes from a person.
    pub(in crate::secrets) fn asks_a_person(&self, uri: UriPin<'_>, ask: Option<&Prompt>) -> bool {
        match &self.0 {
            Source::Prompt(_) => true,
            Source::Uri => match uri.source {
                Some(source) => Self::parse(source).is_ok_and(|source| matches!(source.0, Source::Prompt(_))),
                None => uri.value.is_none() && ask.is_some(),
            },
            Source::File(_) | Source::Credential(_) | Source::Value(_) => false,
        }
    }

    /// Opens the source. The PIN of a file or a person is not read yet.
    ///
    /// `uri` is used if the source is [`uri`](Self::uri), and `ask` if it is a prompt without a function of its own.
    /// `label` is the token's, for error messages.
    pub(super) fn open(
        &self,
        uri: UriPin<'_>,
        base_dir: Option<&Path>,
        ask: Option<&Prompt>,
        label: &str,
    ) -> Result<OpenedPinSource, TokenError> {
        match &self.0 {
            Source::Uri => match (uri.source, uri.value) {
                (Some(source), _) => match Self::parse(source)? {
                    Self(Source::Uri) => Err(TokenError::Config("pin-source refers to itself".into())),
                    source => source.open(uri, base_dir, ask, label),
                },
                (None, Some(pin)) => {
                    tracing::warn!(token = %label, "URI contains the PIN as pin-value; prefer pin-source=file:PATH");
                    Ok(OpenedPinSource::Value(pin.clone()))
                }
                (None, None) if ask.is_some() => Self(Source::Prompt(None)).open(uri, base_dir, ask, label),
                (None, None) => Err(TokenError::Pin(format!(
                    "the token {label:?} needs a PIN and none is configured: add pin-source=file:PATH to its URI"
                ))),
            },
            Source::File(path) => {
                let file = PinFile::open(base_dir.map_or_else(|| path.clone(), |base| base.join(path)))?;
                file.warn_if_readable_by_others();
                Ok(OpenedPinSource::File(file))
            }
            Source::Credential(name) => {
                if name.is_empty() || name.starts_with('.') || name.contains('/') {
                    return Err(TokenError::Config(format!("{name:?} is not a valid name of a credential")));
                }
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    TokenError::Pin(format!(
                        "the credential {name:?} is not available: CREDENTIALS_DIRECTORY is not set (systemd \
                         LoadCredential=)"
                    ))
                })?;
                // There is no warning about other readers: systemd sets the permissions of its credentials itself.
                Ok(OpenedPinSource::Credential(name.clone(), PinFile::open(Path::new(&folder).join(name))?.read()?))
            }
            Source::Value(pin) => Ok(OpenedPinSource::Value(pin.clone())),
            Source::Prompt(own) => own.as_ref().or(ask).cloned().map(OpenedPinSource::Person).ok_or_else(|| {
                TokenError::Pin(format!(
                    "the PIN of the token {label:?} must be entered by a person, and this program has no one to ask"
                ))
            }),
        }
    }
}

/// Shows the kind of source, and a file's path or a credential's name, but never the PIN.
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

/// What a token's URI says about its PIN.
#[derive(Clone, Copy, Default)]
pub(in crate::secrets) struct UriPin<'a> {
    /// `pin-source`.
    pub(in crate::secrets) source: Option<&'a str>,
    /// `pin-value`.
    pub(in crate::secrets) value: Option<&'a Pin>,
}

/// A source that is available. The PIN of a file or a person is not read yet.
pub(super) enum OpenedPinSource {
    File(PinFile),
    /// The credential's name and content.
    Credential(String, Pin),
    Value(Pin),
    Person(Prompt),
}

impl OpenedPinSource {
    /// The identity that the record of attempts stores.
    pub(super) fn id(&self) -> Result<PinSourceId, TokenError> {
        Ok(match self {
            Self::File(file) => file.id()?,
            Self::Credential(name, _) => PinSourceId::Credential(name.clone()),
            Self::Value(_) => PinSourceId::Value,
            Self::Person(_) => PinSourceId::Person,
        })
    }

    /// The mark of the PIN, if the source keeps its identity when the PIN changes.
    pub(super) fn mark(&self, token: &TokenInfo) -> Option<PinMark> {
        match self {
            Self::Credential(_, pin) | Self::Value(pin) => Some(PinMark::of(pin, token)),
            Self::File(_) | Self::Person(_) => None,
        }
    }

    /// Reads the PIN, or asks the person for it.
    pub(super) fn read(self, prompt: &PinPrompt) -> Result<Pin, TokenError> {
        match self {
            Self::File(file) => file.read(),
            Self::Credential(_, pin) | Self::Value(pin) => Ok(pin),
            Self::Person(ask) => while_asked(Duration::MAX, || ask(prompt)).map_err(|error| {
                TokenError::Pin(format!("no PIN was entered for the token {:?}: {error}", prompt.label))
            }),
        }
    }
}

/// Where a PIN comes from, for reports to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinLocation {
    /// A file.
    File {
        /// The file's path.
        path: PathBuf,
        /// Whether users other than the owner may read the file.
        others_may_read: bool,
    },
    /// A systemd credential.
    Credential,
    /// `pin-value` in the token's URI.
    Uri,
    /// The program that opens the token.
    Program,
    /// A person.
    Person,
}

#[cfg(feature = "pkcs11")]
impl PinSource {
    /// Where the PIN comes from. The PIN is not read.
    pub(in crate::secrets) fn location(&self, uri: UriPin<'_>, base_dir: Option<&Path>) -> PinLocation {
        match &self.0 {
            Source::Uri => match (uri.source, uri.value) {
                (Some(source), _) => match Self::parse(source) {
                    Ok(source) => source.location(UriPin::default(), base_dir),
                    Err(_) => PinLocation::Person,
                },
                (None, Some(_)) => PinLocation::Uri,
                (None, None) => PinLocation::Person,
            },
            Source::File(path) => {
                let path = base_dir.map_or_else(|| path.clone(), |base| base.join(path));
                let others_may_read =
                    path.metadata().is_ok_and(|metadata| super::file::is_readable_by_others(&metadata));
                PinLocation::File { path, others_may_read }
            }
            Source::Credential(_) => PinLocation::Credential,
            Source::Value(_) => PinLocation::Program,
            Source::Prompt(_) => PinLocation::Person,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::pin::prompt::PinState;

    fn read(source: &PinSource, uri: UriPin<'_>, base_dir: Option<&Path>) -> Result<Pin, TokenError> {
        let prompt = PinPrompt {
            label: "demo".into(),
            serial: "1".into(),
            state: PinState::Ready,
            tries_left: None,
            purpose: None,
        };
        source.open(uri, base_dir, None, "demo")?.read(&prompt)
    }

    #[test]
    fn a_relative_file_starts_from_the_base_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (content, pin) in [("1234\n", "1234"), ("1234\r\n", "1234"), ("12 34 \n\n", "12 34 \n"), ("1234", "1234")] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let uri = UriPin { source: Some("file:pin"), value: None };
            assert_eq!(read(&PinSource::uri(), uri, Some(folder.path())).unwrap(), Pin::new(pin));
        }
        for content in [&b""[..], b"\n", b"\xff\n", &[b'1'; 2000]] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let error = read(&PinSource::file("pin"), UriPin::default(), Some(folder.path())).unwrap_err();
            assert!(matches!(&error, TokenError::Pin(reason) if !reason.contains("1111")), "{error}");
        }
    }

    #[test]
    fn sources_parse() {
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
    fn debug_never_shows_a_pin() {
        let source = PinSource::value(Pin::new("4711"));
        assert!(!format!("{source:?} {:?}", Pin::new("4711")).contains("4711"));
        assert!(read(&PinSource::uri(), UriPin::default(), None).is_err());
        assert!(read(&PinSource::credential("../x"), UriPin::default(), None).is_err());
    }

    /// A file counts as another source after it was written or replaced. It stays the same source after it was read or
    /// its permissions were changed, and if it is opened through a link or by another spelling of its path.
    #[cfg(unix)]
    #[test]
    fn a_file_is_identified_by_path_inode_and_modification_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let opened =
            |name: &str| PinSource::file(name).open(UriPin::default(), Some(folder.path()), None, "demo").unwrap();
        let id = || opened("pin").id().unwrap();
        let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let write = |path: &Path, seconds| {
            std::fs::write(path, "1234").unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(at(seconds)).unwrap();
        };
        write(&path, 1000);
        let first = id();
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!([opened("link").id().unwrap(), opened("./pin").id().unwrap()], [first.clone(), first.clone()]);
        write(&path, 2000);
        assert_ne!(id(), first, "written again");
        write(&path, 1000);
        assert_eq!(id(), first);
        write(&folder.path().join("other"), 1000);
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_ne!(id(), first, "replaced by a file with the same modification time");
        let text = serde_json::to_string(&[first, PinSourceId::Credential("hsm".into()), PinSourceId::Value]).unwrap();
        assert!(!text.contains("1234"), "{text}");
    }
}
