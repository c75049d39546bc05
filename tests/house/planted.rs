//! Planted violations: each rule finds each kind, and nothing else.

use std::fs;

use crate::{
    rules::{self, Absence, Word},
    source::Source,
};

/// Writes these files into a source folder, and reads it.
fn plant(files: &[(&str, &str)]) -> Source {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Source::read(folder.path())
}

#[track_caller]
fn assert_found(violations: &[String], words: &[&str], text: &str) {
    assert_eq!(violations.len(), 1, "{text}: {violations:#?}");
    for word in words {
        assert!(violations[0].contains(word), "{text}: {violations:#?}");
    }
}

mod layers {
    use super::*;

    const LIB: &str = "pub mod keys; pub mod secrets; pub mod did; pub mod agent;";

    fn violations(keys: &str) -> Vec<String> {
        let source = plant(&[
            ("lib.rs", LIB),
            ("keys/mod.rs", "pub mod jwk; pub struct Key;"),
            ("keys/jwk.rs", keys),
            ("secrets/mod.rs", "pub use crate::keys::Key as Held; pub struct Token;"),
            ("did/mod.rs", "pub struct Did;"),
            (
                "agent/mod.rs",
                "mod seal; pub use seal::Seal; pub use crate::keys::Key; pub mod store { pub struct Store; }",
            ),
            ("agent/seal.rs", "pub struct Seal; pub fn seal() {}"),
        ]);
        check(&source)
    }

    fn check(source: &Source) -> Vec<String> {
        rules::upward_imports(source, &["keys", "secrets", "did", "agent"], &[("did", "secrets")])
    }

    #[test]
    fn an_upward_import_is_found_in_every_spelling() {
        for text in [
            "use crate::agent::Seal;",
            "use crate::{agent::Seal, keys::Key};",
            "use crate::{keys::Key, agent::{store::{Store}}};",
            "use super::super::agent::Seal;",
            "use crate::agent::*;",
            "use crate::agent::Seal as _;",
            "use crate::agent::{self};",
            "use crate::agent;",
            "pub use crate::agent::Seal;",
            "use crate::agent::Key;",
            "fn a() -> crate::agent::Seal { todo!() }",
            "fn a() { crate::agent::made_by_a_macro(); }",
            "fn a() { super::super::agent::store::Store; }",
            "fn a() { use crate::agent::Seal; }",
            "fn a() { println!(\"{}\", crate::agent::NUMBER); }",
            "fn a() { if true { vec![f(crate::agent::Seal)]; } }",
            "macro_rules! a { () => { $crate::agent::Seal }; }",
            "mod inner { use crate::{agent::Seal}; }",
            "#[derive(Serialize)] struct A { #[serde(with = \"crate::agent::seal\")] a: u8 }",
            "impl crate::agent::Seal for u8 {}",
        ] {
            assert_found(&violations(text), &["keys/jwk.rs:1", "`keys` uses `agent`"], text);
        }
    }

    #[test]
    fn other_names_are_no_upward_import() {
        for text in [
            "use super::Key; use crate::keys::{self, Key as K};",
            "// crate::agent::Seal\n/// [`crate::agent::Seal`]\nfn a() { \"crate::agent::Seal\"; }",
            "use other::agent::Seal; fn a() { ::agent::Seal; let agent = 1; agent.store(); }",
            "#[cfg(test)] mod tests { use crate::agent::Seal; }",
            "#[cfg(all(test, feature = \"agent\"))] mod tests { use crate::agent::Seal; }",
        ] {
            assert_eq!(violations(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn neighbours_and_unknown_modules_are_found() {
        let source = plant(&[
            ("lib.rs", "mod secrets; mod did;"),
            ("secrets.rs", "pub struct Token;"),
            ("did.rs", "use crate::{secrets::Token};"),
        ]);
        assert_found(&check(&source), &["`did` uses `secrets`"], "neighbours");
        let source = plant(&[("lib.rs", "mod bridge;"), ("bridge.rs", "")]);
        assert_found(&check(&source), &["bridge.rs", "in no layer"], "unknown");
    }

    #[test]
    fn the_program_uses_the_library_and_not_the_reverse() {
        let source = plant(&[
            ("lib.rs", "pub mod keys;"),
            ("keys.rs", ""),
            ("main.rs", "mod agent; fn main() {}"),
            ("agent.rs", "use claviger::keys;"),
        ]);
        assert_eq!(check(&source), [""; 0]);
    }
}

mod circles {
    use super::*;

    fn violations(files: &[(&str, &str)]) -> Vec<String> {
        rules::circles(&plant(files))
    }

    #[test]
    fn two_files_that_use_each_other_are_found_in_every_spelling() {
        for text in [
            "use super::b::B;",
            "use crate::b::B;",
            "use crate::{b::{B}, a::{self}};",
            "use crate::b::*; fn a() -> B { todo!() }",
            "use crate::b::B as _;",
            "use crate::B;",
            "use super::*; fn a() -> B { todo!() }",
            "use crate::b; fn a() { b::B; }",
            "fn a() { crate::b::B; }",
            "fn a() { assert!(super::b::B == 1); }",
            "#[derive(Deserialize)] struct S { #[serde(default = \"crate::b::B\")] s: u8 }",
        ] {
            let files = [
                ("lib.rs", "mod a; mod b; pub use b::B;"),
                ("a.rs", &format!("{text} pub struct A;")),
                ("b.rs", "use crate::a::A; pub struct B;"),
            ];
            assert_found(&violations(&files), &["a.rs -> b.rs -> a.rs", "a.rs:1", "b.rs:1"], text);
        }
    }

    #[test]
    fn a_macro_of_a_parent_is_a_use_of_it() {
        let found = violations(&[
            ("lib.rs", "macro_rules! make { () => { crate::b::B } } mod a; mod b;"),
            ("a.rs", "pub struct A;"),
            ("b.rs", "use crate::a::A; pub struct B; fn b() { make!(); }"),
        ]);
        assert_found(&found, &["b.rs -> lib.rs -> b.rs"], "a macro");
    }

    #[test]
    fn a_longer_ring_is_found() {
        let found = violations(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "use crate::{a::A, d::D}; pub struct C;"),
            ("d.rs", "pub struct D;"),
        ]);
        assert_found(&found, &["a.rs -> b.rs -> c.rs -> a.rs", "c.rs:1: crate::a::A"], "a ring of three");
    }

    #[test]
    fn a_child_that_uses_its_parents_item_is_found_if_the_parent_uses_the_child() {
        let child = ("p/child.rs", "use super::Shared; pub fn run(_: &Shared) {}");
        let found = violations(&[
            ("lib.rs", "mod p;"),
            ("p/mod.rs", "mod child; pub struct Shared; pub fn run() { child::run(&Shared) }"),
            child,
        ]);
        assert_found(&found, &["p/child.rs -> p/mod.rs -> p/child.rs"], "by a path");
        let found = violations(&[
            ("lib.rs", "mod p;"),
            ("p/mod.rs", "mod child; pub use child::run; pub struct Shared; pub fn start() { run(&Shared) }"),
            child,
        ]);
        assert_found(&found, &["p/child.rs -> p/mod.rs -> p/child.rs"], "by a name that is re-exported too");
    }

    #[test]
    fn other_uses_are_no_circle() {
        for files in [
            // A parent that only declares its children.
            &[
                ("lib.rs", "mod p;"),
                ("p/mod.rs", "mod child; pub use child::run; pub struct Shared;"),
                ("p/child.rs", "use super::Shared; pub fn run(_: &Shared) {}"),
            ][..],
            // A re-export is followed to the file that defines the item.
            &[
                ("lib.rs", "mod p;"),
                ("p/mod.rs", "mod a; mod b; pub use a::A; use b::B; fn f() { B; }"),
                ("p/a.rs", "pub struct A;"),
                ("p/b.rs", "use super::A; use crate::p::A as Again; pub struct B;"),
            ],
            // A use in unit tests only.
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", "use crate::b::B; pub struct A;"),
                ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
            ],
            // An inline module and its file.
            &[("lib.rs", "mod a { use super::B; pub struct A; } pub struct B; use a::A;")],
        ] {
            assert_eq!(violations(files), [""; 0], "{files:?}");
        }
    }
}

mod files {
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        let source = plant(&[("lib.rs", &"//\n".repeat(500)), ("a/b.rs", &"//\n".repeat(501))]);
        assert_found(&rules::long_files(&source, 500), &["a/b.rs: 501 lines"], "501");
    }

    #[test]
    fn a_file_that_no_module_declares_is_found() {
        let source = plant(&[
            ("lib.rs", "mod a; #[cfg(test)] mod testing;"),
            ("a.rs", ""),
            ("testing.rs", ""),
            ("left.rs", "use crate::a::A;"),
        ]);
        assert_found(&rules::undeclared_files(&source), &["left.rs"], "undeclared");
    }
}

mod absences {
    use super::*;

    fn violations(text: &str) -> Vec<String> {
        let source = plant(&[("lib.rs", text), ("secrets/raw.rs", "use cryptoki::C; unsafe fn f() { SigningKey }")]);
        let words = [Word::Crate("cryptoki"), Word::Tokens("unsafe"), Word::Tokens("SigningKey"), Word::Tokens("S::f")];
        rules::present(&source, &Absence { words: &words, except: &["secrets/"] })
    }

    #[test]
    fn a_word_is_found_in_every_spelling() {
        for text in [
            "use cryptoki::Session;",
            "use ::cryptoki::Session;",
            "use {std::fs, cryptoki::Session};",
            "use cryptoki as c;",
            "fn f(s: &cryptoki::Session) {}",
            "fn f() { format!(\"{}\", cryptoki::VERSION); }",
            "fn f() { unsafe { g() } }",
            "use ed25519_dalek::{Signature, SigningKey as Other};",
            "fn f() { S :: f() }",
            "mod inner { fn f() { vec![SigningKey] } }",
        ] {
            assert_found(&violations(text), &["lib.rs"], text);
        }
    }

    #[test]
    fn comments_strings_and_other_names_are_ignored() {
        for text in [
            "// cryptoki::Session, unsafe\n/// SigningKey\nfn f() { \"unsafe\"; }",
            "fn f(cryptoki: u8) { cryptoki.x(); self::cryptoki(); }",
            "#![deny(unsafe_code)] struct MySigningKey; fn f() { S::g() }",
            "#[cfg(test)] mod tests { use cryptoki::Session; }",
        ] {
            assert_eq!(violations(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_exception_that_is_not_needed_is_found() {
        let source = plant(&[("lib.rs", ""), ("a.rs", "unsafe fn f() {}")]);
        let except = &["a.rs", "gone.rs"];
        let found = rules::present(&source, &Absence { words: &[Word::Tokens("unsafe")], except });
        assert_found(&found, &["gone.rs"], "an exception");
    }

    #[test]
    fn a_derived_debug_and_a_missing_type_are_found() {
        let check = |text: &str| rules::derived_debug(&plant(&[("lib.rs", text)]), &["Cek"]);
        assert_found(&check("#[derive(Clone,\n    Debug)] pub struct Cek(u8);"), &["Cek derives Debug"], "derived");
        assert_found(&check("#[cfg_attr(a, derive(Debug))] pub struct Cek(u8);"), &["Cek derives Debug"], "cfg_attr");
        assert_found(&check("#[derive(Debug)] pub struct Other;"), &["no type Cek"], "missing");
        assert_eq!(check("#[derive(Clone)] pub struct Cek(u8);"), [""; 0]);
    }
}
