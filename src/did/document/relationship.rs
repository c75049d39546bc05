//! What the keys of a DID document are for.

/// What a key of a DID may be used for (DID Core section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relationship {
    /// To act as the DID. DIDComm signs messages with these keys.
    Authentication,
    /// To encrypt to the DID; and with authcrypt, also from the DID.
    KeyAgreement,
    /// To make claims, such as credentials.
    AssertionMethod,
    /// To invoke a capability.
    CapabilityInvocation,
    /// To delegate a capability.
    CapabilityDelegation,
}

impl Relationship {
    /// All relationships.
    pub const ALL: [Relationship; 5] = [
        Relationship::Authentication,
        Relationship::KeyAgreement,
        Relationship::AssertionMethod,
        Relationship::CapabilityInvocation,
        Relationship::CapabilityDelegation,
    ];

    /// The name of the member that lists the relationship in a DID document.
    pub fn name(self) -> &'static str {
        match self {
            Relationship::Authentication => "authentication",
            Relationship::KeyAgreement => "keyAgreement",
            Relationship::AssertionMethod => "assertionMethod",
            Relationship::CapabilityInvocation => "capabilityInvocation",
            Relationship::CapabilityDelegation => "capabilityDelegation",
        }
    }
}
