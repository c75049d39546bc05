//! What a PKCS#11 return value means, in one place (PKCS#11 v3.1 section 5.1.6).

use cryptoki::error::{Error, RvError};
use cryptoki_sys::{
    CK_RV, CKR_AEAD_DECRYPT_FAILED, CKR_KEY_EXHAUSTED, CKR_OPERATION_CANCEL_FAILED, CKR_OPERATION_NOT_VALIDATED,
    CKR_PARAMETER_SET_NOT_SUPPORTED, CKR_PENDING, CKR_SEED_RANDOM_REQUIRED, CKR_SESSION_ASYNC_NOT_SUPPORTED,
    CKR_TOKEN_NOT_INITIALIZED, CKR_TOKEN_RESOURCE_EXCEEDED,
};

use crate::secrets::{Cause, TokenError};

/// A call that failed, or a conclusion that needs no more looking at.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Call(Failure),
    Token(TokenError),
}

/// A call that the module refused.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The function, by its PKCS#11 name.
    operation: &'static str,
    /// The return value, by its PKCS#11 name.
    code: String,
    pub(super) kind: Kind,
}

/// What is to be done about it. Each has one [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The session or the login is no longer valid, or an operation was left open in it: open, log in and find again, once.
    Lost,
    /// A handle is no longer valid: the object was deleted, by another program maybe, or its session is lost.
    Stale,
    /// The token is not there.
    Gone,
    /// The PIN was refused, or cannot be used.
    Pin,
    /// The token cannot do this, ever.
    Unsupported,
    /// What a peer sent is wrong: nothing else is ever given to a call that returns this.
    Peer,
    /// What was given to the call is wrong. Where a peer's point was in it, key agreement says that it is the peer's.
    Input,
    /// Says nothing of who is at fault: a hostile point gives CKR_GENERAL_ERROR on SoftHSM 2.6.1 and CKR_DEVICE_ERROR on
    /// Kryoptic 1.5.4, a sick device gives the same.
    Vague,
    /// All sessions are taken.
    Exhausted,
    /// Anything else: memory, a full token, a missing random generator.
    Device,
}

impl Kind {
    /// Whose fault it is, where the call that failed knows no better.
    fn cause(self) -> Cause {
        match self {
            Self::Peer => Cause::Peer,
            Self::Vague | Self::Exhausted | Self::Device => Cause::Transient,
            Self::Lost | Self::Stale => Cause::SessionLost,
            Self::Gone => Cause::TokenGone,
            Self::Pin => Cause::Pin,
            Self::Unsupported | Self::Input => Cause::Permanent,
        }
    }
}

pub(super) type Outcome<T> = Result<T, Fault>;

/// Names the call that a `cryptoki` error came from.
pub(super) trait During<T> {
    fn during(self, operation: &'static str) -> Outcome<T>;
}

impl<T> During<T> for Result<T, Error> {
    fn during(self, operation: &'static str) -> Outcome<T> {
        self.map_err(|error| Fault::Call(Failure::new(operation, &error)))
    }
}

impl Failure {
    fn new(operation: &'static str, error: &Error) -> Self {
        match error {
            Error::Pkcs11(code, _) => Self { operation, code: name(code), kind: kind(code) },
            Error::NullFunctionPointer | Error::NotSupported | Error::MissingSymbol(_) => {
                Self { operation, code: "the module has no such function".into(), kind: Kind::Unsupported }
            }
            // What cryptoki could not read. None of its messages quotes a secret.
            other => Self { operation, code: other.to_string(), kind: Kind::Device },
        }
    }
}

/// Every code has one kind; where a call knows better (a peer's point, a wrapped key), it says so itself.
fn kind(code: &RvError) -> Kind {
    use RvError::*;
    match code {
        SessionHandleInvalid | SessionClosed | UserNotLoggedIn => Kind::Lost,
        // An operation that failed half way was left open, or was closed: only a new session is surely in neither state.
        OperationActive | OperationNotInitialized => Kind::Lost,
        ObjectHandleInvalid | KeyHandleInvalid | UnwrappingKeyHandleInvalid | WrappingKeyHandleInvalid => Kind::Stale,
        TokenNotPresent | DeviceRemoved | SlotIdInvalid | TokenNotRecognized | CryptokiNotInitialized => Kind::Gone,
        PinIncorrect
        | PinInvalid
        | PinLenRange
        | PinExpired
        | PinLocked
        | PinTooWeak
        | UserPinNotInitialized
        | NewPinMode
        | NextOtp => Kind::Pin,
        FunctionNotSupported
        | FunctionNotParallel
        | MechanismInvalid
        | CurveNotSupported
        | KeyTypeInconsistent
        | KeyFunctionNotPermitted
        | KeyIndigestible
        | KeyUnextractable
        | KeyNotWrappable
        | KeySizeRange
        | KeyNeeded
        | KeyNotNeeded
        | KeyChanged
        | UnwrappingKeySizeRange
        | UnwrappingKeyTypeInconsistent
        | WrappingKeySizeRange
        | WrappingKeyTypeInconsistent
        | TemplateIncomplete
        | TemplateInconsistent
        | AttributeReadOnly
        | AttributeSensitive
        | AttributeTypeInvalid
        | AttributeValueInvalid
        | ActionProhibited
        | InformationSensitive
        | RandomSeedNotSupported
        | SavedStateInvalid
        | StateUnsaveable
        | SessionParallelNotSupported
        | SessionReadOnly
        | TokenWriteProtected
        | UserTypeInvalid => Kind::Unsupported,
        // Of the module's start: another one would fail the same way.
        NeedToCreateThreads | CantLock | MutexBad | MutexNotLocked | LibraryLoadFailed | CryptokiAlreadyInitialized => {
            Kind::Unsupported
        }
        EncryptedDataInvalid
        | EncryptedDataLenRange
        | PublicKeyInvalid
        | WrappedKeyInvalid
        | WrappedKeyLenRange
        | SignatureInvalid
        | SignatureLenRange => Kind::Peer,
        DataInvalid | DataLenRange | MechanismParamInvalid | DomainParamsInvalid => Kind::Input,
        // AWS CloudHSM says CKR_ARGUMENTS_BAD when sessions are opened too fast.
        GeneralError | DeviceError | FunctionFailed | FunctionRejected | ArgumentsBad => Kind::Vague,
        // A vendor's own, and what stands in no header at all.
        VendorDefined(_) => Kind::Vague,
        UnknownErrorCode(value) => later(*value).map_or(Kind::Vague, |(_, kind)| kind),
        SessionCount => Kind::Exhausted,
        Cancel
        | FunctionCanceled
        | HostMemory
        | DeviceMemory
        | NoEvent
        | BufferTooSmall
        | RandomNoRng
        | ExceededMaxIterations
        | FipsSelfTestFailed => Kind::Device,
        // Someone else in this process: it ends.
        SessionExists
        | SessionReadOnlyExists
        | SessionReadWriteSoExists
        | UserAlreadyLoggedIn
        | UserAnotherAlreadyLoggedIn
        | UserTooManyTypes => Kind::Device,
    }
}

/// The codes of the headers that `cryptoki` 0.12 has no name for.
fn later(code: CK_RV) -> Option<(&'static str, Kind)> {
    let known = match code {
        CKR_AEAD_DECRYPT_FAILED => ("CKR_AEAD_DECRYPT_FAILED", Kind::Peer),
        CKR_KEY_EXHAUSTED => ("CKR_KEY_EXHAUSTED", Kind::Unsupported),
        CKR_OPERATION_CANCEL_FAILED => ("CKR_OPERATION_CANCEL_FAILED", Kind::Lost),
        // FIPS: what was done is not approved.
        CKR_OPERATION_NOT_VALIDATED => ("CKR_OPERATION_NOT_VALIDATED", Kind::Unsupported),
        CKR_PARAMETER_SET_NOT_SUPPORTED => ("CKR_PARAMETER_SET_NOT_SUPPORTED", Kind::Unsupported),
        CKR_PENDING => ("CKR_PENDING", Kind::Device),
        CKR_SEED_RANDOM_REQUIRED => ("CKR_SEED_RANDOM_REQUIRED", Kind::Device),
        CKR_SESSION_ASYNC_NOT_SUPPORTED => ("CKR_SESSION_ASYNC_NOT_SUPPORTED", Kind::Unsupported),
        CKR_TOKEN_NOT_INITIALIZED => ("CKR_TOKEN_NOT_INITIALIZED", Kind::Gone),
        CKR_TOKEN_RESOURCE_EXCEEDED => ("CKR_TOKEN_RESOURCE_EXCEEDED", Kind::Device),
        _ => return None,
    };
    Some(known)
}

/// `CKR_GENERAL_ERROR` for `GeneralError`, as it stands in the specification and in every search result.
fn name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(value) => format!("CKR {value:#010x}"),
        RvError::UnknownErrorCode(value) => {
            later(*value).map_or_else(|| format!("CKR {value:#010x}"), |(name, _)| name.to_owned())
        }
        code => {
            let mut name = "CKR".to_owned();
            for letter in format!("{code:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.operation, self.code)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Call(failure) => failure.fmt(f),
            Fault::Token(error) => error.fmt(f),
        }
    }
}

impl From<Failure> for TokenError {
    fn from(failure: Failure) -> Self {
        let said = failure.to_string();
        let Failure { operation, code: reason, kind } = failure;
        match kind.cause() {
            Cause::Peer => TokenError::PeerKey(said),
            Cause::Transient => TokenError::Device { operation: operation.into(), reason },
            Cause::SessionLost => TokenError::SessionLost { operation: operation.into(), reason },
            Cause::TokenGone => TokenError::Away(format!("the token is gone ({said})")),
            Cause::Pin => TokenError::Pin(format!("the token does not take the PIN ({said})")),
            Cause::Permanent => TokenError::Unsupported(said),
        }
    }
}

impl From<Fault> for TokenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Call(failure) => failure.into(),
            Fault::Token(error) => error,
        }
    }
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        Fault::Token(error)
    }
}

impl Fault {
    /// A login that is gone, found out by looking.
    pub(super) fn logged_out() -> Self {
        let code = name(&RvError::UserNotLoggedIn);
        Fault::Call(Failure { operation: "C_GetSessionInfo", code, kind: Kind::Lost })
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Fault::Call(failure) => Some(failure.kind),
            Fault::Token(_) => None,
        }
    }

    /// The session is lost, or the token gone: no answer to what was asked.
    pub(super) fn no_answer(&self) -> bool {
        matches!(self.kind(), Some(Kind::Lost | Kind::Gone))
    }

    /// A failure that a new session may cure. A vague one may be: Kryoptic 1.5.4 signs no more after a logout, with
    /// CKR_GENERAL_ERROR.
    pub(super) fn curable(&self) -> bool {
        self.no_answer() || matches!(self.kind(), Some(Kind::Stale | Kind::Vague))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use cryptoki::{context::Function, error::Rv};

    use super::*;

    fn failure(code: RvError) -> Failure {
        Failure::new("C_Sign", &Error::Pkcs11(code, Function::Sign))
    }

    #[test]
    fn names_and_kinds() {
        let failed = |code| TokenError::from(failure(code));
        assert_eq!(failed(RvError::GeneralError).to_string(), "C_Sign failed: CKR_GENERAL_ERROR");
        assert_eq!(failed(RvError::VendorDefined(0x8000_0001)).to_string(), "C_Sign failed: CKR 0x80000001");
        assert!(matches!(failed(RvError::TokenNotPresent), TokenError::Away(_)));
        assert!(matches!(failed(RvError::PinLocked), TokenError::Pin(_)));
        assert!(matches!(failed(RvError::MechanismInvalid), TokenError::Unsupported(_)));
    }

    /// The constants that the headers have, from the bindings that are made of them.
    fn headers() -> Vec<(String, CK_RV)> {
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the tool chain runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        // Of this platform only: the packages of others have not been fetched.
        let version = run(&std::env::var("RUSTC").unwrap_or("rustc".into()), &["-vV"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let metadata = run(
            env!("CARGO"),
            &["metadata", "--format-version=1", "--offline", "--filter-platform", host, "--manifest-path", manifest],
        );
        let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let sys = packages.iter().find(|package| package["name"] == "cryptoki-sys").unwrap();
        let source =
            std::path::Path::new(sys["manifest_path"].as_str().unwrap()).with_file_name("src/bindings/generic.rs");
        let source = fs::read_to_string(source).unwrap();
        let constants = source.lines().filter_map(|line| line.strip_prefix("pub const CKR_"));
        let parts = constants.map(|line| {
            let (name, rest) = line.split_once(": CK_RV = ").unwrap();
            (format!("CKR_{name}"), rest.trim_end_matches(';').parse().unwrap())
        });
        parts.collect()
    }

    #[test]
    fn every_code_of_the_headers_has_its_name_and_one_cause() {
        let headers = headers();
        assert!(headers.len() > 100, "{} constants", headers.len());
        for (constant, value) in headers {
            let Rv::Error(code) = Rv::from(value) else {
                assert_eq!(constant, "CKR_OK");
                continue;
            };
            if constant == "CKR_VENDOR_DEFINED" {
                assert_eq!(code, RvError::VendorDefined(value));
            } else {
                assert_eq!(name(&code), constant, "{code:?} falls through");
            }
            let failure = failure(code);
            let cause = failure.kind.cause();
            assert_eq!(TokenError::from(failure).cause(), cause, "{constant}");
        }
        // And what is in none of them.
        assert_eq!(kind(&RvError::UnknownErrorCode(0x7777)), Kind::Vague);
    }

    /// The six causes, by the codes that are met.
    #[test]
    fn causes() {
        use RvError::*;
        for (codes, cause) in [
            (&[WrappedKeyInvalid, EncryptedDataInvalid, PublicKeyInvalid][..], Cause::Peer),
            (&[GeneralError, DeviceError, FunctionFailed, SessionCount, HostMemory, DeviceMemory], Cause::Transient),
            (
                &[SessionHandleInvalid, SessionClosed, UserNotLoggedIn, KeyHandleInvalid, OperationActive],
                Cause::SessionLost,
            ),
            (&[TokenNotPresent, DeviceRemoved, CryptokiNotInitialized], Cause::TokenGone),
            (&[PinIncorrect, PinLocked, PinExpired, UserPinNotInitialized], Cause::Pin),
            (&[MechanismInvalid, FunctionNotSupported, KeyTypeInconsistent, DataLenRange], Cause::Permanent),
        ] {
            for code in codes {
                assert_eq!(kind(code).cause(), cause, "{code:?}");
            }
        }
    }
}
