//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that can be checked in the source: imports run downwards, no
//! circles between files, no long file, and what is absent where.
//!
//! A rule takes a source tree and returns its violations. `house/planted.rs` tries each rule on planted violations; the
//! tests here apply it to `src`.

#[path = "house/graph.rs"]
mod graph;
#[path = "house/names.rs"]
mod names;
#[path = "house/planted.rs"]
mod planted;
#[path = "house/rules.rs"]
mod rules;
#[path = "house/source.rs"]
mod source;

use std::{path::Path, sync::LazyLock};

use rules::{Absence, Word};
use source::Source;

/// The modules below `src`, the lowest first. A module uses only itself and those before it.
const LAYERS: [&str; 12] =
    ["encoding", "json", "process", "keys", "crypto", "secrets", "did", "jose", "didcomm", "net", "agent", "cli"];
/// Pairs of layers: the first does not use the second, although the second is lower.
const APART: [(&str, &str); 1] = [("did", "secrets")];

const MAX_LINES: usize = 500;

fn src() -> &'static Source {
    static SOURCE: LazyLock<Source> =
        LazyLock::new(|| Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    &SOURCE
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// A module uses only modules below it.
#[test]
fn imports_run_downwards() {
    assert_none(&rules::upward_imports(src(), &LAYERS, &APART));
}

/// `house/graph.rs` defines what counts as a use.
#[test]
fn no_files_use_one_another_in_a_circle() {
    assert_none(&rules::circles(src()));
}

#[test]
fn no_file_is_over_500_lines() {
    assert_none(&rules::long_files(src(), MAX_LINES));
}

/// Neither the compiler nor the other rules would see a file that no module declares.
#[test]
fn every_file_is_a_module() {
    assert_none(&rules::undeclared_files(src()));
}

/// Only `secrets/` talks to tokens.
#[test]
fn token_libraries_are_named_in_secrets_only() {
    assert_none(&rules::present(
        src(),
        &Absence {
            words: &["cryptoki", "cryptoki_sys", "pcsc", "libloading"].map(Word::Crate),
            except: &["secrets/pkcs11/", "secrets/piv/readers.rs", "secrets/piv/pcsc_card.rs"],
        },
    ));
}

/// Every outgoing connection passes the guard against private addresses.
#[test]
fn connections_are_made_in_one_file_only() {
    let connecting =
        ["TcpStream::connect", "TcpSocket", "UdpSocket", "lookup_host", "to_socket_addrs", "HttpConnector"];
    let except = &["net/connect.rs", "cli/"];
    assert_none(&rules::present(src(), &Absence { words: &connecting.map(Word::Tokens), except }));
}

/// There is one function for each kind of base64 that a peer writes. The others are of operators: a key that is imported,
/// and the secret of a webhook.
#[test]
fn base64_is_read_in_one_file_only() {
    let except = &["encoding.rs", "agent/api/webhook_secret.rs", "secrets/import.rs", "secrets/signing.rs"];
    assert_none(&rules::present(src(), &Absence { words: &[Word::Crate("base64")], except }));
}

/// Only the daemon, the HTTP client and the command line name a database, a transport or a web library.
#[test]
fn the_network_and_the_store_are_named_by_the_daemon_only() {
    let crates =
        ["rusqlite", "tokio_postgres", "axum", "hyper", "hyper_util", "rustls", "tokio_rustls", "tokio_tungstenite"];
    let crates = crates.map(Word::Crate).into_iter();
    let words = crates.chain(["TcpStream", "TcpListener", "prometheus_client"].map(Word::Tokens));
    let except = &["agent/", "net/", "cli/"];
    assert_none(&rules::present(src(), &Absence { words: &words.collect::<Vec<_>>(), except }));
}

/// The only private scalars are the ephemeral key of a message, a key that a person imports, and the temporary key that
/// signs the certificate of a PIV slot.
#[test]
fn private_keys_are_in_three_files_only() {
    let private = ["agreement::", "StaticSecret", "SecretKey::", "SigningKey", "NonZeroScalar", "EphemeralSecret"];
    let except = &["crypto/ephemeral.rs", "secrets/import.rs", "secrets/piv/certificate.rs"];
    assert_none(&rules::present(src(), &Absence { words: &private.map(Word::Tokens), except }));
}

#[test]
fn unsafe_code_is_in_one_file_only() {
    let except = &["secrets/pkcs11/raw.rs"];
    assert_none(&rules::present(src(), &Absence { words: &[Word::Tokens("unsafe")], except }));
}

/// A derived Debug would print the secret.
#[test]
fn no_secret_type_derives_debug() {
    let secrets = ["Cek", "Kek", "SharedSecret", "ImportKey", "EphemeralKey"];
    assert_none(&rules::derived_debug(src(), &secrets));
}
