//! Keys that other programs have made: pkcs11-tool (OpenSC), p11tool (GnuTLS), keytool (Java) and python-pkcs11. Each is
//! served, or `key list` and `token doctor` name it with what to do.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::home::{Home, PIN, softhsm_module};

fn are_tokens_required() -> bool {
    ["CLAVIGER_REQUIRE_TOKENS", "CI"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Whether a program is installed. If it is missing, panics where tokens are required (CI).
fn is_installed(program: &str) -> bool {
    let folders = ["/usr/bin", "/usr/local/bin"];
    let found = folders.iter().any(|folder| Path::new(folder).join(program).is_file());
    if !found {
        assert!(!are_tokens_required(), "{program} is missing, and required: softhsm/install devices installs it");
        eprintln!("skipped: {program} is missing");
    }
    found
}

/// Runs a program on the home's token, and returns its output.
#[track_caller]
fn run(home: &Home, program: &str, arguments: &[&str]) -> String {
    let mut command = home.command(program);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}:\n{out}\n{err}");
    format!("{out}\n{err}")
}

#[track_caller]
fn pkcs11_tool(home: &Home, arguments: &str) -> String {
    let module = softhsm_module().unwrap();
    let all: Vec<_> = ["--module", module.to_str().unwrap(), "--token-label", "soft", "--login", "--pin", PIN]
        .into_iter()
        .chain(arguments.split(' '))
        .collect();
    run(home, "pkcs11-tool", &all)
}

/// The rows of `key list` by label, and its warnings.
fn listed(home: &Home) -> (Vec<(String, String, String)>, String) {
    let ran = home.run("--json key list");
    let rows = ran.json();
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        (text("name"), text("use"), text("origin"))
    };
    let mut rows: Vec<_> = rows.as_array().unwrap().iter().map(row).collect();
    rows.sort();
    (rows, ran.stderr().to_owned())
}

fn row(name: &str, usage: &str, origin: &str) -> (String, String, String) {
    (name.to_owned(), usage.to_owned(), origin.to_owned())
}

/// The findings of `token doctor` with this ID: what they are about, and their messages.
fn findings(home: &Home, id: &str) -> Vec<(String, String)> {
    let report = home.run("--json token doctor").json();
    let findings = report[0]["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == id);
    let of = |finding: &Value| (finding["about"][0].as_str().unwrap().to_owned(), finding["message"].to_string());
    let mut found: Vec<_> = findings.map(of).collect();
    found.sort();
    found
}

/// A private key on P-256 in the folder of the home.
fn private_key_file(home: &Home) {
    run(home, "openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]);
    run(home, "openssl", &["ec", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
}

#[test]
fn keys_of_pkcs11_tool() {
    if !is_installed("pkcs11-tool") || !is_installed("openssl") {
        return;
    }
    let Some(home) = Home::with_token() else { return };
    pkcs11_tool(&home, "--keypairgen --key-type EC:prime256v1 --id 01 --label plain --usage-derive --usage-sign");
    pkcs11_tool(&home, "--keypairgen --key-type EC:edwards25519 --id 02 --label edwards");
    pkcs11_tool(&home, "--keypairgen --key-type EC:secp384r1 --label noid --usage-derive");
    pkcs11_tool(&home, "--keypairgen --key-type EC:secp224r1 --id 03 --label curve");
    pkcs11_tool(&home, "--keypairgen --key-type EC:prime256v1 --id 04 --label alone --usage-derive");
    pkcs11_tool(&home, "--delete-object --type pubkey --id 04");
    private_key_file(&home);
    pkcs11_tool(&home, "--write-object key.pem --type privkey --id 05 --label written --usage-derive --usage-sign");
    let served = [
        row("edwards", "signing", "generated"),
        row("noid", "agreement", "generated"),
        row("plain", "both", "generated"),
    ];
    let (rows, warnings) = listed(&home);
    assert_eq!(rows, served);
    let unpaired = findings(&home, "key-unpaired");
    let about: Vec<_> = unpaired.iter().map(|(about, _)| about.as_str()).collect();
    assert_eq!(about, ["alone", "curve", "written"]);
    for (label, hint) in [("alone", "--type pubkey"), ("curve", "1.3.132.0.33"), ("written", "--type pubkey")] {
        assert!(warnings.contains(&format!("\\\"{label}\\\"")) && warnings.contains(hint), "{warnings}");
        let message = &unpaired.iter().find(|(about, _)| about == label).unwrap().1;
        assert!(message.contains(hint), "{message}");
    }
    // What the hint says helps.
    pkcs11_tool(&home, "--write-object public.pem --type pubkey --id 05 --label written");
    let (rows, _) = listed(&home);
    assert!(rows.contains(&row("written", "both", "imported")), "{rows:?}");
    assert_eq!(findings(&home, "key-unpaired").len(), 2);
}

#[test]
fn keys_of_p11tool() {
    if !is_installed("p11tool") || !is_installed("openssl") {
        return;
    }
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap();
    let p11tool = |arguments: &[&str]| {
        let all = [&["--provider", module.to_str().unwrap(), "--login", "--set-pin", PIN], arguments].concat();
        run(&home, "p11tool", &all)
    };
    let url = "pkcs11:token=soft";
    p11tool(&["--generate-privkey", "ecdsa", "--curve", "secp256r1", "--label", "generated", "--id", "11", url]);
    private_key_file(&home);
    p11tool(&["--write", "--load-privkey", "key.pem", "--label", "written", "--id", "12", url]);
    // GnuTLS gives its keys CKA_SIGN, and no CKA_DERIVE.
    let (rows, warnings) = listed(&home);
    assert_eq!(rows, [row("generated", "signing", "generated")]);
    assert!(warnings.contains("\\\"written\\\""), "{warnings}");
    p11tool(&["--write", "--load-pubkey", "public.pem", "--label", "written", "--id", "12", url]);
    let (rows, _) = listed(&home);
    assert_eq!(rows, [row("generated", "signing", "generated"), row("written", "signing", "imported")]);

    // Its URIs, of the token in detail and of a key, are taken as they are.
    let urls = [
        p11tool(&["--list-tokens", "--detailed-url"]),
        p11tool(&["--list-privkeys", url]),
        p11tool(&["--list-all", "--only-urls", url]),
    ]
    .concat();
    let urls: Vec<_> = urls.split_whitespace().filter(|word| word.starts_with("pkcs11:")).collect();
    assert!(urls.iter().any(|url| url.contains("library-description=")), "{urls:?}");
    assert!(urls.iter().any(|url| url.contains("type=private")), "{urls:?}");
    for url in urls.into_iter().filter(|url| url.contains("token=soft")) {
        let uri = format!("{url}?module-path={}&pin-source=file:user.pin", module.display());
        home.write("claviger.toml", &format!("state_dir = \"state\"\n[[token]]\nname = \"soft\"\nuri = \"{uri}\"\n"));
        let expected = usize::from(!url.contains("object=")) + 1;
        assert_eq!(listed(&home).0.len(), expected, "{url}");
    }
}

/// Java stores no public key object, but a certificate.
#[test]
fn a_key_of_java() {
    if !is_installed("keytool") {
        return;
    }
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap();
    let configure = |more: &str| {
        let text = format!("name = Soft\nlibrary = {}\nslotListIndex = 0\n{more}", module.display());
        home.write("java.cfg", &text);
    };
    let provider = ["-providerClass", "sun.security.pkcs11.SunPKCS11", "-providerArg", "java.cfg"];
    let store = ["-keystore", "NONE", "-storetype", "PKCS11", "-storepass", PIN];
    let make = |alias| {
        let key = ["-genkeypair", "-alias", alias, "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=java"];
        run(&home, "keytool", &[&key[..], &provider, &store].concat());
    };
    configure("attributes(generate, CKO_PRIVATE_KEY, *) = {\n CKA_SENSITIVE = true\n CKA_DERIVE = true\n}\n");
    make("protected");
    let (rows, warnings) = listed(&home);
    assert_eq!(rows, [row("", "both", "generated")], "{warnings}");
    assert_eq!(home.run("--json key list").json()[0]["served"], Value::Bool(true));
    assert_eq!(findings(&home, "key-unpaired"), []);
    // By default its keys are not sensitive, and so named and not served.
    configure("");
    make("loose");
    let (rows, warnings) = listed(&home);
    assert_eq!(rows.len(), 2, "{warnings}");
    assert!(warnings.contains("not sensitive"), "{warnings}");
    assert_eq!(findings(&home, "key-unprotected").len(), 1);
}

/// A Python that has python-pkcs11, which is installed into the build folder. If that fails, panics where tokens are
/// required (CI).
fn python_with_pkcs11() -> Option<String> {
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/python-pkcs11/install");
    let installed = Command::new(install).stderr(Stdio::inherit()).output().unwrap();
    if !installed.status.success() {
        assert!(!are_tokens_required(), "python-pkcs11 cannot be installed, and is required");
        eprintln!("skipped: python-pkcs11 cannot be installed");
        return None;
    }
    Some(String::from_utf8(installed.stdout).unwrap().trim_end().to_owned())
}

/// python-pkcs11 gives a key no CKA_ID unless it is told one.
#[test]
fn keys_of_python() {
    let Some(home) = Home::with_token() else { return };
    let Some(python) = python_with_pkcs11() else { return };
    let script = r#"
import sys, pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label='soft')
with token.open(user_pin=sys.argv[2], rw=True) as session:
    def make(kind, params, label):
        parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: params}, local=True)
        parameters.generate_keypair(store=True, label=label)
    make(KeyType.EC, encode_named_curve_parameters('secp256r1'), 'one')
    make(KeyType.EC, encode_named_curve_parameters('secp256r1'), 'two')
    make(KeyType.EC, encode_named_curve_parameters('secp521r1'), 'three')
    make(KeyType.EC_EDWARDS, bytes.fromhex('130c656477617264733235353139'), 'four')
"#;
    home.write("make.py", script);
    run(&home, &python, &["make.py", softhsm_module().unwrap().to_str().unwrap(), PIN]);
    let (rows, warnings) = listed(&home);
    let expected = [
        row("four", "signing", "generated"),
        row("one", "both", "generated"),
        row("three", "agreement", "generated"),
        row("two", "both", "generated"),
    ];
    assert_eq!(rows, expected, "{warnings}");
}

/// The attributes of RFC 7512 are matched, and what is not used is named.
#[test]
fn every_attribute_of_a_uri() {
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap();
    home.run("key generate --alg P-256 --name mine").success();
    let slot = {
        home.write("empty.toml", "");
        let tokens = home.run("--config empty.toml --json token list").json();
        let soft = tokens.as_array().unwrap().iter().find(|token| token["label"] == "soft").unwrap().clone();
        soft["slot"].as_u64().unwrap()
    };
    let configure = |attributes: &str, query: &str| {
        let uri =
            format!("pkcs11:token=soft;{attributes}?{query}module-path={}&pin-source=file:user.pin", module.display());
        home.write("claviger.toml", &format!("state_dir = \"state\"\n[[token]]\nname = \"soft\"\nuri = \"{uri}\"\n"));
    };
    let library = "library-manufacturer=SoftHSM;library-description=Implementation%20of%20PKCS11;library-version=2.6";
    let slots =
        format!("slot-id={slot};slot-manufacturer=SoftHSM%20project;slot-description=SoftHSM%20slot%20ID%20{slot:#x}");
    let key = "object=mine;type=private";
    configure(&format!("{library};{slots};{key};manufacturer=SoftHSM%20project;model=SoftHSM%20v2"), "x-replicas=2&");
    assert_eq!(listed(&home).0.len(), 1);
    assert!(home.run("token list").success().contains("ready"), "the state of the PIN");
    let report = home.run("--json token doctor").json();
    let findings = report[0]["findings"].as_array().unwrap().iter();
    let unused: Vec<_> = findings.filter(|finding| finding["id"] == "uri-attributes-unused").collect();
    assert_eq!((unused.len(), &unused[0]["about"]), (1, &serde_json::json!(["x-replicas"])));
    for (attributes, code, status) in [
        ("library-version=2.7", "token-misconfigured", 2),
        ("library-manufacturer=SoftHSM2", "token-misconfigured", 2),
        ("slot-description=other", "token-absent", 3),
        ("type=data", "token-misconfigured", 2),
        ("x-vendor=1", "token-misconfigured", 2),
    ] {
        configure(attributes, "");
        let ran = home.run("--json key list");
        assert_eq!(ran.error(status), code, "{attributes}");
        let name = attributes.split('=').next().unwrap();
        assert!(ran.stderr().contains(name), "{attributes}: {}", ran.stderr());
    }
}
