//! `pkcs11:` URIs (RFC 7512), parsed strictly.
//!
//! The attributes are those that find a token, its module and its PIN, and those that restrict its keys. Any other
//! attribute is an error: a misspelt `token` must not match every token.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::secrets::{
    TokenError,
    pin::{Pin, UriPin},
};

/// Names a token, and optionally its module, the source of its PIN, and some of its keys.
///
/// [`Display`](fmt::Display) writes a URI that parses to the same value, but without `pin-value`.
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
    /// `object`: only keys with this CKA_LABEL.
    pub object: Option<String>,
    /// `id`: only keys with this CKA_ID.
    pub id: Option<Vec<u8>>,
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
}

/// What is wrong with a `pkcs11:` URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The URI does not begin with `pkcs11:`.
    #[error("it does not begin with \"pkcs11:\"")]
    Scheme,
    /// An attribute without `=`, or an empty attribute between two separators.
    #[error("{0:?} is not an attribute: it must be NAME=VALUE")]
    NoValue(String),
    /// An unknown attribute.
    #[error("the attribute {0:?} is unknown")]
    Unknown(String),
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

const PATH: [&str; 7] = ["token", "serial", "manufacturer", "model", "object", "id", "slot-id"];
const QUERY: [&str; 4] = ["module-path", "module-name", "pin-source", "pin-value"];

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = match text.split_at_checked(7) {
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

    /// Reads one attribute. `known` are the attributes of this part of the URI, `other` those of the other part, and
    /// `more` the characters that need no encoding here in addition to [`PLAIN`].
    fn read(
        &mut self,
        attribute: &str,
        known: &[&'static str],
        other: &[&'static str],
        more: &str,
    ) -> Result<(), UriError> {
        // The error quotes only the name: the value may be a PIN.
        let (name, value) = match attribute.split_once('=') {
            Some(parts) => parts,
            None if attribute.is_empty() => return Err(UriError::NoValue(String::new())),
            None => return Err(UriError::NoValue(attribute.chars().take(32).collect())),
        };
        if let Some(name) = other.iter().find(|other| **other == name) {
            return Err(UriError::WrongSide(name));
        }
        let Some(name) = known.iter().copied().find(|known| *known == name) else {
            return Err(UriError::Unknown(name.to_owned()));
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
            "pin-value" => set_once(&mut self.pin_value, Pin::new(text), name),
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

fn set_once<T>(attribute: &mut Option<T>, value: T, name: &'static str) -> Result<(), UriError> {
    match attribute.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Duplicate(name)),
    }
}

/// The characters that need no encoding in a value (RFC 7512 section 2.3, `pk11-path-res-avail` and RFC 3986
/// `unreserved`). The query allows `more` characters; `&` is allowed in the path only.
const PLAIN: &str = "-._~:[]@!$'()*+,=";

/// Percent-decoding that refuses characters which RFC 7512 wants encoded.
/// `percent_encoding::percent_decode` accepts them.
fn decode(value: &str, more: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        let plain = byte.is_ascii_alphanumeric()
            || PLAIN.as_bytes().contains(&byte)
            || more.as_bytes().contains(&byte)
            || (more.is_empty() && byte == b'&');
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                decoded.push((high * 16 + low) as u8);
            }
            _ if plain => decoded.push(byte),
            _ => return None,
        }
    }
    Some(decoded)
}

/// The characters to encode: all but `unreserved`. In the query, `/` and `:` are not encoded either, so that people
/// can read paths.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'$')
    .add(b'%')
    .add(b'&')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'+')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'!');
const IN_QUERY: &AsciiSet = &IN_PATH.remove(b'/').remove(b':');

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let slot_id = self.slot_id.map(|number| number.to_string());
        let path = [&self.token, &self.serial, &self.manufacturer, &self.model, &self.object]
            .map(|value| value.as_ref().map(String::as_bytes))
            .into_iter()
            .chain([self.id.as_deref(), slot_id.as_deref().map(str::as_bytes)]);
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
        assert_eq!(parse("pkcs11:token=a;token=b"), UriError::Duplicate("token"));
        assert_eq!(parse("pkcs11:?pin-value=a&pin-value=b"), UriError::Duplicate("pin-value"));
        assert_eq!(parse("pkcs11:module-path=/a"), UriError::WrongSide("module-path"));
        assert_eq!(parse("pkcs11:?token=a"), UriError::WrongSide("token"));
        assert_eq!(parse("pkcs11:token"), UriError::NoValue("token".into()));
        assert_eq!(parse("pkcs11:token=a;;serial=b"), UriError::NoValue(String::new()));
        assert_eq!(parse("pkcs11:token=a?"), UriError::NoValue(String::new()));
        for bad in ["%", "%1", "%zz", "%+1", "a b", "a/b", "a#b", "%ff", "é"] {
            assert_eq!(parse(&format!("pkcs11:token={bad}")), UriError::Value("token"), "{bad}");
        }
        for bad in ["", "-1", "+1", "x", "99999999999999999999"] {
            assert_eq!(parse(&format!("pkcs11:slot-id={bad}")), UriError::Value("slot-id"), "{bad}");
        }
        assert_eq!(parse("pkcs11:?pin-value=1&pin-source=file:x"), UriError::Both("pin-source", "pin-value"));
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
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same(
            texts in proptest::collection::vec(proptest::option::of(any::<String>()), 7),
            id in proptest::option::of(any::<Vec<u8>>()),
            slot_id: Option<u64>,
        ) {
            let mut texts = texts.into_iter();
            let mut next = || texts.next().unwrap();
            let mut uri = Uri {
                token: next(), serial: next(), manufacturer: next(), model: next(), object: next(),
                module_path: next(), pin_source: next(), id, slot_id, ..Uri::default()
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
