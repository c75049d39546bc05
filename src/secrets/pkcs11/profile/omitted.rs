//! Attributes that a device refuses in templates.

use cryptoki::object::{Attribute, AttributeType};
use serde::Deserialize;

/// The attributes to leave out of templates, by the kind of object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::secrets::pkcs11) struct TemplateOmissions {
    pub(in crate::secrets::pkcs11) private_key: OmittedAttributes,
    pub(in crate::secrets::pkcs11) public_key: OmittedAttributes,
    /// The attributes to leave out for derived secrets and content keys.
    pub(in crate::secrets::pkcs11) secret: OmittedAttributes,
}

/// Attributes to leave out of a template.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(in crate::secrets::pkcs11) struct OmittedAttributes(Vec<AttributeType>);

/// The attributes that may be left out. CKA_SENSITIVE and CKA_EXTRACTABLE are not among them, since they
/// protect the keys.
const OMISSIBLE: [(&str, AttributeType); 10] = [
    ("CKA_DERIVE", AttributeType::Derive),
    ("CKA_ID", AttributeType::Id),
    ("CKA_KEY_TYPE", AttributeType::KeyType),
    ("CKA_LABEL", AttributeType::Label),
    ("CKA_PRIVATE", AttributeType::Private),
    ("CKA_SIGN", AttributeType::Sign),
    ("CKA_UNWRAP", AttributeType::Unwrap),
    ("CKA_VALUE_LEN", AttributeType::ValueLen),
    ("CKA_VERIFY", AttributeType::Verify),
    ("CKA_WRAP", AttributeType::Wrap),
];

impl TryFrom<Vec<String>> for OmittedAttributes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let attribute = |name: String| match OMISSIBLE.iter().find(|(known, _)| *known == name) {
            Some((_, attribute)) => Ok(*attribute),
            None => {
                let allowed = OMISSIBLE.map(|(name, _)| name);
                Err(format!("{name:?} is not an attribute that may be left out: {allowed:?}"))
            }
        };
        names.into_iter().map(attribute).collect::<Result<_, _>>().map(Self)
    }
}

impl OmittedAttributes {
    /// The template without these attributes.
    pub(in crate::secrets::pkcs11) fn remove_from(&self, mut template: Vec<Attribute>) -> Vec<Attribute> {
        template.retain(|attribute| !self.0.contains(&attribute.attribute_type()));
        template
    }
}
