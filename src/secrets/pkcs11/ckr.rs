//! What a PKCS#11 return value means, in one place (PKCS#11 v3.1 section 5.1.6).

use cryptoki::error::{Error, RvError};

use crate::secrets::TokenError;

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

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The session or the login is no longer valid: open, log in and find again, once.
    Lost,
    /// A handle is no longer valid: the object was deleted, by another program maybe, or its session is lost.
    Stale,
    /// The token is not there.
    Gone,
    /// The PIN was refused, or cannot be used.
    Pin,
    /// The token cannot do this, ever.
    Unsupported,
    /// What was given to the call is wrong.
    Input,
    /// Says nothing of who is at fault: a hostile point gives CKR_GENERAL_ERROR on SoftHSM 2.6.1 and CKR_DEVICE_ERROR on Kryoptic 1.5.4, a
    /// sick device gives the same.
    Vague,
    /// Anything else: memory, a full token, a missing random generator.
    Device,
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
        ObjectHandleInvalid | KeyHandleInvalid | UnwrappingKeyHandleInvalid | WrappingKeyHandleInvalid => Kind::Stale,
        TokenNotPresent | DeviceRemoved | SlotIdInvalid | TokenNotRecognized | CryptokiNotInitialized => Kind::Gone,
        PinIncorrect | PinInvalid | PinLenRange | PinExpired | PinLocked | PinTooWeak | UserPinNotInitialized => {
            Kind::Pin
        }
        FunctionNotSupported
        | MechanismInvalid
        | CurveNotSupported
        | KeyTypeInconsistent
        | KeyFunctionNotPermitted
        | KeyIndigestible
        | KeyUnextractable
        | KeyNotWrappable
        | KeySizeRange
        | TemplateIncomplete
        | TemplateInconsistent
        | AttributeReadOnly
        | AttributeTypeInvalid
        | AttributeValueInvalid
        | ActionProhibited
        | TokenWriteProtected => Kind::Unsupported,
        ArgumentsBad
        | DataInvalid
        | DataLenRange
        | EncryptedDataInvalid
        | EncryptedDataLenRange
        | MechanismParamInvalid
        | DomainParamsInvalid
        | PublicKeyInvalid
        | WrappedKeyInvalid
        | WrappedKeyLenRange => Kind::Input,
        GeneralError | DeviceError | FunctionFailed => Kind::Vague,
        _ => Kind::Device,
    }
}

/// `CKR_GENERAL_ERROR` for `GeneralError`, as it stands in the specification and in every search result.
fn name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(value) | RvError::UnknownErrorCode(value) => format!("CKR {value:#010x}"),
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
        match failure.kind {
            Kind::Gone => TokenError::Away(format!("the token is gone ({failure})")),
            Kind::Pin => TokenError::Pin(format!("the token does not take the PIN ({failure})")),
            Kind::Unsupported => TokenError::Unsupported(failure.to_string()),
            Kind::Lost | Kind::Stale | Kind::Input | Kind::Vague | Kind::Device => {
                TokenError::Device { operation: failure.operation, reason: failure.code }
            }
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
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn names_and_kinds() {
        let failed = |code| -> TokenError {
            let result: Result<(), _> = Err(Error::Pkcs11(code, Function::Sign));
            result.during("C_Sign").unwrap_err().into()
        };
        assert_eq!(failed(RvError::GeneralError).to_string(), "C_Sign failed: CKR_GENERAL_ERROR");
        assert_eq!(failed(RvError::VendorDefined(0x8000_0001)).to_string(), "C_Sign failed: CKR 0x80000001");
        assert!(matches!(failed(RvError::TokenNotPresent), TokenError::Away(_)));
        assert!(matches!(failed(RvError::PinLocked), TokenError::Pin(_)));
        assert!(matches!(failed(RvError::MechanismInvalid), TokenError::Unsupported(_)));
    }
}
