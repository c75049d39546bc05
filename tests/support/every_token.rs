//! Tests that run on the software token, SoftHSM and Kryoptic.

/// Makes a module with three tests for each `name => check`. `check` takes an empty token as `&dyn Custodian`, and
/// panics on a failure.
macro_rules! for_every_token {
    ($($name:ident => $check:expr,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn software() {
                ($check)(&claviger_testkit::SoftToken::new("software"));
            }

            #[cfg(feature = "pkcs11")]
            #[test]
            fn softhsm() {
                run(crate::support::Module::SoftHsm);
            }

            #[cfg(feature = "pkcs11")]
            #[test]
            fn kryoptic() {
                run(crate::support::Module::Kryoptic);
            }

            #[cfg(feature = "pkcs11")]
            fn run(module: crate::support::Module) {
                use claviger::secrets::pkcs11::{PinSource, open};
                crate::support::with_fresh_token(module, |fresh| ($check)(&open(&fresh.uri, PinSource::uri()).expect("a token")));
            }
        }
    )*};
}
