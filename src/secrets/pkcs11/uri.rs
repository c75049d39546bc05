//! `pkcs11:` URIs (RFC 7512), parsed strictly.
//!
//! Every attribute that the RFC defines is matched. Another attribute before the `?` is an error, since a URI with one
//! names nothing (section 2.5), and a misspelt `token` must not match every token. Another attribute after the `?` is
//! not used, and [`Uri::unused`] has its name, unless it looks like a misspelt one, or may be the rest of a value that has
//! an unencoded `&`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_encode;

use super::{
    uri_encoding::{IN_PATH, IN_QUERY, decode},
    uri_error::UriError,
};
use crate::secrets::{
    TokenError,
    pin::{Pin, UriPin},
};

/// Names a token, and optionally its module, the source of its PIN, and some of its keys.
///
/// [`Display`](fmt::Display) writes a URI that parses to the same value, but without `pin-value` and without attributes
/// that are not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uri {
    /// `token`: the token's label.
    pub token: Option<String>,
    /// `serial`: the token's serial number.
    pub serial: Option<String>,
    /// `manufacturer`: the token's manufacturer.
    pub manufacturer: Option<String>,
    /// `model`: the token's model.
    pub model: Option<String>,
    /// `library-manufacturer`: the module's manufacturer.
    pub library_manufacturer: Option<String>,
    /// `library-description`: the module's description of itself.
    pub library_description: Option<String>,
    /// `library-version`: the module's version, major and minor.
    pub library_version: Option<(u8, u8)>,
    /// `slot-manufacturer`: the manufacturer of the token's slot.
    pub slot_manufacturer: Option<String>,
    /// `slot-description`: the description of the token's slot.
    pub slot_description: Option<String>,
    /// `object`: only keys with this CKA_LABEL.
    pub object: Option<String>,
    /// `id`: only keys with this CKA_ID.
    pub id: Option<Vec<u8>>,
    /// `type`: the kind of object that the URI names. It restricts no keys: each half of a pair names the pair.
    pub object_type: Option<ObjectType>,
    /// `slot-id`: the number of the token's slot. Modules may renumber slots.
    pub slot_id: Option<u64>,
    /// `module-path`: the module's file.
    pub module_path: Option<String>,
    /// `module-name`: the module's file name without `lib` and its suffix.
    pub module_name: Option<String>,
    /// `pin-source`: where the PIN comes from.
    pub pin_source: Option<String>,
    /// `pin-value`: the PIN itself.
    pub pin_value: Option<Pin>,
    /// The names of the attributes that have no effect: those after the `?` that the RFC does not define.
    pub unused: Vec<String>,
}

/// The kind of object that a URI names (RFC 7512 section 2.3, `type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectType {
    /// `private`
    Private,
    /// `public`
    Public,
    /// `cert`
    Certificate,
}

impl ObjectType {
    const ALL: [Self; 3] = [Self::Private, Self::Public, Self::Certificate];

    /// The value of the attribute.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
            Self::Certificate => "cert",
        }
    }
}

const PATH: [&str; 13] = [
    "token",
    "serial",
    "manufacturer",
    "model",
    "library-manufacturer",
    "library-description",
    "slot-manufacturer",
    "slot-description",
    "object",
    "id",
    "type",
    "slot-id",
    "library-version",
];
const QUERY: [&str; 4] = ["module-path", "module-name", "pin-source", "pin-value"];

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        // A file that a URI was read from may end with a newline.
        let rest = match text.trim_ascii().split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        if !path.is_empty() {
            path.split(';').try_for_each(|attribute| uri.read(attribute, &PATH, &QUERY, ""))?;
        }
        if let Some(query) = query {
            query.split('&').try_for_each(|attribute| uri.read(attribute, &QUERY, &PATH, "/?|"))?;
        }
        // RFC 7512 section 2.4: a URI with both must be refused.
        if uri.pin_source.is_some() && uri.pin_value.is_some() {
            return Err(UriError::Both("pin-source", "pin-value"));
        }
        if uri.module_path.is_some() && uri.module_name.is_some() {
            return Err(UriError::Both("module-path", "module-name"));
        }
        Ok(uri)
    }
}

impl Uri {
    /// Parses a URI.
    ///
    /// # Errors
    /// [`TokenError::Config`] says what is wrong with it.
    pub(super) fn parse(uri: &str) -> Result<Self, TokenError> {
        uri.parse().map_err(|error: UriError| TokenError::Config(format!("the PKCS#11 URI: {error}")))
    }

    /// Checks that `object` and `id` let this program find a key that it makes or imports with this label. CKA_ID of a
    /// new key is made of its public half, so no new key has the `id` of a URI.
    ///
    /// # Errors
    /// [`TokenError::Config`] says which attribute hides the key.
    pub(super) fn check_finds_new_key(&self, label: Option<&str>) -> Result<(), TokenError> {
        let hidden = |attribute, what| {
            Err(TokenError::Config(format!(
                "no key was made: it would not be found again, because `{attribute}` in the token's URI restricts the token \
                 to the keys with {what}"
            )))
        };
        if self.id.is_some() {
            return hidden("id", "one CKA_ID; take the attribute out of the URI".to_owned());
        }
        match &self.object {
            Some(object) if label != Some(object) => {
                hidden("object", format!("the label {object:?}; give that label, or take the attribute out of the URI"))
            }
            _ => Ok(()),
        }
    }

    /// What the URI says about the PIN.
    pub(super) fn pin(&self) -> UriPin<'_> {
        UriPin { source: self.pin_source.as_deref(), value: self.pin_value.as_ref() }
    }

    /// The attribute of the query that was read and whose value may contain anything, the PIN first.
    fn with_a_value_before(&self) -> Option<&'static str> {
        let read = [
            ("pin-value", self.pin_value.is_some()),
            ("pin-source", self.pin_source.is_some()),
            ("module-path", self.module_path.is_some()),
        ];
        read.into_iter().find_map(|(name, is_read)| is_read.then_some(name))
    }

    /// Reads one attribute. `known` are the attributes of this part of the URI, `other` those of the other part, and
    /// `more` the further characters that need no encoding here.
    fn read(
        &mut self,
        attribute: &str,
        known: &[&'static str],
        other: &[&'static str],
        more: &str,
    ) -> Result<(), UriError> {
        // The value before this may have an unencoded `&`.
        let before = self.with_a_value_before();
        let unknown = |error: fn(String) -> UriError| match before {
            Some(before) => UriError::Rest(before),
            // The error quotes only the name: what comes after it may be a PIN.
            None => error(attribute.chars().take_while(|it| is_in_names(*it)).take(32).collect()),
        };
        let Some((name, value)) = attribute.split_once('=') else {
            let name = known.iter().chain(other).copied().find(|name| *name == attribute);
            return Err(before.map_or(UriError::NoValue(name), UriError::Rest));
        };
        if let Some(name) = other.iter().find(|other| **other == name) {
            return Err(UriError::WrongSide(name));
        }
        let Some(name) = known.iter().copied().find(|known| *known == name) else {
            if before.is_some() || !is_vendor_query(name, known) {
                return Err(unknown(UriError::Unknown));
            }
            self.unused.push(name.to_owned());
            return Ok(());
        };
        let bytes = decode(value, more).ok_or(UriError::Value(name))?;
        if name == "id" {
            return set_once(&mut self.id, bytes, name);
        }
        let text = String::from_utf8(bytes).map_err(|_| UriError::Value(name))?;
        match name {
            "slot-id" => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|_| digits).ok_or(UriError::Value(name))?;
                set_once(&mut self.slot_id, number, name)
            }
            "library-version" => {
                set_once(&mut self.library_version, version(&text).ok_or(UriError::Value(name))?, name)
            }
            "type" => {
                let known = ObjectType::ALL.into_iter().find(|known| known.name() == text);
                set_once(&mut self.object_type, known.ok_or(UriError::Type(text))?, name)
            }
            "pin-value" => set_once(&mut self.pin_value, Pin::new(text), name),
            "library-manufacturer" => set_once(&mut self.library_manufacturer, text, name),
            "library-description" => set_once(&mut self.library_description, text, name),
            "slot-manufacturer" => set_once(&mut self.slot_manufacturer, text, name),
            "slot-description" => set_once(&mut self.slot_description, text, name),
            "token" => set_once(&mut self.token, text, name),
            "serial" => set_once(&mut self.serial, text, name),
            "manufacturer" => set_once(&mut self.manufacturer, text, name),
            "model" => set_once(&mut self.model, text, name),
            "object" => set_once(&mut self.object, text, name),
            "module-path" => set_once(&mut self.module_path, text, name),
            "module-name" => set_once(&mut self.module_name, text, name),
            _ => set_once(&mut self.pin_source, text, name),
        }
    }
}

fn is_in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_".contains(character)
}

/// Whether an unknown attribute is one of the query, and of a vendor: RFC 7512 section 2.5 has it ignored. One that begins
/// like a known one is more likely a misspelt one.
fn is_vendor_query(name: &str, known: &[&str]) -> bool {
    let is_name = !name.is_empty() && name.chars().all(is_in_names);
    known == QUERY && is_name && !["pin", "module"].iter().any(|start| name.to_ascii_lowercase().starts_with(start))
}

/// A version `M` or `M.N`. `M` means `M.0` (RFC 7512 section 2.3).
fn version(text: &str) -> Option<(u8, u8)> {
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    Some((number(major)?, number(minor)?))
}

fn set_once<T>(attribute: &mut Option<T>, value: T, name: &'static str) -> Result<(), UriError> {
    match attribute.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Duplicate(name)),
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let texts = [
            &self.token,
            &self.serial,
            &self.manufacturer,
            &self.model,
            &self.library_manufacturer,
            &self.library_description,
            &self.slot_manufacturer,
            &self.slot_description,
            &self.object,
        ];
        let slot_id = self.slot_id.map(|number| number.to_string());
        let version = self.library_version.map(|(major, minor)| format!("{major}.{minor}"));
        let rest = [self.object_type.map(ObjectType::name), slot_id.as_deref(), version.as_deref()];
        let path = texts
            .map(|value| value.as_ref().map(String::as_bytes))
            .into_iter()
            .chain([self.id.as_deref()])
            .chain(rest.map(|value| value.map(str::as_bytes)));
        let mut separator = "";
        for (name, value) in PATH.iter().zip(path) {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", percent_encode(value, IN_PATH))?;
                separator = ";";
            }
        }
        separator = "?";
        for (name, value) in QUERY.iter().zip([&self.module_path, &self.module_name, &self.pin_source]) {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", percent_encode(value.as_bytes(), IN_QUERY))?;
                separator = "&";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn example_of_the_documentation() {
        let uri: Uri =
            "pkcs11:token=demo?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:demo.pin".parse().unwrap();
        assert_eq!(uri.token.as_deref(), Some("demo"));
        assert_eq!(uri.module_path.as_deref(), Some("/usr/lib/softhsm/libsofthsm2.so"));
        assert_eq!(uri.pin_source.as_deref(), Some("file:demo.pin"));
    }

    /// RFC 7512 section 3.
    #[test]
    fn examples_of_the_rfc() {
        let uri: Uri =
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;\
                        object=my-certificate;id=%69%95%3E%5C%F4%BD%EC%91?pin-source=file:/etc/token_pin"
                .parse()
                .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(uri.manufacturer.as_deref(), Some("Snake Oil, Inc."));
        assert_eq!(uri.id.as_deref(), Some(&b"\x69\x95\x3e\x5c\xf4\xbd\xec\x91"[..]));
        assert_eq!("pkcs11:".parse(), Ok(Uri::default()));
        assert_eq!("PKCS11:".parse(), Ok(Uri::default()));
    }

    #[test]
    fn errors_name_the_attribute() {
        let parse = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(parse("pkcs12:token=a"), UriError::Scheme);
        assert_eq!(parse("pkcs"), UriError::Scheme);
        assert_eq!(parse("pkcs11:tokne=a"), UriError::Unknown("tokne".into()));
        assert_eq!(parse("pkcs11:Token=a"), UriError::Unknown("Token".into()));
        assert_eq!(parse("pkcs11:token=a;x-vendor=b"), UriError::Unknown("x-vendor".into()));
        assert_eq!(parse("pkcs11:token=a?pin-sorce=b"), UriError::Unknown("pin-sorce".into()));
        assert_eq!(parse("pkcs11:token=a?Module_Path=b"), UriError::Unknown("Module_Path".into()));
        for other in ["secret-key", "data", "Private", ""] {
            assert_eq!(parse(&format!("pkcs11:type={other}")), UriError::Type(other.into()));
        }
        for bad in ["", ".", "2.", ".1", "2.6.1", "256", "+2", "a"] {
            assert_eq!(parse(&format!("pkcs11:library-version={bad}")), UriError::Value("library-version"), "{bad}");
        }
        assert_eq!(parse("pkcs11:token=a;token=b"), UriError::Duplicate("token"));
        assert_eq!(parse("pkcs11:?pin-value=a&pin-value=b"), UriError::Duplicate("pin-value"));
        assert_eq!(parse("pkcs11:module-path=/a"), UriError::WrongSide("module-path"));
        assert_eq!(parse("pkcs11:?token=a"), UriError::WrongSide("token"));
        assert_eq!(parse("pkcs11:token"), UriError::NoValue(Some("token")));
        assert_eq!(parse("pkcs11:token=a;;serial=b"), UriError::NoValue(None));
        assert_eq!(parse("pkcs11:token=a?"), UriError::NoValue(None));
        assert_eq!(parse("pkcs11:token=a?1234"), UriError::NoValue(None), "it may be a PIN");
        for bad in ["%", "%1", "%zz", "%+1", "a b", "a/b", "a#b", "%ff", "é"] {
            assert_eq!(parse(&format!("pkcs11:token={bad}")), UriError::Value("token"), "{bad}");
        }
        for bad in ["", "-1", "+1", "x", "99999999999999999999"] {
            assert_eq!(parse(&format!("pkcs11:slot-id={bad}")), UriError::Value("slot-id"), "{bad}");
        }
        assert_eq!(parse("pkcs11:?pin-value=1&pin-source=file:x"), UriError::Both("pin-source", "pin-value"));
    }

    /// As p11tool 3.7.9 (`--list-tokens --detailed-url`, `--list-privkeys`) and pkcs11-tool 0.23 print them, and as a file
    /// of a Kubernetes secret has them.
    #[test]
    fn uris_of_other_tools() {
        let uri: Uri = "pkcs11:library-description=Implementation%20of%20PKCS11;library-manufacturer=SoftHSM;\
                        library-version=2.6;slot-id=7;slot-description=SoftHSM%20slot%20ID%200x7;\
                        slot-manufacturer=SoftHSM%20project;model=SoftHSM%20v2;manufacturer=SoftHSM%20project;\
                        serial=8d6dcd6a2fe80aaa;token=demo"
            .parse()
            .unwrap();
        assert_eq!(uri.library_description.as_deref(), Some("Implementation of PKCS11"));
        assert_eq!((uri.library_version, uri.slot_id), (Some((2, 6)), Some(7)));
        assert_eq!(uri.slot_description.as_deref(), Some("SoftHSM slot ID 0x7"));
        let uri: Uri = "pkcs11:token=demo;id=%01%AB;object=my%20key;type=private".parse().unwrap();
        assert_eq!((uri.object_type, uri.unused.len()), (Some(ObjectType::Private), 0));
        assert_eq!("pkcs11:library-version=3".parse::<Uri>().unwrap().library_version, Some((3, 0)));
        let uri: Uri = "pkcs11:token=demo?x-replicas=2&vendor_b=a/b?c&pin-source=file:/run/pin\n".parse().unwrap();
        assert_eq!(
            (uri.pin_source.as_deref(), &uri.unused[..]),
            (Some("file:/run/pin"), &["x-replicas".to_owned(), "vendor_b".to_owned()][..])
        );
        assert_eq!(uri.to_string(), "pkcs11:token=demo?pin-source=file:/run/pin");
    }

    #[test]
    fn a_filter_hides_new_keys() {
        let finds = |uri: &str, label| uri.parse::<Uri>().unwrap().check_finds_new_key(label).is_ok();
        assert!(finds("pkcs11:token=a", None) && finds("pkcs11:token=a", Some("b")));
        assert!(finds("pkcs11:object=b", Some("b")));
        assert!(!finds("pkcs11:object=b", Some("c")) && !finds("pkcs11:object=b", None));
        assert!(!finds("pkcs11:id=%01", Some("b")) && !finds("pkcs11:object=b;id=%01", Some("b")));
    }

    #[test]
    fn a_pin_is_not_shown() {
        let uri: Uri = "pkcs11:token=a?pin-value=4711".parse().unwrap();
        assert_eq!(uri.to_string(), "pkcs11:token=a");
        assert!(!format!("{uri:?}").contains("4711"));
        let error = "pkcs11:token=a?pin-value=4711 0815".parse::<Uri>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("4711"));
        let error = "pkcs11:token=a?pin-value:4711=0815".parse::<Uri>().unwrap_err();
        assert_eq!(error, UriError::Unknown("pin-value".into()));
    }

    /// A PIN, or the name of a file, with an unencoded `&` is not cut, and its rest is not shown.
    #[test]
    fn an_unencoded_ampersand_is_refused() {
        for rest in ["cd=ef", "cd", "pincd=ef", "", "é=cd", "cd=ef&module-name=g"] {
            for name in ["pin-value", "pin-source", "module-path"] {
                let error = format!("pkcs11:token=a?{name}=ab&{rest}").parse::<Uri>().unwrap_err();
                assert_eq!(error, UriError::Rest(name), "{rest}");
                assert!(!format!("{error} {error:?}").contains("cd"), "{error}");
            }
            let error = format!("pkcs11:?pin-value=ab&module-path=/m&{rest}").parse::<Uri>().unwrap_err();
            assert_eq!(error, UriError::Rest("pin-value"));
        }
        let uri: Uri = "pkcs11:token=a?x-b=c&pin-value=ab%26cd=ef&module-path=/m".parse().unwrap();
        assert_eq!(uri.pin_value, Some(Pin::new("ab&cd=ef".to_owned())));
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same(
            texts in proptest::collection::vec(proptest::option::of(any::<String>()), 11),
            id in proptest::option::of(any::<Vec<u8>>()),
            slot_id: Option<u64>,
            library_version: Option<(u8, u8)>,
            object_type in proptest::option::of(proptest::sample::select(&ObjectType::ALL[..])),
        ) {
            let mut texts = texts.into_iter();
            let mut next = || texts.next().unwrap();
            let mut uri = Uri {
                token: next(), serial: next(), manufacturer: next(), model: next(), object: next(),
                library_manufacturer: next(), library_description: next(), slot_manufacturer: next(),
                slot_description: next(), module_path: next(), pin_source: next(), id, slot_id, library_version,
                object_type, ..Uri::default()
            };
            prop_assert_eq!(&uri.to_string().parse::<Uri>().unwrap(), &uri);
            (uri.module_name, uri.module_path) = (uri.module_path, None);
            prop_assert_eq!(&uri.to_string().parse::<Uri>().unwrap(), &uri);
        }

        #[test]
        fn no_input_panics(text: String, tail in "[a-z=;?&%/ -]{0,40}") {
            let _ = text.parse::<Uri>();
            let _ = format!("pkcs11:{tail}").parse::<Uri>();
        }
    }
}
