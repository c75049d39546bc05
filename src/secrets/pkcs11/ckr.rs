//! What each PKCS#11 return value (CKR_...) means (PKCS#11 v3.1 section 5.1.6).

use cryptoki::error::{Error, RvError};
use cryptoki_sys::{
    CK_RV, CKR_AEAD_DECRYPT_FAILED, CKR_KEY_EXHAUSTED, CKR_OPERATION_CANCEL_FAILED, CKR_OPERATION_NOT_VALIDATED,
    CKR_PARAMETER_SET_NOT_SUPPORTED, CKR_PENDING, CKR_SEED_RANDOM_REQUIRED, CKR_SESSION_ASYNC_NOT_SUPPORTED,
    CKR_TOKEN_NOT_INITIALIZED, CKR_TOKEN_RESOURCE_EXCEEDED,
};

use crate::secrets::{Cause, TokenError};

/// Why an operation failed: a call that the module refused, or an error in the terms of the layer above.
#[derive(Debug, Clone)]
pub(super) enum CallError {
    Call(CallFailure),
    Token(TokenError),
}

/// A call that the module refused.
#[derive(Debug, Clone)]
pub(super) struct CallFailure {
    /// The function, by its PKCS#11 name.
    operation: &'static str,
    /// The return value, by its PKCS#11 name.
    code: String,
    pub(super) kind: FailureKind,
}

/// What a failure means, and so what to do about it. Each kind has one [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The session or the login is no longer valid, or an operation was left open in the session. Remedy: open a
    /// session, log in and search for the keys again, once.
    Lost,
    /// An object handle is no longer valid: the object was deleted, perhaps by another program, or its session is lost.
    Stale,
    /// The token is not present.
    Gone,
    /// The PIN was refused or cannot be used.
    Pin,
    /// The token can never do this.
    Unsupported,
    /// The module says that the peer's input is invalid. That is a claim: YubiHSM's module returns
    /// CKR_ENCRYPTED_DATA_INVALID for a dead session.
    Peer,
    /// The module says that an argument of the call is invalid.
    Input,
    /// The code does not say who is at fault. A hostile point gives CKR_GENERAL_ERROR on SoftHSM 2.6.1 and
    /// CKR_DEVICE_ERROR on Kryoptic 1.5.4; a failing device gives the same.
    Ambiguous,
    /// The token grants no more sessions.
    Exhausted,
    /// The device or its module has no memory left for another object. Remedy: destroy the objects that are only kept to
    /// save time.
    Full,
    /// Any other failure of the device, such as no random generator.
    Device,
}

impl FailureKind {
    /// Whose fault the failure is.
    fn cause(self) -> Cause {
        match self {
            Self::Peer => Cause::Unknown,
            Self::Ambiguous | Self::Exhausted | Self::Full | Self::Device => Cause::Transient,
            Self::Lost | Self::Stale => Cause::SessionLost,
            Self::Gone => Cause::TokenGone,
            Self::Pin => Cause::Pin,
            Self::Unsupported | Self::Input => Cause::Permanent,
        }
    }
}

pub(super) type CallResult<T> = Result<T, CallError>;

/// Adds the PKCS#11 name of the failed function to a `cryptoki` error.
pub(super) trait During<T> {
    fn during(self, operation: &'static str) -> CallResult<T>;
}

impl<T> During<T> for Result<T, Error> {
    fn during(self, operation: &'static str) -> CallResult<T> {
        self.map_err(|error| CallError::Call(CallFailure::new(operation, &error)))
    }
}

impl CallFailure {
    /// Describes the error of a function, named as in PKCS#11.
    pub(super) fn new(operation: &'static str, error: &Error) -> Self {
        match error {
            Error::Pkcs11(code, _) => Self { operation, code: name(code), kind: kind(code) },
            Error::NullFunctionPointer | Error::NotSupported | Error::MissingSymbol(_) => {
                Self { operation, code: "the module has no such function".into(), kind: FailureKind::Unsupported }
            }
            // A secret that a token has made, and that is empty or too short.
            Error::InvalidValue => Self { operation, code: WRONG_LENGTH.into(), kind: FailureKind::Device },
            // An error of cryptoki itself. None of its messages contains a secret.
            other => Self { operation, code: other.to_string(), kind: FailureKind::Device },
        }
    }
}

/// The code of a value of the wrong length.
const WRONG_LENGTH: &str = "the value has a wrong length";

/// The kind of a code.
fn kind(code: &RvError) -> FailureKind {
    use RvError::*;
    match code {
        SessionHandleInvalid | SessionClosed | UserNotLoggedIn => FailureKind::Lost,
        // A failed operation may have been left open or closed. Only a new session is in a known state.
        OperationActive | OperationNotInitialized => FailureKind::Lost,
        ObjectHandleInvalid | KeyHandleInvalid | UnwrappingKeyHandleInvalid | WrappingKeyHandleInvalid => {
            FailureKind::Stale
        }
        TokenNotPresent | DeviceRemoved | SlotIdInvalid | TokenNotRecognized | CryptokiNotInitialized => {
            FailureKind::Gone
        }
        PinIncorrect
        | PinInvalid
        | PinLenRange
        | PinExpired
        | PinLocked
        | PinTooWeak
        | UserPinNotInitialized
        | NewPinMode
        | NextOtp => FailureKind::Pin,
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
        | UserTypeInvalid => FailureKind::Unsupported,
        // The module failed to start, and would fail again.
        NeedToCreateThreads | CantLock | MutexBad | MutexNotLocked | LibraryLoadFailed | CryptokiAlreadyInitialized => {
            FailureKind::Unsupported
        }
        EncryptedDataInvalid
        | EncryptedDataLenRange
        | PublicKeyInvalid
        | WrappedKeyInvalid
        | WrappedKeyLenRange
        | SignatureInvalid
        | SignatureLenRange => FailureKind::Peer,
        DataInvalid | DataLenRange | MechanismParamInvalid | DomainParamsInvalid => FailureKind::Input,
        // AWS CloudHSM returns CKR_ARGUMENTS_BAD when sessions are opened too fast.
        GeneralError | DeviceError | FunctionFailed | FunctionRejected | ArgumentsBad => FailureKind::Ambiguous,
        // Vendor-defined codes, and codes in no header.
        VendorDefined(_) => FailureKind::Ambiguous,
        UnknownErrorCode(value) => code_unknown_to_cryptoki(*value).map_or(FailureKind::Ambiguous, |(_, kind)| kind),
        SessionCount => FailureKind::Exhausted,
        HostMemory | DeviceMemory => FailureKind::Full,
        Cancel
        | FunctionCanceled
        | NoEvent
        | BufferTooSmall
        | RandomNoRng
        | ExceededMaxIterations
        | FipsSelfTestFailed => FailureKind::Device,
        // Another login of this process is in the way. It may end later.
        SessionExists
        | SessionReadOnlyExists
        | SessionReadWriteSoExists
        | UserAlreadyLoggedIn
        | UserAnotherAlreadyLoggedIn
        | UserTooManyTypes => FailureKind::Device,
    }
}

/// Name and kind of the codes in the headers for which `cryptoki` 0.12 has no name.
fn code_unknown_to_cryptoki(code: CK_RV) -> Option<(&'static str, FailureKind)> {
    let known = match code {
        CKR_AEAD_DECRYPT_FAILED => ("CKR_AEAD_DECRYPT_FAILED", FailureKind::Peer),
        CKR_KEY_EXHAUSTED => ("CKR_KEY_EXHAUSTED", FailureKind::Unsupported),
        CKR_OPERATION_CANCEL_FAILED => ("CKR_OPERATION_CANCEL_FAILED", FailureKind::Lost),
        // FIPS: the operation is not approved.
        CKR_OPERATION_NOT_VALIDATED => ("CKR_OPERATION_NOT_VALIDATED", FailureKind::Unsupported),
        CKR_PARAMETER_SET_NOT_SUPPORTED => ("CKR_PARAMETER_SET_NOT_SUPPORTED", FailureKind::Unsupported),
        CKR_PENDING => ("CKR_PENDING", FailureKind::Device),
        CKR_SEED_RANDOM_REQUIRED => ("CKR_SEED_RANDOM_REQUIRED", FailureKind::Device),
        CKR_SESSION_ASYNC_NOT_SUPPORTED => ("CKR_SESSION_ASYNC_NOT_SUPPORTED", FailureKind::Unsupported),
        CKR_TOKEN_NOT_INITIALIZED => ("CKR_TOKEN_NOT_INITIALIZED", FailureKind::Gone),
        CKR_TOKEN_RESOURCE_EXCEEDED => ("CKR_TOKEN_RESOURCE_EXCEEDED", FailureKind::Full),
        _ => return None,
    };
    Some(known)
}

/// The name of a code in the specification, which search engines find: `CKR_GENERAL_ERROR` for `GeneralError`.
fn name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(value) => format!("CKR {value:#010x}"),
        RvError::UnknownErrorCode(value) => {
            code_unknown_to_cryptoki(*value).map_or_else(|| format!("CKR {value:#010x}"), |(name, _)| name.to_owned())
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

impl std::fmt::Display for CallFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.operation, self.code)
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Call(failure) => failure.fmt(f),
            CallError::Token(error) => error.fmt(f),
        }
    }
}

impl From<CallFailure> for TokenError {
    fn from(failure: CallFailure) -> Self {
        let message = failure.to_string();
        let CallFailure { operation, code: reason, kind } = failure;
        match kind.cause() {
            Cause::Peer | Cause::Unknown => TokenError::Refused(message),
            Cause::Transient => TokenError::Device { operation: operation.into(), reason },
            Cause::SessionLost => TokenError::SessionLost { operation: operation.into(), reason },
            Cause::TokenGone => TokenError::Away(format!("the token is not present ({message})")),
            Cause::Pin => TokenError::Pin(format!("the token does not accept the PIN ({message})")),
            Cause::Permanent => TokenError::Unsupported(message),
        }
    }
}

impl From<CallError> for TokenError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Call(failure) => failure.into(),
            CallError::Token(error) => error,
        }
    }
}

impl From<TokenError> for CallError {
    fn from(error: TokenError) -> Self {
        CallError::Token(error)
    }
}

impl CallError {
    /// The error for a login that was found to be lost.
    pub(super) fn logged_out() -> Self {
        let code = name(&RvError::UserNotLoggedIn);
        CallError::Call(CallFailure { operation: "C_GetSessionInfo", code, kind: FailureKind::Lost })
    }

    /// Whether the code blames an argument, the key or the mechanism, or nobody. A device with a passing fault returns
    /// such codes too. So does a token that does not take a certain input.
    pub(super) fn may_be_about_input(&self) -> bool {
        use FailureKind::{Ambiguous, Input, Peer, Unsupported};
        matches!(self.kind(), Some(Peer | Input | Unsupported | Ambiguous))
    }

    /// The error of an operation that the token did not refuse with other inputs: its code does not mean that the token
    /// can never do this.
    pub(super) fn of_proved_operation(self) -> Self {
        match self {
            CallError::Call(failure)
                if matches!(failure.kind, FailureKind::Peer | FailureKind::Input | FailureKind::Unsupported) =>
            {
                CallError::Token(TokenError::Refused(failure.to_string()))
            }
            other => other,
        }
    }

    /// The error of a call in which every argument is known to be right, so that only the token can be at fault.
    pub(super) fn of_token(self) -> Self {
        match self {
            CallError::Call(failure) if CallError::Call(failure.clone()).may_be_about_input() => {
                CallError::Call(CallFailure { kind: FailureKind::Ambiguous, ..failure })
            }
            other => other,
        }
    }

    /// Whether the token has made a secret of the wrong length, which is a wrong answer.
    pub(super) fn is_wrong_length(&self) -> bool {
        matches!(self, CallError::Call(failure) if failure.code == WRONG_LENGTH)
    }

    /// Whether the token says that the key's attributes do not permit the operation.
    pub(super) fn is_not_permitted(&self) -> bool {
        matches!(self, CallError::Call(failure) if failure.code == name(&RvError::KeyFunctionNotPermitted))
    }

    /// The kind of a failed call; none for an error of the layer above.
    pub(super) fn kind(&self) -> Option<FailureKind> {
        match self {
            CallError::Call(failure) => Some(failure.kind),
            CallError::Token(_) => None,
        }
    }

    /// Whether the session or the token is lost. Such a failure says nothing about the request.
    pub(super) fn is_session_or_token_lost(&self) -> bool {
        matches!(self.kind(), Some(FailureKind::Lost | FailureKind::Gone))
    }

    /// Whether the operation may succeed in a new session. An ambiguous code counts too: after a logout, Kryoptic 1.5.4
    /// refuses to sign with CKR_GENERAL_ERROR.
    pub(super) fn may_succeed_in_new_session(&self) -> bool {
        self.is_session_or_token_lost() || matches!(self.kind(), Some(FailureKind::Stale | FailureKind::Ambiguous))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use cryptoki::{context::Function, error::Rv};

    use super::*;

    fn failure(code: RvError) -> CallFailure {
        CallFailure::new("C_Sign", &Error::Pkcs11(code, Function::Sign))
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

    /// The constants of the PKCS#11 headers, from the bindings that are generated from them.
    fn headers() -> Vec<(String, CK_RV)> {
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the tool chain runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        // Restricted to this platform: the packages for other platforms are not downloaded.
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
                assert_eq!(name(&code), constant, "{code:?} has no name");
            }
            let failure = failure(code);
            let cause = failure.kind.cause();
            assert_eq!(TokenError::from(failure).cause(), cause, "{constant}");
        }
        // A code in no header.
        assert_eq!(kind(&RvError::UnknownErrorCode(0x7777)), FailureKind::Ambiguous);
    }

    /// The causes, by codes that are common in practice.
    #[test]
    fn causes() {
        use RvError::*;
        for (codes, cause) in [
            (&[WrappedKeyInvalid, EncryptedDataInvalid, PublicKeyInvalid][..], Cause::Unknown),
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
