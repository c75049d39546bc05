//! The members of a profile's file, and how the PKCS#11 code uses them.

use cryptoki::object::KeyType;
use serde::Deserialize;

use super::{
    evidence::{Evidence, EvidenceBasis, Verdict},
    omitted::TemplateOmissions,
};
use crate::{
    keys::Curve,
    secrets::{
        Custody, TokenError, TokenInfo,
        pkcs11::curves::{self, PointEncoding},
        shell_word::shell_word,
    },
};

/// The profile of a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name of the profile's file without its extension.
    #[serde(skip)]
    name: String,
    /// The device's name, for people.
    device: String,
    /// How the device is recognised. One match is enough.
    #[serde(default, rename = "match")]
    matches: Vec<DeviceMatch>,
    /// The string that C_Initialize needs, for a module that needs one.
    pub(super) initialize: Option<Initialize>,
    #[serde(default, rename = "cure")]
    pub(in crate::secrets::pkcs11) recovery: Recovery,
    /// The tool that makes the device's keys. Given if C_GenerateKeyPair, as this program calls it, cannot make them.
    make_keys_with: Option<String>,
    /// Whether CKA_LOCAL is false for every key, including generated ones.
    #[serde(default)]
    pub(in crate::secrets::pkcs11) forgets_origin: bool,
    /// Whether the token sets CKF_USER_PIN_COUNT_LOW after one wrong PIN. If so, a login that failed without it did not
    /// check the PIN.
    #[serde(default)]
    pub(in crate::secrets::pkcs11) reports_wrong_pin: bool,
    /// How a person sets a new PIN when the PIN is locked; none if C_InitPIN does it.
    new_pin: Option<String>,
    /// What a probe of an idle token asks.
    #[serde(default)]
    pub(in crate::secrets::pkcs11) probe: Probe,
    #[serde(default)]
    x25519: X25519,
    #[serde(default)]
    pub(in crate::secrets::pkcs11) agreement: Agreement,
    #[serde(default)]
    pub(in crate::secrets::pkcs11) sessions: Sessions,
    #[serde(default)]
    pub(in crate::secrets::pkcs11) process: ProcessLimits,
    #[serde(default)]
    pub(in crate::secrets::pkcs11) omit: TemplateOmissions,
    /// What the device can do, and how that is known. A user's own profile need not have it.
    evidence: Option<Evidence>,
}

/// What the module and the token must report. All members that are given must match. A `*` at the end matches any rest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceMatch {
    /// CK_INFO.manufacturerID, of the module.
    module: Option<String>,
    /// CK_TOKEN_INFO.manufacturerID.
    manufacturer: Option<String>,
    /// CK_TOKEN_INFO.model.
    model: Option<String>,
}

/// A string for pReserved of C_Initialize. The specification requires a null pointer there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Initialize {
    /// The name of the module's file without its extension, by which the module is recognised: before C_Initialize
    /// nothing else is known about it.
    pub(super) file: String,
    /// The environment variable that holds the string.
    pub(super) variable: String,
}

/// What makes a token usable again after it was absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::secrets::pkcs11) enum Recovery {
    /// A new session.
    #[default]
    Session,
    /// C_Finalize and C_Initialize, or a new process. Claviger always uses a new process: C_Finalize ends the sessions
    /// of all other tokens of the module, and crashes some modules.
    Process,
}

/// What a probe of an idle token asks, besides C_GetSessionInfo. Neither needs a PIN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::secrets::pkcs11) enum Probe {
    /// The class of a known private key (C_GetAttributeValue): a module may answer C_GetSessionInfo without the device.
    #[default]
    Key,
    /// Nothing more: for a module that answers only C_GetSessionInfo without disturbing others.
    Session,
    /// A few random bytes (C_GenerateRandom): for a module that keeps the attributes of its keys in its memory.
    Random,
}

/// How long a process can use the module.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::secrets::pkcs11) struct ProcessLimits {
    /// The number of session objects after which a new process takes over, because the module never frees all memory of
    /// an object.
    pub(in crate::secrets::pkcs11) most_objects: Option<u64>,
}

/// How the token represents X25519 keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct X25519 {
    /// Values of CKA_KEY_TYPE, in the order in which they are tried. CKK_EC is not possible: SoftHSM 2.6.1
    /// crashes on it.
    key_types: Vec<X25519KeyType>,
    /// The form of CKA_EC_PARAMS.
    params: EcParamsForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum X25519KeyType {
    #[serde(rename = "CKK_EC_MONTGOMERY")]
    Montgomery,
    #[serde(rename = "CKK_EC_EDWARDS")]
    Edwards,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EcParamsForm {
    /// The OID of RFC 8410.
    #[default]
    Oid,
    /// The PrintableString of PKCS#11 v3.0.
    Name,
}

impl Default for X25519 {
    fn default() -> Self {
        Self { key_types: vec![X25519KeyType::Montgomery, X25519KeyType::Edwards], params: EcParamsForm::Oid }
    }
}

/// How the token performs key agreement.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::secrets::pkcs11) struct Agreement {
    /// The custody tiers to try.
    pub(in crate::secrets::pkcs11) tiers: Vec<Custody>,
    /// The encodings of the peer's point to try, in order.
    pub(in crate::secrets::pkcs11) points: Vec<PointEncoding>,
    /// How many Zs each session caches in the token.
    pub(in crate::secrets::pkcs11) kept_secrets: usize,
}

impl Default for Agreement {
    fn default() -> Self {
        let points = vec![PointEncoding::Raw, PointEncoding::Der];
        Self { tiers: Custody::ALL.to_vec(), points, kept_secrets: 256 }
    }
}

/// How many sessions are used.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::secrets::pkcs11) struct Sessions {
    /// The number of sessions if the configuration gives none.
    pub(in crate::secrets::pkcs11) usual: usize,
    /// The largest number that the configuration may give.
    most: Option<usize>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { usual: 1, most: None }
    }
}

impl Default for Profile {
    /// The profile of an unknown device: every variant is tried.
    fn default() -> Self {
        Self::parse("unknown", "device = \"unknown\"").expect("every other member has a default")
    }
}

impl Profile {
    /// Parses the text of a profile's file.
    ///
    /// # Errors
    /// [`TokenError::Config`] says what is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, TokenError> {
        let wrong = |reason: &str| TokenError::Config(format!("the profile {name:?}: {}", reason.trim_end()));
        let mut profile: Self = toml::from_str(text).map_err(|error| wrong(error.message()))?;
        profile.name = name.to_owned();
        if profile.x25519.key_types.is_empty() || profile.agreement.points.is_empty() {
            return Err(wrong("x25519.key_types and agreement.points must not be empty: leave them out to try all"));
        }
        if profile.sessions.usual == 0 || profile.sessions.most.is_some_and(|most| most < profile.sessions.usual) {
            return Err(wrong("sessions.usual must be at least 1, and at most sessions.most"));
        }
        if let Some(evidence) = &profile.evidence {
            let named: Vec<&str> = evidence.serves.keys().map(String::as_str).collect();
            let mut all = Curve::ALL.map(Curve::name);
            all.sort_unstable();
            if named != all {
                return Err(wrong(&format!("evidence.serves must have a verdict for each of {all:?}, and no other")));
            }
        }
        Ok(profile)
    }

    /// The profile's name: the value of `profile` in the configuration, and the name of the profile's file. `unknown`
    /// if no profile fits the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's name, for people.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What the device can do with keys on a curve, by the profile's evidence; none if the profile has no evidence.
    pub fn verdict(&self, curve: Curve) -> Option<Verdict> {
        self.evidence.as_ref().and_then(|evidence| evidence.serves.get(curve.name()).copied())
    }

    /// The basis of the verdicts, and the version they are about; none if there are no verdicts.
    pub fn basis(&self) -> Option<(EvidenceBasis, &str)> {
        self.evidence.as_ref().map(|evidence| (evidence.basis, evidence.version.as_str()))
    }

    /// How a person sets a new PIN when the token has locked its PIN: a sentence with a command. `module` is the module's
    /// file.
    pub fn new_pin(&self, module: &str, label: &str) -> String {
        self.new_pin.clone().unwrap_or_else(|| {
            format!(
                "its security officer sets a new one: `pkcs11-tool --module {} --token-label {} --login --login-type so \
                 --init-pin`",
                shell_word(module),
                shell_word(label)
            )
        })
    }

    /// Whether the profile is for a token. `module` is the module's manufacturer.
    pub(super) fn matches(&self, module: &str, token: &TokenInfo) -> bool {
        self.matches.iter().any(|it| it.fits(module, token))
    }

    /// The key types that the token may use for a curve, the likeliest first.
    pub(in crate::secrets::pkcs11) fn key_types(&self, curve: Curve) -> Vec<KeyType> {
        match curve {
            Curve::X25519 => self.x25519.key_types.iter().map(|it| it.key_type()).collect(),
            Curve::Ed25519 => vec![KeyType::EC_EDWARDS],
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => vec![KeyType::EC],
        }
    }

    /// CKA_EC_PARAMS of new keys.
    pub(in crate::secrets::pkcs11) fn ec_params(&self, curve: Curve) -> Vec<u8> {
        match (curve, self.x25519.params) {
            (Curve::X25519, EcParamsForm::Name) => curves::X25519_NAME.to_vec(),
            (curve, _) => curves::ec_params(curve).to_vec(),
        }
    }

    /// How many sessions to use: the number in the configuration, or else the usual number.
    pub(in crate::secrets::pkcs11) fn sessions(&self, configured: Option<usize>) -> Result<usize, TokenError> {
        match (configured, self.sessions.most) {
            (Some(configured), Some(most)) if configured > most => Err(TokenError::Config(format!(
                "sessions = {configured}, and a {} serves {most} at once (hsm-config/{}.md)",
                self.device, self.name
            ))),
            _ => Ok(configured.unwrap_or(self.sessions.usual)),
        }
    }

    /// Fails with [`TokenError::Unsupported`] if another tool must make the device's keys.
    pub(in crate::secrets::pkcs11) fn check_makes_keys(&self) -> Result<(), TokenError> {
        match &self.make_keys_with {
            None => Ok(()),
            Some(tool) => Err(TokenError::Unsupported(format!(
                "keys of a {} are made with {tool} (hsm-config/{}.md)",
                self.device, self.name
            ))),
        }
    }
}

impl DeviceMatch {
    fn fits(&self, module: &str, token: &TokenInfo) -> bool {
        let parts = [(&self.module, module), (&self.manufacturer, &*token.manufacturer), (&self.model, &*token.model)];
        let fits = |(pattern, actual): (&Option<String>, &str)| match pattern
            .as_deref()
            .map(|it| (it, it.strip_suffix('*')))
        {
            None => true,
            Some((_, Some(start))) => actual.starts_with(start),
            Some((whole, None)) => actual == whole,
        };
        parts.iter().any(|(pattern, _)| pattern.is_some()) && parts.into_iter().all(fits)
    }
}

impl X25519KeyType {
    fn key_type(self) -> KeyType {
        match self {
            X25519KeyType::Montgomery => KeyType::EC_MONTGOMERY,
            X25519KeyType::Edwards => KeyType::EC_EDWARDS,
        }
    }
}
