//! What is peculiar to a device, as data: one file of `hsm-config/` for each.
//!
//! A profile narrows what is tried and says it in the device's dialect. It is never believed: what a key can do is what
//! its known answers show, with a profile as without. Without one, every form is tried.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use cryptoki::object::{Attribute, AttributeType, KeyType};
use serde::Deserialize;

use super::{agree::PointForm, curves};
use crate::{
    keys::Curve,
    secrets::{Custody, TokenError, TokenInfo},
};

/// The profile of a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The file's name without its suffix.
    #[serde(skip)]
    name: String,
    /// What people call it.
    device: String,
    /// How it is recognised; several are alternatives.
    #[serde(default, rename = "match")]
    matches: Vec<Match>,
    /// What its C_Initialize must be given.
    initialize: Option<Initialize>,
    #[serde(default)]
    pub(super) cure: Cure,
    /// What makes its keys, if C_GenerateKeyPair cannot do it as it is called here.
    make_keys_with: Option<String>,
    /// CKA_LOCAL is false of every key, however it came to be.
    #[serde(default)]
    pub(super) forgets_origin: bool,
    #[serde(default)]
    x25519: X25519,
    #[serde(default)]
    pub(super) agreement: Agreement,
    #[serde(default)]
    pub(super) sessions: Sessions,
    #[serde(default)]
    pub(super) process: Process,
    #[serde(default)]
    pub(super) omit: Omit,
    /// None in a profile of one's own that claims nothing.
    evidence: Option<Evidence>,
}

/// All that is said must be so. A `*` at the end of a text stands for any rest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    /// CK_INFO.manufacturerID, of the module.
    module: Option<String>,
    /// CK_TOKEN_INFO.manufacturerID.
    manufacturer: Option<String>,
    /// CK_TOKEN_INFO.model.
    model: Option<String>,
}

/// A text for pReserved of C_Initialize, which the specification wants to be null.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Initialize {
    /// The stem of the module's file name: nothing else is known before C_Initialize.
    file: String,
    /// The environment variable that has the text.
    variable: String,
}

/// What brings a token back that went away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cure {
    /// A new session, when the token is there again.
    #[default]
    Session,
    /// C_Finalize and C_Initialize, or a new process. It is always the latter here: C_Finalize takes the sessions of all
    /// other tokens of the module along, and crashes some modules.
    Process,
}

/// How long a process can go on with the module.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Process {
    /// Session objects after which a new process is wanted, since the module keeps something of each for good.
    pub(super) most_objects: Option<u64>,
}

/// How the token writes X25519 down.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct X25519 {
    /// CKA_KEY_TYPE, in the order in which they are tried. CKK_EC is none of them: SoftHSM 2.6.1 crashes on it.
    key_types: Vec<MontgomeryType>,
    /// CKA_EC_PARAMS.
    params: Params,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum MontgomeryType {
    #[serde(rename = "CKK_EC_MONTGOMERY")]
    Montgomery,
    #[serde(rename = "CKK_EC_EDWARDS")]
    Edwards,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Params {
    /// The OID of RFC 8410.
    #[default]
    Oid,
    /// The PrintableString of PKCS#11 v3.0.
    Name,
}

impl Default for X25519 {
    fn default() -> Self {
        Self { key_types: vec![MontgomeryType::Montgomery, MontgomeryType::Edwards], params: Params::Oid }
    }
}

/// How it agrees on keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Agreement {
    /// The custody tiers to try.
    pub(super) tiers: Vec<Custody>,
    /// The forms of the peer's point to try, in order.
    pub(super) points: Vec<PointForm>,
    /// How many Zs a session keeps.
    pub(super) kept_secrets: usize,
}

impl Default for Agreement {
    fn default() -> Self {
        let points = vec![PointForm::Raw, PointForm::Der];
        Self { tiers: Custody::ALL.to_vec(), points, kept_secrets: 256 }
    }
}

/// How many sessions it has for us.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    /// How many are used if the configuration does not say.
    pub(super) usual: usize,
    /// More than this the configuration must not ask for.
    most: Option<usize>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { usual: 1, most: None }
    }
}

/// Attributes that the token refuses in templates, by what is made.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Omit {
    pub(super) private_key: Omitted,
    pub(super) public_key: Omitted,
    /// A derived secret.
    pub(super) secret: Omitted,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(super) struct Omitted(Vec<AttributeType>);

/// Those that may be left out. CKA_SENSITIVE and CKA_EXTRACTABLE are not among them: no device is worth that.
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

impl TryFrom<Vec<String>> for Omitted {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let known = |name: String| match OMISSIBLE.iter().find(|(known, _)| *known == name) {
            Some((_, attribute)) => Ok(*attribute),
            None => {
                Err(format!("{name:?} is no attribute that may be left out: {:?}", OMISSIBLE.map(|(name, _)| name)))
            }
        };
        names.into_iter().map(known).collect::<Result<_, _>>().map(Self)
    }
}

impl Omitted {
    /// The template in the device's dialect.
    pub(super) fn from(&self, mut template: Vec<Attribute>) -> Vec<Attribute> {
        template.retain(|attribute| !self.0.contains(&attribute.attribute_type()));
        template
    }
}

/// What a device is said to serve, and who says so.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    basis: Basis,
    /// Of the device or module that was measured or read about.
    version: String,
    serves: BTreeMap<String, Verdict>,
}

/// How a statement about a device came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The token was run by this project's tests.
    Measured,
    /// It stands in documentation or source code; the device was not run.
    Read,
}

/// What a token does with an algorithm, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing.
    Not,
    /// It signs.
    SignOnly,
    /// It opens ECDH-ES.
    Anoncrypt,
    /// It opens and makes ECDH-1PU, and opens ECDH-ES.
    Authcrypt,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Not => "not",
            Verdict::SignOnly => "sign-only",
            Verdict::Anoncrypt => "anoncrypt",
            Verdict::Authcrypt => "authcrypt",
        })
    }
}

impl Default for Profile {
    /// Every form is tried; no device.
    fn default() -> Self {
        Self::parse("unknown", "device = \"unknown\"").expect("every other member has a default")
    }
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../hsm-config/", $name, ".toml")))),*]
    };
}

/// The files of `hsm-config/`. `tests/secrets/pkcs11/devices.rs` keeps the list whole.
static SHIPPED: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    shipped![
        "aws-cloudhsm",
        "google-kmsp11",
        "kryoptic",
        "luna",
        "nethsm",
        "nshield",
        "nss-softokn",
        "softhsm",
        "tpm2-pkcs11",
        "utimaco",
        "ykcs11",
        "yubihsm2",
    ]
    .into_iter()
    .map(|(name, text)| Profile::parse(name, text).unwrap_or_else(|error| panic!("{error}")))
    .collect()
});

impl Profile {
    /// Reads a profile from the text of its file.
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

    /// The profile of a name: NAME.toml in the folder `hsm-config` beside the configuration, in
    /// /etc/claviger/hsm-config or /usr/share/claviger/hsm-config, or the one that is built in.
    ///
    /// # Errors
    /// [`TokenError::Config`] if there is none, or if its file is wrong.
    pub fn named(name: &str, base: Option<&Path>) -> Result<Self, TokenError> {
        let found = all(base)?.into_iter().find(|profile| profile.name == name);
        found.ok_or_else(|| TokenError::Config(format!("there is no profile {name:?}")))
    }

    /// The names of all profiles: those that are built in, and those of the folders that [`Profile::named`] reads.
    ///
    /// # Errors
    /// [`TokenError::Config`] if a file is wrong.
    pub fn names(base: Option<&Path>) -> Result<Vec<String>, TokenError> {
        Ok(all(base)?.into_iter().map(|profile| profile.name).collect())
    }

    /// The profile that a module's manufacturer and a token's manufacturer and model choose; the default if none fits.
    pub(super) fn of(module: &str, token: &TokenInfo, base: Option<&Path>) -> Result<Self, TokenError> {
        let found = all(base)?.into_iter().find(|profile| profile.matches.iter().any(|it| it.fits(module, token)));
        Ok(found.unwrap_or_default())
    }

    /// The environment variable whose value the C_Initialize of a module's file must be given, if any.
    pub(super) fn parameters(file: &Path, base: Option<&Path>) -> Result<Option<String>, TokenError> {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let wanted = all(base)?.into_iter().filter_map(|profile| profile.initialize).find(|it| it.file == stem);
        Ok(wanted.map(|it| it.variable))
    }

    /// Its name, as the configuration says it and as its file is called; `unknown` if no profile fits the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What people call the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What a device of this kind is said to do with keys on a curve; none if nothing is said.
    pub fn verdict(&self, curve: Curve) -> Option<Verdict> {
        self.evidence.as_ref().and_then(|evidence| evidence.serves.get(curve.name()).copied())
    }

    /// Whether it was run, and which version; none if nothing is said.
    pub fn basis(&self) -> Option<(Basis, &str)> {
        self.evidence.as_ref().map(|evidence| (evidence.basis, evidence.version.as_str()))
    }

    /// The key types that the token may know a curve's keys by, the likeliest first.
    pub(super) fn key_types(&self, curve: Curve) -> Vec<KeyType> {
        match curve {
            Curve::X25519 => self.x25519.key_types.iter().map(|it| it.key_type()).collect(),
            Curve::Ed25519 => vec![KeyType::EC_EDWARDS],
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => vec![KeyType::EC],
        }
    }

    /// CKA_EC_PARAMS of new keys.
    pub(super) fn ec_params(&self, curve: Curve) -> Vec<u8> {
        match (curve, self.x25519.params) {
            (Curve::X25519, Params::Name) => curves::X25519_NAME.to_vec(),
            (curve, _) => curves::ec_params(curve).to_vec(),
        }
    }

    /// How many sessions to use, of those asked for or the usual number.
    pub(super) fn sessions(&self, asked: Option<usize>) -> Result<usize, TokenError> {
        match (asked, self.sessions.most) {
            (Some(asked), Some(most)) if asked > most => Err(TokenError::Config(format!(
                "sessions = {asked}, and a {} serves {most} at once (hsm-config/{}.md)",
                self.device, self.name
            ))),
            _ => Ok(asked.unwrap_or(self.sessions.usual)),
        }
    }

    /// Refuses to make keys that other tools must make.
    pub(super) fn check_makes_keys(&self) -> Result<(), TokenError> {
        match &self.make_keys_with {
            None => Ok(()),
            Some(tool) => Err(TokenError::Unsupported(format!(
                "keys of a {} are made with {tool} (hsm-config/{}.md)",
                self.device, self.name
            ))),
        }
    }
}

impl Match {
    fn fits(&self, module: &str, token: &TokenInfo) -> bool {
        let parts = [(&self.module, module), (&self.manufacturer, &*token.manufacturer), (&self.model, &*token.model)];
        let fits =
            |(pattern, is): (&Option<String>, &str)| match pattern.as_deref().map(|it| (it, it.strip_suffix('*'))) {
                None => true,
                Some((_, Some(start))) => is.starts_with(start),
                Some((whole, None)) => is == whole,
            };
        parts.iter().any(|(pattern, _)| pattern.is_some()) && parts.into_iter().all(fits)
    }
}

impl MontgomeryType {
    fn key_type(self) -> KeyType {
        match self {
            MontgomeryType::Montgomery => KeyType::EC_MONTGOMERY,
            MontgomeryType::Edwards => KeyType::EC_EDWARDS,
        }
    }
}

/// All profiles: a file in the first folder that has one of its name counts, and before one that is built in.
fn all(base: Option<&Path>) -> Result<Vec<Profile>, TokenError> {
    let beside = base.map(|base| base.join("hsm-config"));
    let system = ["/etc/claviger/hsm-config", "/usr/share/claviger/hsm-config"].map(PathBuf::from);
    let mut all: Vec<Profile> = Vec::new();
    for folder in beside.into_iter().chain(system) {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|it| it == "toml")).collect();
        files.sort();
        for file in files {
            let Some(name) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if all.iter().any(|profile| profile.name == name) {
                continue;
            }
            let failed = |reason: String| TokenError::Config(format!("{}: {reason}", file.display()));
            let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
            all.push(Profile::parse(name, &text).map_err(|error| failed(error.to_string()))?);
        }
    }
    let built_in = SHIPPED.iter().filter(|shipped| !all.iter().any(|profile| profile.name == shipped.name));
    let built_in: Vec<_> = built_in.cloned().collect();
    all.extend(built_in);
    Ok(all)
}
