//! p11-kit between this program and a module: its proxy, which merges modules, and its client and server, which pass calls
//! on over a socket.
//!
//! Both make another instance of the module for each C_GetFunctionList, so that a program with two function lists does not
//! work. The server passes on only mechanisms that it knows; a new version passes on more.

use std::{env, fs, os::unix::fs::DirBuilderExt, path::Path, process::Command};

use crate::p11_kit::{Server, are_tokens_required, library};
use crate::support::{FreshToken, Module, with_fresh_token_and};
use claviger::{
    keys::Curve,
    secrets::{
        Custodian, Custody, KeyUse, NewKey, Token, TokenError,
        pkcs11::{Examination, PinSource, Pkcs11Token, Verdict, open},
    },
};

use super::tokens::{KRYOPTIC, agrees, signs};

/// Runs the calling test as another user in a user namespace, because p11-kit reads no user's configuration for root.
fn run_without_root() {
    let unshare = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000"]).args(arguments).output().expect("util-linux")
    };
    let probe = unshare(&["true".as_ref()]);
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stderr);
        assert!(!are_tokens_required(), "no user namespace can be made, and one is required: {reason}");
        eprintln!("skipped: no user namespace can be made: {reason}");
        return;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let program = env::current_exe().expect("this program");
    let output = unshare(&[program.as_ref(), test.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{test} ({}):\n{out}\n{err}", output.status);
    assert!(!err.contains("skipped:"), "{err}");
}

/// The token's URI with another module.
fn through(fresh: &FreshToken, module: &Path) -> String {
    let uri = fresh.uri.replace(&fresh.module.display().to_string(), &module.display().to_string());
    assert_ne!(uri, fresh.uri);
    uri
}

fn generate(token: &Pkcs11Token, curve: Curve) -> Result<claviger::secrets::HeldKey, TokenError> {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: Some(curve.name().into()) })
}

fn examine(token: &Pkcs11Token) -> Examination {
    token.keys().unwrap();
    token.examine(|_, _| {}).unwrap()
}

/// The proxy hides nothing: keys on every curve are made and used, in the tier of the module itself.
fn proxy(module: Module, curves: &'static [Curve], custody: Custody) {
    let Some(proxy) = library("p11-kit-proxy.so") else { return };
    // SoftHSM's package has a file for p11-kit. Another module is named in the user's configuration, which p11-kit does not
    // read for root.
    if module != Module::SoftHsm && rustix::process::geteuid().is_root() {
        return module.path().map_or((), |_| run_without_root());
    }
    let configuration = |folder: &Path| {
        let modules = folder.join("xdg/pkcs11/modules");
        fs::create_dir_all(&modules).unwrap();
        if module != Module::SoftHsm {
            let text = format!("module: {}\n", module.path().unwrap().display());
            fs::write(modules.join("claviger-test.module"), text).unwrap();
        }
        let folder = folder.display();
        vec![("XDG_CONFIG_HOME".to_owned(), format!("{folder}/xdg")), ("HOME".to_owned(), folder.to_string())]
    };
    with_fresh_token_and(module, configuration, |fresh| {
        let token = open(&through(&fresh, &proxy), PinSource::uri()).unwrap();
        let examination = examine(&token);
        for &curve in curves {
            let held = generate(&token, curve).unwrap();
            let it = examination.algorithms.iter().find(|it| it.curve == curve).unwrap();
            assert_eq!(it.verdict, token.profile().verdict(curve), "{it:?}");
            if curve.supports_key_agreement() && curve != Curve::Secp256k1 {
                assert_eq!((held.custody, it.custody), (Some(custody), Some(custody)), "{curve}");
                agrees(&token, &held.public);
            }
            if held.usage.allows_signing() {
                signs(&token, &held.public);
            }
        }
        assert_eq!(token.keys().unwrap().len(), curves.len());
    });
}

#[test]
fn proxy_of_softhsm() {
    proxy(Module::SoftHsm, &Curve::ALL, Custody::KekInProcess);
}

#[test]
fn proxy_of_kryoptic() {
    proxy(Module::Kryoptic, &KRYOPTIC, Custody::KekInToken);
}

/// The command `p11-kit server` for the token. `P11_KIT_SERVER` names the program p11-kit-server of another version.
fn server(fresh: &FreshToken, socket: &Path) -> Command {
    fs::DirBuilder::new().mode(0o700).create(socket.parent().unwrap()).unwrap();
    let named = env::var_os("P11_KIT_SERVER");
    let mut command = Command::new(named.as_deref().unwrap_or("p11-kit".as_ref()));
    command.args(named.is_none().then_some("server")).args(["--foreground", "--provider"]).arg(&fresh.module);
    command.arg("--name").arg(socket).arg("pkcs11:token=demo");
    command
}

/// Through the remoting, each key does what passes, and what does not is refused as that, not called wrong.
fn remoting(module: Module, curves: &'static [Curve]) {
    let Some(client) = library("p11-kit-client.so") else { return };
    let address = |folder: &Path| {
        vec![("P11_KIT_SERVER_ADDRESS".to_owned(), format!("unix:path={}/remote/socket", folder.display()))]
    };
    with_fresh_token_and(module, address, |fresh| {
        let socket = fresh.folder.join("remote/socket");
        let _server = Server::start(server(&fresh, &socket), &socket);
        // Keys that the module itself has made, because the remoting never passes on the generation of 25519 keys.
        let own = open(&fresh.uri, PinSource::uri()).unwrap();
        let made: Vec<_> = curves.iter().map(|curve| generate(&own, *curve).unwrap()).collect();
        let token = open(&through(&fresh, &client), PinSource::uri()).unwrap();
        let served = token.keys().unwrap();
        // 0.24.1 passes on no CKM_ECDH1_DERIVE; since 0.25.0 it does.
        let passes_ecdh = served.iter().any(|held| held.custody.is_some());
        for held in &made {
            let curve = held.public.curve();
            let found = token.inventory().unwrap().into_iter().find(|it| it.public == held.public).unwrap();
            let agrees_here = passes_ecdh && held.usage.allows_key_agreement();
            let signs_here = curve != Curve::Ed25519 && held.usage.allows_signing();
            if agrees_here {
                agrees(&token, &held.public);
                assert_ne!(found.custody, Some(Custody::KekInToken), "CKM_AES_KEY_WRAP does not pass");
            }
            if signs_here {
                signs(&token, &held.public);
            }
            match (&found.refused, agrees_here || signs_here) {
                (None, true) => {}
                (Some(reason), false) => {
                    assert!(reason.contains("is refused") && reason.contains("CKR_MECHANISM_INVALID"), "{reason}");
                }
                other => panic!("{curve}: {other:?}"),
            }
        }
        let examination = examine(&token);
        for it in &examination.algorithms {
            let expected = match it.curve {
                Curve::P256 | Curve::P384 | Curve::P521 if passes_ecdh => Verdict::Authcrypt,
                Curve::P256 => Verdict::SignOnly,
                Curve::Secp256k1 if curves.contains(&it.curve) => Verdict::SignOnly,
                // Tested with the key in the token.
                Curve::X25519 if passes_ecdh => Verdict::Authcrypt,
                _ => Verdict::Unsupported,
            };
            assert_eq!(it.verdict, Some(expected), "{it:?}");
        }
        let new = generate(&token, Curve::P256);
        match passes_ecdh {
            true => agrees(&token, &new.unwrap().public),
            false => assert!(matches!(&new, Err(TokenError::Unsupported(_))), "{new:?}"),
        }
        let x25519 = generate(&token, Curve::X25519);
        assert!(matches!(&x25519, Err(TokenError::Unsupported(_))), "{x25519:?}");
    });
}

#[test]
fn remoting_of_softhsm() {
    remoting(Module::SoftHsm, &Curve::ALL);
}

#[test]
fn remoting_of_kryoptic() {
    remoting(Module::Kryoptic, &KRYOPTIC);
}
