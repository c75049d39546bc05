//! Tests through every token that can be had here: the software one, SoftHSM and Kryoptic.

/// A module of three tests for each name: `name => check`, where `check` takes a `&dyn Custodian` on an empty token and
/// panics if something is wrong with it.
macro_rules! through_every_token {
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
                through(crate::support::Module::SoftHsm);
            }

            #[cfg(feature = "pkcs11")]
            #[test]
            fn kryoptic() {
                through(crate::support::Module::Kryoptic);
            }

            #[cfg(feature = "pkcs11")]
            fn through(module: crate::support::Module) {
                use claviger::secrets::pkcs11::{PinSource, open};
                crate::support::on(module, |here| ($check)(&open(&here.uri, PinSource::uri()).expect("a token")));
            }
        }
    )*};
}
