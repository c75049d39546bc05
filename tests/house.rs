//! The house stays as ARCHITECTURE.md draws it: what is absent where, kept so by reading the source.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), code(&fs::read_to_string(&path).unwrap())));
            }
        }
    }
    assert!(!found.is_empty(), "src/{folder} holds no source");
    found
}

/// Without comments, and without the unit tests at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn assert_absent(folder: &str, words: &[&str], except: &[&str]) {
    for (path, text) in sources(folder) {
        if except.iter().any(|exception| path.ends_with(exception) || path.to_string_lossy().contains(exception)) {
            continue;
        }
        for word in words {
            assert!(!text.contains(word), "{} names {word:?}", path.display());
        }
    }
}

/// A module uses only what stands below it.
#[test]
fn imports_run_downwards() {
    let floors = ["process", "keys", "crypto", "secrets", "did", "jose", "didcomm", "agent", "cli"];
    // Nothing stands above the last.
    for (height, floor) in floors[..floors.len() - 1].iter().enumerate() {
        let mut above: Vec<String> = floors[height + 1..].iter().map(|above| format!("crate::{above}::")).collect();
        // `did` and `secrets` stand side by side.
        if *floor == "did" {
            above.push("crate::secrets::".to_owned());
        }
        let words: Vec<&str> = above.iter().map(String::as_str).collect();
        assert_absent(floor, &words, &[]);
    }
}

/// One joint: what speaks to a token stands below `secrets/`.
#[test]
fn token_libraries_are_named_below_secrets_only() {
    let libraries = ["cryptoki::", "cryptoki_sys::", "pcsc::", "yubikey::", "libloading::"];
    assert_absent("", &libraries, &["src/secrets/pkcs11/", "src/secrets/piv/readers.rs"]);
}

/// One way out: what connects to a server stands behind the guard.
#[test]
fn connections_are_made_in_one_file_only() {
    let connecting =
        ["TcpStream::connect", "TcpSocket", "UdpSocket", "lookup_host", "to_socket_addrs", "HttpConnector"];
    assert_absent("", &connecting, &["src/agent/net/connect.rs", "src/cli/"]);
}

/// Only the daemon and the command line name a database, a transport or a web library.
#[test]
fn the_network_and_the_store_are_named_by_the_daemon_only() {
    let libraries =
        ["rusqlite", "axum", "hyper", "rustls::", "tungstenite", "TcpStream", "TcpListener", "prometheus_client"];
    assert_absent("", &libraries, &["src/agent/", "src/cli/"]);
}

/// No private scalar but a message's ephemeral key, the one key that a person imports, and the one that signs a slot's
/// certificate and is forgotten.
#[test]
fn private_keys_stand_in_three_files_only() {
    let private = ["StaticSecret", "SecretKey::", "SigningKey", "NonZeroScalar", "EphemeralSecret"];
    assert_absent(
        "",
        &private,
        &["src/crypto/ephemeral.rs", "src/secrets/import.rs", "src/secrets/piv/certificate.rs"],
    );
}

/// Nothing secret is printed by derive.
#[test]
fn no_secret_type_derives_debug() {
    for (path, text) in sources("crypto").into_iter().chain(sources("secrets")) {
        for name in ["struct Cek", "struct Kek", "struct SharedSecret", "struct ImportKey", "struct EphemeralKey"] {
            if let Some(at) = text.find(name) {
                let attributes = &text[text[..at].rfind("\n\n").unwrap_or(0)..at];
                assert!(!attributes.contains("Debug"), "{}: {name} derives Debug", path.display());
            }
        }
    }
}

/// Unsafe code stands in one audited file.
#[test]
fn unsafe_code_stands_in_one_file() {
    for (path, text) in sources("") {
        if !path.ends_with("src/secrets/pkcs11/raw.rs") {
            assert!(!text.contains("unsafe "), "{} has unsafe code", path.display());
        }
    }
}
