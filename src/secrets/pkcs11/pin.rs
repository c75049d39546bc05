//! PINs and where they come from. A PIN is read when it is needed, wiped after, and never printed.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::secrets::TokenError;

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

    pub(super) fn secret(&self) -> &SecretString {
        &self.0
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
    pub state: super::PinState,
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

    /// From a file, which is relative to [`OpenOptions::base_dir`](super::OpenOptions::base_dir). One newline at its end
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
    /// for the prompt of [`OpenOptions::prompt`](super::OpenOptions::prompt).
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

    /// The PIN, read now. `uri` and `ask` stand in where the source is `uri()` or a prompt without its own callback.
    pub(super) fn read(
        &self,
        uri: &super::Uri,
        base: Option<&Path>,
        ask: Option<&Prompt>,
        prompt: &PinPrompt,
    ) -> Result<Pin, TokenError> {
        let label = &prompt.label;
        match &self.0 {
            Source::Uri => match (&uri.pin_source, &uri.pin_value) {
                (Some(source), _) => match Self::parse(source)? {
                    Self(Source::Uri) => Err(TokenError::Config("pin-source names itself".into())),
                    source => source.read(uri, base, ask, prompt),
                },
                (None, Some(pin)) => {
                    tracing::warn!(token = %label, "the PIN stands in the URI as pin-value: prefer pin-source=file:PATH");
                    Ok(pin.clone())
                }
                (None, None) if ask.is_some() => Self(Source::Prompt(None)).read(uri, base, ask, prompt),
                (None, None) => Err(TokenError::Pin(format!(
                    "the token {label:?} wants a PIN and none is configured: add pin-source=file:PATH to its URI"
                ))),
            },
            Source::File(path) => read_file(&base.map_or_else(|| path.clone(), |base| base.join(path)), true),
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
                read_file(&Path::new(&folder).join(name), false)
            }
            Source::Value(pin) => Ok(pin.clone()),
            Source::Prompt(own) => {
                let ask = own.as_ref().or(ask).ok_or_else(|| {
                    TokenError::Pin(format!("the PIN of {label:?} is asked of a person, and there is no one to ask"))
                })?;
                ask(prompt).map_err(|error| TokenError::Pin(format!("no PIN for the token {label:?}: {error}")))
            }
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

fn read_file(path: &Path, check_mode: bool) -> Result<Pin, TokenError> {
    let failed = |error: std::io::Error| TokenError::Pin(format!("the PIN's file {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    #[cfg(unix)]
    if check_mode {
        use std::os::unix::fs::PermissionsExt;
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others than its owner may read the PIN's file: chmod 600 it");
        }
    }
    #[cfg(not(unix))]
    let _ = (check_mode, metadata);
    // At its full size from the start, so that no copy is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TokenError::Pin(format!("the PIN's file {} is too long for a PIN", path.display())));
    }
    Pin::from_file(&bytes)
        .ok_or_else(|| TokenError::Pin(format!("the PIN's file {} holds no PIN (UTF-8, not empty)", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::pkcs11::{PinState, Uri};

    fn prompt() -> PinPrompt {
        PinPrompt { label: "demo".into(), serial: "1".into(), state: PinState::Ready }
    }

    #[test]
    fn a_file_relative_to_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        for (content, pin) in [("1234\n", "1234"), ("1234\r\n", "1234"), ("12 34 \n\n", "12 34 \n"), ("1234", "1234")] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let uri: Uri = "pkcs11:?pin-source=file:pin".parse().unwrap();
            let read = PinSource::uri().read(&uri, Some(folder.path()), None, &prompt()).unwrap();
            assert_eq!(read, Pin::new(pin));
        }
        for content in [&b""[..], b"\n", b"\xff\n", &[b'1'; 2000]] {
            std::fs::write(folder.path().join("pin"), content).unwrap();
            let error = PinSource::file("pin").read(&Uri::default(), Some(folder.path()), None, &prompt()).unwrap_err();
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
        assert!(PinSource::uri().read(&Uri::default(), None, None, &prompt()).is_err());
        assert!(PinSource::credential("../x").read(&Uri::default(), None, None, &prompt()).is_err());
    }
}
