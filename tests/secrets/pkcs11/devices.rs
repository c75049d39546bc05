//! The devices of `hsm-config/`: profile and page agree, the members of a profile have their effect, and the tokens
//! that can be run do what their profiles say.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{FreshToken, Module, with_fresh_token};
use claviger::{
    crypto::{self, Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, HeldKey, ImportKey, KeyUse, NewKey, Purpose, Token, TokenError, TokenInfo, UnwrapRequest,
        WrapRequest,
        pkcs11::{EvidenceBasis, OpenOptions, PinSource, Pkcs11Token, Profile, Verdict, open},
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
    suite::{self, Capabilities},
};
use cryptoki::{
    context::Pkcs11,
    object::{Attribute, AttributeType, ObjectClass},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config")
}

/// The names of the files with this suffix.
fn files(suffix: &str) -> Vec<String> {
    let names = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect();
    names.sort();
    names
}

#[test]
fn each_profile_is_built_in_and_agrees_with_its_page() {
    let names = files(".toml");
    let mut pages = files(".md");
    pages.retain(|name| name != "README");
    assert_eq!(names, pages, "one page for each profile");
    let mut built_in = Profile::names(None).unwrap();
    built_in.sort();
    assert_eq!(names, built_in, "the list in profile/library.rs");
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for name in &names {
        let profile =
            Profile::parse(name, &fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap()).unwrap();
        assert_eq!(profile, Profile::named(name, None).unwrap());
        let page = fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        for curve in Curve::ALL {
            let verdict = profile.verdict(curve).unwrap_or_else(|| panic!("{name}: no verdict for {curve}"));
            let rows: Vec<_> = page.lines().filter(|line| line.starts_with(&format!("| {curve} |"))).collect();
            assert_eq!(rows.len(), 1, "{name}.md: a row for {curve}");
            assert!(rows[0].starts_with(&format!("| {curve} | {verdict} |")), "{name}: {verdict} is not {:?}", rows[0]);
        }
        let (basis, version) = profile.basis().unwrap();
        let text = match basis {
            EvidenceBasis::Measured => format!("**Measured** by this project's tests: {version}."),
            EvidenceBasis::Documented => format!("**Read, not run**: {version}."),
        };
        assert!(page.contains(&text), "{name}.md does not say {text:?}");
        assert!(index.contains(&format!("({name}.md)")), "README.md does not list {name}");
    }
}

/// A profile is called measured only if a test below runs its token.
#[test]
fn only_tested_devices_are_called_measured() {
    let measured = |name: &String| Profile::named(name, None).unwrap().basis().unwrap().0 == EvidenceBasis::Measured;
    let measured: Vec<_> = files(".toml").into_iter().filter(measured).collect();
    assert_eq!(measured, ["kryoptic", "nss-softokn", "opencryptoki", "softhsm", "tpm2-pkcs11"]);
}

/// Whether an authcrypt message from `sender` opens. If there is no sender, whether an anoncrypt message opens.
fn opens(token: &dyn Token, key: &PublicKey, sender: Option<&PrivateKey>) -> bool {
    let cek = fresh_cek();
    token.unwrap_cek(key, &message_to(key, sender, &cek, &Parties::example()), &Purpose::KeyTest) == Ok(cek)
}

/// The verdict for a curve, from operations with a new key.
fn verdict(token: &Pkcs11Token, curve: Curve) -> Verdict {
    let uses = [KeyUse::Both, KeyUse::Agreement, KeyUse::Signing].into_iter().filter(|usage| usage.fits(curve));
    let made = uses.map(|usage| token.generate(&NewKey { curve, usage, label: None }));
    let Some(held) = made.flatten().next() else { return Verdict::Unsupported };
    let key = &held.public;
    let sender = PrivateKey::generate(curve);
    let verdict = if held.usage.allows_key_agreement() && opens(token, key, None) && opens(token, key, Some(&sender)) {
        Verdict::Authcrypt
    } else if held.usage.allows_key_agreement() && opens(token, key, None) {
        Verdict::Anoncrypt
    } else {
        let signature = token.sign(key, b"input", &Purpose::KeyTest).expect("a key that does not agree signs");
        crypto::verify(key, b"input", &signature).expect("its signature");
        Verdict::SignOnly
    };
    token.delete(key).unwrap();
    verdict
}

/// The profile matches what the module reports, and its verdicts are right for the token.
fn matches_its_profile(module: Module, name: &str) {
    with_fresh_token(module, |fresh| {
        let token = open(&fresh.uri, PinSource::uri()).unwrap();
        let profile = token.profile();
        assert_eq!((profile.name(), profile.basis().unwrap().0), (name, EvidenceBasis::Measured));
        for curve in Curve::ALL {
            assert_eq!(Some(verdict(&token, curve)), profile.verdict(curve), "{curve}");
        }
        assert_eq!(token.inventory().unwrap(), []);
    });
}

#[test]
fn softhsm_matches_its_profile() {
    matches_its_profile(Module::SoftHsm, "softhsm");
}

#[test]
fn kryoptic_matches_its_profile() {
    matches_its_profile(Module::Kryoptic, "kryoptic");
}

#[test]
fn tpm2_pkcs11_matches_its_profile() {
    matches_its_profile(Module::Tpm2, "tpm2-pkcs11");
}

#[test]
fn nss_softokn_matches_its_profile() {
    matches_its_profile(Module::Nss, "nss-softokn");
}

/// Runs the body of the calling test with a throw-away token of openCryptoki, whose URI it gets. Skipped without openCryptoki
/// or root: its tokens are in one place of the machine, so a namespace is needed.
fn with_opencryptoki(body: impl FnOnce(&str)) {
    const URI: &str = "OPENCRYPTOKI_URI";
    if let Ok(uri) = std::env::var(URI) {
        return body(&uri);
    }
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("softhsm/opencryptoki-run"))
        .arg(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture"])
        .output()
        .expect("the script runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(3) {
        let required = ["CLAVIGER_REQUIRE_TOKENS", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "openCryptoki's token cannot be made, and is required: {err}");
        eprintln!("skipped: {err}");
        return;
    }
    assert!(output.status.success() && out.contains("1 passed"), "{test} ({}):\n{out}\n{err}", output.status);
}

/// The version that is installed. From 3.27 on it does what the profile says, from 3.15 on that of the NIST curves, and
/// before (3.8.1) nothing, which is said, and not left open.
#[test]
fn opencryptoki_matches_its_profile() {
    with_opencryptoki(|uri| {
        let token = open(uri, PinSource::uri()).unwrap();
        let profile = token.profile();
        assert_eq!((profile.name(), profile.basis().unwrap().0), ("opencryptoki", EvidenceBasis::Measured));
        token.keys().unwrap();
        let examination = token.examine(|_, _| {}).unwrap();
        let has_curves = examination.session_keys;
        for it in &examination.algorithms {
            let may_lack = !has_curves || matches!(it.curve, Curve::X25519 | Curve::Ed25519 | Curve::Secp256k1);
            let is_lacking = may_lack && it.verdict == Some(Verdict::Unsupported);
            assert!(is_lacking || has_curves && it.verdict == profile.verdict(it.curve), "{it:?}");
            assert_eq!(it.verdict, Some(verdict(&token, it.curve)), "{it:?}");
        }
        assert_eq!(token.inventory().unwrap(), []);
    });
}

fn nss(tier: Custody) {
    with_fresh_token(Module::Nss, |fresh| {
        let lacks = [Curve::X25519, Curve::Ed25519, Curve::Secp256k1];
        let mut capabilities = lacks.into_iter().fold(Capabilities::all().with_custody(tier), Capabilities::without);
        capabilities.tells_origin = false;
        let open = || OpenOptions::new().tiers([tier]).open(&fresh.uri).expect("a token");
        let token = open();
        suite::run(&token, &capabilities);
        suite::keys::are_the_same_when_opened_again(&token, &capabilities, open);
    });
}

#[test]
fn nss_softokn_kek_in_process() {
    nss(Custody::KekInProcess);
}

#[test]
fn nss_softokn_shared_secret_in_process() {
    nss(Custody::SharedSecretInProcess);
}

/// A token that makes signing keys only. The suite asks for keys of both uses.
struct Signer(Pkcs11Token);

impl Token for Signer {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn info(&self) -> TokenInfo {
        self.0.info()
    }
    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.0.keys()
    }
    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.0.sign(key, input, purpose)
    }
    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        self.0.unwrap_cek(key, request, purpose)
    }
    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.0.wrap_cek(key, request, purpose)
    }
}

impl Custodian for Signer {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        let usage = if key.usage == KeyUse::Both { KeyUse::Signing } else { key.usage };
        self.0.generate(&NewKey { usage, ..key.clone() })
    }
    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.0.import(key)
    }
    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.0.delete(key)
    }
    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.0.inventory()
    }
}

/// The parts of the suite for a token that only signs.
#[test]
fn tpm2_pkcs11_signs() {
    with_fresh_token(Module::Tpm2, |fresh| {
        let open = || Signer(open(&fresh.uri, PinSource::uri()).expect("a token"));
        let token = open();
        let lacks = [Curve::X25519, Curve::P384, Curve::P521, Curve::Ed25519, Curve::Secp256k1];
        let mut capabilities = lacks.into_iter().fold(Capabilities::all(), Capabilities::without);
        capabilities.imports = false;
        suite::signing::verifies(&token, &capabilities);
        suite::signing::gives_64_bytes_though_r_or_s_is_short(&token, &capabilities);
        suite::keys::keep_their_labels(&token, &capabilities);
        suite::keys::deleted_are_gone_and_no_others(&token, &capabilities);
        suite::keys::not_held_are_gone(&token, &capabilities);
        suite::concurrency::keys_serve_many_threads(&token, &capabilities);
        suite::keys::are_the_same_when_opened_again(&token, &capabilities, open);
        let both = token.0.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None });
        assert!(matches!(both, Err(TokenError::Unsupported(_))), "{both:?}");
        // The TPM refuses to make a key that cannot sign, with CKR_GENERAL_ERROR.
        let agreeing = generate(&token.0, Curve::P384);
        assert!(matches!(agreeing, Err(TokenError::Unsupported(_))), "{agreeing:?}");
        let imported = token.import(PrivateKey::generate(Curve::P256).to_import(KeyUse::Signing, None));
        assert!(imported.is_err(), "{imported:?}");
        assert_eq!(token.inventory().unwrap(), [], "refused keys are deleted");
    });
}

fn profile(text: &str) -> Profile {
    Profile::parse("mine", &format!("device = \"mine\"\n{text}")).unwrap()
}

fn with(fresh: &FreshToken, text: &str) -> OpenOptions {
    OpenOptions::new().base_dir(&fresh.folder).profile(profile(text))
}

fn generate(token: &Pkcs11Token, curve: Curve) -> Result<HeldKey, TokenError> {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: Some("mine".into()) })
}

#[test]
fn x25519_key_types() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let montgomery = with(&fresh, "[x25519]\nkey_types = [\"CKK_EC_MONTGOMERY\"]").open(&fresh.uri).unwrap();
        let made = generate(&montgomery, Curve::X25519);
        assert!(matches!(made, Err(TokenError::Unsupported(_))), "{made:?}");
        let edwards = with(&fresh, "[x25519]\nkey_types = [\"CKK_EC_EDWARDS\"]").open(&fresh.uri).unwrap();
        generate(&edwards, Curve::X25519).unwrap();
    });
}

#[test]
fn x25519_params() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let token = with(&fresh, "[x25519]\nparams = \"name\"").open(&fresh.uri).unwrap();
        let key = generate(&token, Curve::X25519).unwrap().public;
        assert!(opens(&token, &key, None));
        // Read through another session; the process is logged in already.
        let context = Pkcs11::new(&fresh.module).unwrap();
        let slot = context.get_slots_with_initialized_token().unwrap()[0];
        let session = context.open_ro_session(slot).unwrap();
        let private = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
        let params = session.get_attributes(private[0], &[AttributeType::EcParams]).unwrap();
        assert_eq!(params, [Attribute::EcParams(b"\x13\x0acurve25519".to_vec())]);
    });
}

#[test]
fn agreement_points() {
    with_fresh_token(Module::Kryoptic, |fresh| {
        let der = with(&fresh, "[agreement]\npoints = [\"der\"]").open(&fresh.uri).unwrap();
        let made = generate(&der, Curve::X25519);
        assert!(matches!(made, Err(TokenError::Unsupported(_))), "{made:?}");
        let both = with(&fresh, "[agreement]\npoints = [\"der\", \"raw\"]").open(&fresh.uri).unwrap();
        generate(&both, Curve::X25519).unwrap();
    });
}

#[test]
fn agreement_tiers_unless_the_configuration_overrides_them() {
    with_fresh_token(Module::Kryoptic, |fresh| {
        let text = "[agreement]\ntiers = [\"kek-in-process\", \"shared-secret-in-process\"]";
        let made = |options: OpenOptions| generate(&options.open(&fresh.uri).unwrap(), Curve::P256).unwrap().custody;
        assert_eq!(made(with(&fresh, text)), Some(Custody::KekInProcess));
        assert_eq!(made(with(&fresh, text).tiers([Custody::KekInToken])), Some(Custody::KekInToken));
        assert_eq!(made(OpenOptions::new()), Some(Custody::KekInToken));
        let none = with(&fresh, "[agreement]\ntiers = []").open(&fresh.uri).unwrap();
        let signs = none.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Signing, label: None }).unwrap();
        assert_eq!(signs.custody, None);
        assert!(generate(&none, Curve::P384).is_err(), "a key-agreement key on a token without tiers");
    });
}

#[test]
fn sessions_unless_the_configuration_overrides_them() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let text = "[sessions]\nusual = 3\nmost = 5";
        let opened = |options: OpenOptions| options.open(&fresh.uri);
        assert_eq!(opened(with(&fresh, text)).unwrap().concurrency(), 3);
        assert_eq!(opened(with(&fresh, text).sessions(5)).unwrap().concurrency(), 5);
        let refused = opened(with(&fresh, text).sessions(6)).err();
        assert!(matches!(&refused, Some(TokenError::Config(text)) if text.contains("5 at once")), "{refused:?}");
        assert_eq!(opened(OpenOptions::new().sessions(6)).unwrap().concurrency(), 6);
    });
}

#[test]
fn omitted_attributes() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let nameless = with(&fresh, "[omit]\nprivate_key = [\"CKA_LABEL\"]").open(&fresh.uri).unwrap();
        assert_eq!(generate(&nameless, Curve::P256).unwrap().label, None);
        // SoftHSM requires the attribute, so the call fails without it.
        let typeless = with(&fresh, "[omit]\nsecret = [\"CKA_KEY_TYPE\"]").open(&fresh.uri).unwrap();
        let made = generate(&typeless, Curve::P384);
        assert!(matches!(made, Err(TokenError::Unsupported(_))), "{made:?}");
        let all = with(&fresh, "").open(&fresh.uri).unwrap();
        assert_eq!(generate(&all, Curve::P384).unwrap().label.as_deref(), Some("mine"));
    });
}

#[test]
fn keys_that_another_tool_must_make_are_refused() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let token = with(&fresh, "make_keys_with = \"thattool\"").open(&fresh.uri).unwrap();
        let import = PrivateKey::generate(Curve::P256).to_import(KeyUse::Both, None);
        for refused in [generate(&token, Curve::P256), token.import(import)] {
            assert!(matches!(&refused, Err(TokenError::Unsupported(text)) if text.contains("thattool")), "{refused:?}");
        }
    });
}

#[test]
fn cure_process_asks_for_a_new_process() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        assert!(open(&fresh.uri, PinSource::uri()).unwrap().needs_new_process_after_absence());
        assert!(!with(&fresh, "").open(&fresh.uri).unwrap().needs_new_process_after_absence());
    });
}

/// A profile next to the configuration takes precedence over a built-in one, by name and by match.
#[test]
fn own_profiles_take_precedence() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let own = fresh.folder.join("hsm-config");
        fs::create_dir(&own).unwrap();
        let opened = || OpenOptions::new().base_dir(&fresh.folder).open(&fresh.uri).unwrap();
        assert_eq!(opened().profile().name(), "softhsm");

        fs::write(own.join("ours.toml"), "device = \"ours\"\n[[match]]\nmodel = \"SoftHSM*\"\n[sessions]\nusual = 4")
            .unwrap();
        assert_eq!((opened().profile().name(), opened().concurrency()), ("ours", 4));
        fs::write(own.join("softhsm.toml"), "device = \"another\"").unwrap();
        let named = Profile::named("softhsm", Some(&fresh.folder)).unwrap();
        assert_eq!((named.device(), named.verdict(Curve::P256)), ("another", None));

        fs::write(own.join("ours.toml"), "device = \"ours\"\nsesions = 1").unwrap();
        let refused = OpenOptions::new().base_dir(&fresh.folder).open(&fresh.uri).err();
        let text = refused.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(text.contains("ours.toml") && text.contains("sesions"), "{text}");
        assert!(matches!(Profile::named("no-such", None), Err(TokenError::Config(_))));
    });
}

#[test]
fn invalid_profiles_are_refused() {
    for wrong in [
        "[x25519]\nkey_types = []",
        "[x25519]\nkey_types = [\"CKK_EC\"]",
        "[agreement]\npoints = []",
        "[sessions]\nusual = 0",
        "[sessions]\nusual = 2\nmost = 1",
        "[omit]\nsecret = [\"CKA_SENSITIVE\"]",
        "cure = \"wait\"",
        "[evidence]\nbasis = \"read\"\nversion = \"1\"\n[evidence.serves]\nX25519 = \"authcrypt\"",
    ] {
        let parsed = Profile::parse("mine", &format!("device = \"mine\"\n{wrong}"));
        assert!(matches!(parsed, Err(TokenError::Config(_))), "{wrong}");
    }
}
