//! A key enters the document of a DID only if its token has just proved it. Objects of the token are changed behind the
//! program's back.

use std::fs;

use claviger::keys::{Curve, PublicKey};
use serde_json::Value;

use crate::{
    home::{Home, softhsm_module},
    token_objects::{Template, make_pair, replace_by_stranger},
};

/// A home whose commands use a keeper, and one whose commands open the token themselves.
fn homes() -> impl Iterator<Item = Home> {
    ["", "[keeper]\nin_process = true\n"].into_iter().filter_map(|more| {
        let home = Home::with_token()?;
        home.configure(&softhsm_module()?, more);
        Some(home)
    })
}

fn documents(home: &Home) -> Vec<String> {
    let files = fs::read_dir(home.path().join("state/documents")).into_iter().flatten().flatten();
    files.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
}

/// The row of `key list` for the key with this label.
fn listed(home: &Home, label: &str) -> Value {
    let rows = home.run("--json key list").json();
    rows.as_array().unwrap().iter().find(|row| row["name"] == label).expect("the key is listed").clone()
}

/// With the public half of a pair replaced by a stranger's key, the document would let the stranger read our messages.
#[test]
fn a_strangers_public_key_enters_no_document() {
    for home in homes() {
        let did = home.create_did("--method web --host example.org");
        home.run("key generate --alg X25519 --name agrees").success();
        home.run("key generate --alg Ed25519 --name signs").success();
        let before = documents(&home);
        for (option, label) in [("--agreement", "agrees"), ("--authentication", "signs")] {
            let ours = PublicKey::from_multikey(listed(&home, label)["key"].as_str().unwrap()).unwrap();
            let stranger = replace_by_stranger(&home, &ours).to_multikey();
            for key in [label, &stranger] {
                for command in
                    ["did create --method peer:2", "did create --method peer:4", &format!("did update {did}")]
                {
                    let ran = home.run(&format!("--json {command} {option} {key}"));
                    assert_eq!(ran.error(1), "key-unproved", "{command}: {}", ran.stderr());
                    assert!(ran.stderr().contains(&stranger) && ran.stderr().contains("claviger key list"), "{ran:?}");
                }
            }
            let row = listed(&home, label);
            assert_eq!((&row["key"], &row["served"]), (&stranger.as_str().into(), &false.into()));
            assert!(row["why"].as_str().unwrap().contains("known-answer"), "{row}");
            assert!(home.run("key list").stderr().contains("is not served"));
        }
        assert_eq!(documents(&home), before, "no document was stored or changed");
        home.run("key generate --alg P-256 --name sound").success();
        assert_eq!((&listed(&home, "sound")["served"], &listed(&home, "sound")["why"]), (&true.into(), &Value::Null));
    }
}

/// The attributes of a key, and its curve, do not tell what it can do.
#[test]
fn a_key_that_cannot_do_its_use_enters_no_document() {
    for home in homes() {
        let did = home.create_did("--method web --host example.org");
        let idle = Template { derive: false, sign: false, extractable: false };
        make_pair(&home, Curve::X25519, "no-derive", Template { sign: true, ..idle });
        make_pair(&home, Curve::Ed25519, "no-sign", idle);
        make_pair(&home, Curve::P256, "nothing", idle);
        make_pair(&home, Curve::P256, "signs-only", Template { sign: true, ..idle });
        let before = documents(&home);
        for (option, label, code) in [
            ("--agreement", "no-derive", "key-unproved"),
            ("--authentication", "no-sign", "key-unproved"),
            ("--agreement", "nothing", "key-unproved"),
            ("--authentication", "nothing", "key-unproved"),
            ("--agreement", "signs-only", "use-unfit"),
        ] {
            for command in ["did create --method peer:2", &format!("did update {did}")] {
                let ran = home.run(&format!("--json {command} {option} {label}"));
                let expected = if code == "use-unfit" { 2 } else { 1 };
                assert_eq!(ran.error(expected), code, "{command} {option} {label}: {}", ran.stderr());
            }
            assert_eq!(listed(&home, label)["served"], Value::from(label == "signs-only"), "{label}");
        }
        // The document of a did:key on P-256 has its key for both uses, whatever was asked for.
        let ran = home.run("--json did create --method key --authentication signs-only");
        assert_eq!(ran.error(2), "use-unfit", "{}", ran.stderr());
        assert_eq!(documents(&home), before, "no document was stored or changed");
        home.run("did create --method peer:2 --authentication signs-only").success();
    }
}

#[test]
fn an_extractable_key_enters_no_document_unless_it_is_allowed() {
    for home in homes() {
        make_pair(&home, Curve::X25519, "loose", Template { derive: true, sign: false, extractable: true });
        let create = "--json did create --method peer:2 --agreement loose";
        let ran = home.run(create);
        assert_eq!(ran.error(1), "key-unprotected");
        assert!(ran.stderr().contains("allow_unprotected"), "{ran:?}");
        let row = listed(&home, "loose");
        assert_eq!((&row["served"], &row["why"]), (&false.into(), &"it is extractable or not sensitive".into()));
        assert_eq!(documents(&home), Vec::<String>::new());
        let configuration = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
        let allowed = configuration.replace("name = \"soft\"\n", "name = \"soft\"\nallow_unprotected = [\"loose\"]\n");
        home.write("claviger.toml", &allowed);
        home.run(create).success();
        assert_eq!(listed(&home, "loose")["served"], true);
    }
}

/// `object` and `id` of a URI restrict the keys that are found. A key that they hide is not made.
#[test]
fn no_key_is_made_that_the_uri_hides() {
    for home in homes() {
        let whole = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
        for filter in ["object=mine", "id=%01", "object=mine;id=%01"] {
            home.write("claviger.toml", &whole.replace("token=soft", &format!("token=soft;{filter}")));
            for command in
                ["key generate --alg X25519 --name other", "key generate --alg P-256", "did create --method peer:2"]
            {
                let ran = home.run(&format!("--json {command}"));
                assert_eq!(ran.error(2), "token-misconfigured", "{filter}: {command}");
                let attribute = if filter.contains("id=") { "`id`" } else { "`object`" };
                assert!(ran.stderr().contains(attribute) && ran.stderr().contains("URI"), "{ran:?}");
            }
            home.write("claviger.toml", &whole);
            assert_eq!(home.run("--json key list").json(), serde_json::json!([]), "{filter}");
        }
        home.write("claviger.toml", &whole.replace("token=soft", "token=soft;object=mine"));
        home.run("key generate --alg P-256 --name mine").success();
        assert_eq!(listed(&home, "mine")["served"], true);
        home.run("did create --method peer:2 --name mine").success();
    }
}

/// The keys of another machine are in no token here, and are taken as they are named.
#[test]
fn keys_of_another_machine_enter_a_document_by_name() {
    let (Some(here), Some(there)) = (Home::with_token(), Home::with_token()) else { return };
    let [agreement, authentication] = ["X25519", "Ed25519"].map(|algorithm| {
        let made = there.run(&format!("--json key generate --alg {algorithm}")).json();
        made["key"].as_str().unwrap().to_owned()
    });
    let others = format!("--other-agreement {agreement} --other-authentication {authentication}");
    let keys = |document: &Value| {
        let methods = document["verificationMethod"].as_array().unwrap();
        methods.iter().map(|method| method["publicKeyMultibase"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for method in ["peer:2", "peer:4"] {
        let made = here.run(&format!("--json did create --method {method} {others}")).json();
        let found = keys(&made["document"]);
        assert!(found.len() == 4 && found.contains(&agreement) && found.contains(&authentication), "{found:?}");
        assert_eq!(made["keys"].as_array().unwrap().len(), 2, "those that were made here");
    }
    let did = here.create_did("--method web --host example.org");
    let changed = here.run(&format!("--json did update {did} {others}")).json();
    let document = &changed["document"];
    let found = keys(document);
    assert_eq!((&found[1], &found[3], found.len()), (&agreement, &authentication, 4));
    for (relationship, numbers) in [("keyAgreement", [1, 3]), ("authentication", [2, 4])] {
        assert_eq!(document[relationship], Value::from(numbers.map(|number| format!("{did}#key-{number}")).to_vec()));
    }
    let again = here.run(&format!("--json did update {did} {others}"));
    assert_eq!(again.error(2), "bad-arguments", "nothing changes");
    for wrong in [format!("--other-agreement {authentication}"), "--other-authentication label".to_owned()] {
        assert_eq!(here.run(&format!("--json did update {did} {wrong}")).error(2), "bad-key-name");
    }
    let sole = here.run(&format!("--json did create --method key {others}"));
    assert_eq!(sole.error(2), "bad-arguments", "a did:key is one key");
}
