//! What is not used in a DID document is said with `--verbose`, and only then.

use crate::home::Home;

const DOCUMENT: &str = r##"{
    "id": "did:example:peer",
    "verificationMethod": [
        { "id": "did:example:peer#k", "type": "EcdsaSecp256k1VerificationKey2019", "controller": "did:example:peer",
          "publicKeyHex": "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798" },
        { "id": "eth", "type": "EcdsaSecp256k1RecoveryMethod2020", "blockchainAccountId": "eip155:1:0xab16" }
    ],
    "authentication": ["did:example:peer#k"],
    "keyAgreement": ["#gone"],
    "service": [{ "id": "#v1", "type": "did-communication", "serviceEndpoint": "https://v1.example" }]
}"##;

#[test]
fn unused_parts_of_a_document_are_named_with_verbose() {
    let home = Home::new();
    home.write("peer.json", DOCUMENT);
    home.write("claviger.toml", "state_dir = \"state\"\n[did]\ndocuments = [\"peer.json\"]\n");
    let quiet = home.run("did resolve did:example:peer");
    quiet.success();
    assert_eq!(quiet.stderr(), "");
    let verbose = home.run("-v did resolve did:example:peer");
    assert_eq!(verbose.success(), quiet.stdout());
    let expected = [
        r##"the key "#eth": the key type "EcdsaSecp256k1RecoveryMethod2020" is not supported"##,
        r##"keyAgreement names "#gone", which the document does not have"##,
        r##"the service "#v1": its type is not DIDCommMessaging"##,
    ];
    let lines: Vec<&str> = verbose.stderr().lines().filter(|line| line.contains("not used")).collect();
    assert_eq!(
        lines,
        expected.map(|part| format!("part of a DID document not used: {part} (did \"did:example:peer\")"))
    );
    // `#k` has a `publicKeyHex`, which is read.
    assert!(!verbose.stderr().contains("#k"), "{}", verbose.stderr());

    let did = "did:peer:2.AzUC7K4ndUaGZgV7Cp2yJy6JtMoUHY6u7tkcSYUvPrEidqBmLCTLmi6d5WvwnUqejscAkERJ3bfjEiSYtdPkRSE8kSa11hFBr4sTgnbZ95SJj19PN2jdvJjyzpSZgxkyyxNnBNnY";
    let verbose = home.run(&format!("-v did resolve {did}"));
    verbose.success();
    assert!(verbose.stderr().contains(r##"the key "#key-1": the key type"##), "{}", verbose.stderr());
}
