//! C_GetInterface: never needed, and so never asked. The modules of this test are compiled here, and pass C_GetFunctionList
//! on to SoftHSM.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use claviger::{
    keys::Curve,
    secrets::{
        Custodian, KeyUse, NewKey, Purpose, Token,
        pkcs11::{PinSource, open},
    },
};

use crate::support::{FreshToken, Module, with_fresh_token};

const MODULE: &str = r#"
#include <dlfcn.h>
#include <stdlib.h>
unsigned long C_GetFunctionList(void **list) {
    void *real = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    unsigned long (*get)(void **) = (unsigned long (*)(void **))dlsym(real, "C_GetFunctionList");
    return get ? get(list) : 5;
}
"#;
/// Thales Luna 10.5 with older firmware: CKR_FUNCTION_NOT_SUPPORTED.
const REFUSES: &str = "unsigned long C_GetInterface(void *a, void *b, void **c, unsigned long d) { return 0x54; }";
/// An interface of a module that is not the configured one: version 3.0, and no function.
const ANOTHER: &str = r#"
static struct { unsigned char major, minor; void *functions[92]; } list = {3, 0};
static struct { const char *name; void *list; unsigned long flags; } interface = {"PKCS 11", &list, 0};
unsigned long C_GetInterface(void *a, void *b, void **c, unsigned long d) { *c = &interface; return 0; }
"#;

/// Compiles a library.
fn compile(folder: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let (code, library) = (folder.join(format!("{name}.c")), folder.join(format!("lib{name}.so")));
    fs::write(&code, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).args(arguments).arg("-ldl");
    assert!(compiler.status().expect("a C compiler is installed").success(), "{name}");
    library
}

/// The token behind another module is found, logged in to and used.
fn is_used_through(fresh: &FreshToken, module: &Path) {
    let uri = fresh.uri.replace(&fresh.module.display().to_string(), &module.display().to_string());
    assert_ne!(uri, fresh.uri);
    let token = open(&uri, PinSource::uri()).unwrap();
    let key = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }).unwrap().public;
    let signature = token.sign(&key, b"input", &Purpose::KeyTest).unwrap();
    claviger::crypto::verify(&key, b"input", &signature).unwrap();
    assert!(token.keys().unwrap().iter().any(|held| held.public == key));
}

fn real(fresh: &FreshToken) -> String {
    format!("-DREAL=\"{}\"", fresh.module.display())
}

#[test]
fn a_module_whose_get_interface_fails_is_used() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let source = format!("{MODULE}\n{REFUSES}");
        is_used_through(&fresh, &compile(&fresh.folder, "refuses", &source, &[&real(&fresh)]));
    });
}

/// The module has no C_GetInterface, and dlsym finds the one of a library that the module depends on.
#[test]
fn an_interface_of_a_dependency_is_not_mixed_in() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        compile(&fresh.folder, "dependency", ANOTHER, &[]);
        let (folder, here) = (fresh.folder.display(), real(&fresh));
        let (search, run) = (format!("-L{folder}"), format!("-Wl,-rpath,{folder}"));
        let arguments = [&*here, &search, &run, "-Wl,--no-as-needed", "-ldependency"];
        is_used_through(&fresh, &compile(&fresh.folder, "depends", MODULE, &arguments));
    });
}
