//! What a verified attestation proves, and what it does not, as sentences and as JSON.

use serde_json::{Value, json};

use claviger::{
    did::{Document, Relationship, VerificationMethod},
    secrets::piv::{Attestation, Firmware},
};

use crate::cli::{failure::Failure, output::Out};

/// The first firmware whose ECDSA does not leak its key to whoever has the device and measures it: Yubico's advisory
/// YSA-2024-03, CVE-2024-45678.
const WITHOUT_EUCLEAK: [u8; 3] = [5, 7, 0];

/// What a verified attestation proves, and what it does not.
pub struct Report<'a> {
    attested: &'a Attestation,
    document: Option<&'a Document>,
    not_proved: Vec<NotProved>,
}

/// Something that an attestation does not prove.
struct NotProved {
    id: &'static str,
    message: String,
}

impl<'a> Report<'a> {
    /// The report for an attestation that is accepted. `document` is that of the DID whose key it is, and `was_compared`
    /// says whether the key was compared with one that the user named.
    pub fn new(attested: &'a Attestation, document: Option<&'a Document>, was_compared: bool) -> Self {
        let mut report = Self { attested, document, not_proved: Vec::new() };
        report.not_proved = report.limits(was_compared);
        report
    }

    /// Prints the report on stdout.
    pub fn print(&self, out: &Out) -> Result<(), Failure> {
        if out.json {
            return out.document(&self.to_json());
        }
        let root = &self.attested.root;
        out.line(&match self.attested.root_is_yubicos {
            true => format!("Proved, by Yubico's root certificate {root:?}:"),
            false => format!("Stated by the owner of the root certificate {root:?}, which is not Yubico's:"),
        })?;
        for sentence in self.proved() {
            out.line(&format!("- {sentence}"))?;
        }
        out.line("Not proved:")?;
        self.not_proved.iter().try_for_each(|limit| out.line(&format!("- {}", limit.message)))
    }

    fn to_json(&self) -> Value {
        let Attestation { public, serial, firmware, form_factor, slot, pin, touch, .. } = self.attested;
        let methods =
            self.methods().map(|method| json!({ "id": method.id, "relationships": self.relationships(method) }));
        let not_proved = self.not_proved.iter().map(|limit| json!({ "id": limit.id, "message": limit.message }));
        json!({
            "key": public.to_multikey(),
            "jwk": public.to_jwk(),
            "thumbprint": public.thumbprint(),
            "algorithm": public.curve().name(),
            "made_in_device": true,
            "serial": serial.map(|serial| serial.to_string()),
            "firmware": firmware.to_string(),
            "form": form_factor.map(|form| form.to_string()),
            "slot": slot.to_string(),
            "pin_policy": pin,
            "touch_policy": touch,
            "root": self.attested.root,
            "root_is_yubicos": self.attested.root_is_yubicos,
            "did": self.document.map(Document::id),
            "methods": methods.collect::<Vec<_>>(),
            "other_methods": self.other_methods(),
            "not_proved": not_proved.collect::<Vec<_>>(),
        })
    }

    fn proved(&self) -> Vec<String> {
        let Attestation { public, serial, firmware, form_factor, slot, pin, touch, .. } = self.attested;
        let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let form = form_factor.map_or("form factor unknown".to_owned(), |form| form.to_string());
        let device = match serial {
            Some(serial) => format!("the YubiKey with the serial number {serial}"),
            None => "a YubiKey that does not state its serial number".to_owned(),
        };
        let mut proved = vec![
            format!("The {} key {public} was made in {device} (firmware {firmware}, {form}).", public.curve()),
            format!("It was in slot {slot}. A YubiKey gives out no private key."),
            format!(
                "Its use needs the PIN {} and a touch {}; these policies cannot be changed.",
                word(json!(pin)),
                word(json!(touch)),
            ),
        ];
        for method in self.methods() {
            let relationships = self.relationships(method);
            let uses = if relationships.is_empty() { "no use".to_owned() } else { relationships.join(", ") };
            proved.push(format!("The document of the DID has this key as {}, for {uses}.", method.id));
        }
        proved
    }

    fn limits(&self, was_compared: bool) -> Vec<NotProved> {
        let Attestation { firmware, root, root_is_yubicos, .. } = self.attested;
        let mut limits = Vec::new();
        let mut add = |id, message: String| limits.push(NotProved { id, message });
        if !root_is_yubicos {
            add(
                "yubikey",
                format!("That the device is a YubiKey: the owner of the root {root:?} can certify anything."),
            );
        }
        if !was_compared {
            add("belonging", "Whose key it is: it was compared with nothing. --did and --key compare it.".to_owned());
        }
        add(
            "possession",
            "Who has the YubiKey: anyone can copy the certificates, and name the key in a DID document of his. A message \
             that the key signed or authenticated proves it."
                .to_owned(),
        );
        add(
            "person",
            "Which person uses the YubiKey, and whether others know its PIN: the certificates name a device."
                .to_owned(),
        );
        add(
            "time",
            "When the key was made, and that the YubiKey still has it: a YubiKey has no clock, and keys can be deleted."
                .to_owned(),
        );
        if Firmware::from(WITHOUT_EUCLEAK) > *firmware {
            add(
                "side-channel",
                "That nobody extracted the key: firmware before 5.7.0 leaks ECDSA keys to someone who has the YubiKey and \
                 laboratory equipment (Yubico's advisory YSA-2024-03)."
                    .to_owned(),
            );
        }
        add(
            "shared-secret",
            "That secrets of messages stay in the YubiKey: it returns the result of a key agreement to the computer."
                .to_owned(),
        );
        let others = self.other_methods();
        if !others.is_empty() {
            add("other-keys", format!("Anything about the other keys of the DID: {}.", others.join(", ")));
        }
        limits
    }

    /// The verification methods with the attested key.
    fn methods(&self) -> impl Iterator<Item = &'a VerificationMethod> {
        let all = self.document.map(Document::all_methods).unwrap_or_default();
        all.iter().filter(|method| method.key.as_ref() == Ok(&self.attested.public))
    }

    /// The ids of the verification methods with other keys.
    fn other_methods(&self) -> Vec<&'a str> {
        let all = self.document.map(Document::all_methods).unwrap_or_default();
        let others = all.iter().filter(|method| method.key.as_ref() != Ok(&self.attested.public));
        others.map(|method| method.id.as_str()).collect()
    }

    fn relationships(&self, method: &VerificationMethod) -> Vec<&'static str> {
        let has = |relationship: &Relationship| {
            self.document.is_some_and(|document| document.methods(*relationship).any(|other| other.id == method.id))
        };
        Relationship::ALL.into_iter().filter(has).map(Relationship::name).collect()
    }
}
