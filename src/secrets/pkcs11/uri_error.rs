//! Why a `pkcs11:` URI is refused.

/// What is wrong with a `pkcs11:` URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The URI does not begin with `pkcs11:`.
    #[error("it does not begin with \"pkcs11:\"")]
    Scheme,
    /// An attribute without `=`, or an empty attribute between two separators. Only the name of an attribute is quoted:
    /// other text may be a PIN.
    #[error("{}: it must be NAME=VALUE", .0.map_or("an attribute has no \"=\"".into(), |name| format!("the attribute {name} has no value")))]
    NoValue(Option<&'static str>),
    /// An attribute before the `?` that RFC 7512 does not define, or one after it that looks like a misspelt one.
    #[error("the attribute {0:?} is unknown: correct it or take it out (RFC 7512 section 2.3 lists the attributes)")]
    Unknown(String),
    /// A `type` whose objects are no key pairs.
    #[error("type={0} names no key pair: leave `type` out, or use type=private")]
    Type(String),
    /// Something unknown after an attribute of the query whose value it may belong to. It is not quoted: it may be a part of
    /// a PIN.
    #[error(
        "what follows the value of {0:?} is no attribute of RFC 7512: write a \"&\" in the value as %26, or put the attribute \
         of a vendor before {0:?}"
    )]
    Rest(&'static str),
    /// An attribute of the path after the `?`, or an attribute of the query before it.
    #[error("the attribute {0:?} is on the wrong side of the \"?\"")]
    WrongSide(&'static str),
    /// An attribute that is given twice.
    #[error("the attribute {0:?} is given twice")]
    Duplicate(&'static str),
    /// A character that must be percent-encoded, an incomplete percent-encoding, or invalid UTF-8.
    #[error("the value of {0:?} is not well-formed: see RFC 7512 section 2.3 for what must be percent-encoded")]
    Value(&'static str),
    /// Two attributes that exclude each other.
    #[error("{0:?} and {1:?} exclude each other")]
    Both(&'static str, &'static str),
}
