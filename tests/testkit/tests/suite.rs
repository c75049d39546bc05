//! Runs the suite on the software token: a mistake in either makes a test fail.

mod plain {
    use claviger_testkit::{SoftToken, suite::Capabilities, token_suite};

    token_suite!(SoftToken::new("plain"), Capabilities::all());
}

mod keeping_zs {
    use claviger::secrets::Custody;
    use claviger_testkit::{SoftToken, suite::Capabilities, token_suite};

    /// A cache so small that it overflows.
    fn open() -> SoftToken {
        SoftToken::new("keeping zs").keeping_zs(3).reporting_custody(Custody::KekInToken)
    }

    token_suite!(open(), Capabilities::all().with_custody(Custody::KekInToken));
}

/// A token that all checks share at the same time, like a hardware token.
mod shared {
    use std::sync::{Arc, LazyLock};

    use claviger_testkit::{SoftToken, suite::Capabilities, token_suite};

    static TOKEN: LazyLock<Arc<SoftToken>> = LazyLock::new(|| Arc::new(SoftToken::new("shared").keeping_zs(100)));

    token_suite!(**TOKEN, Capabilities::all(), || (**TOKEN).clone());
}

#[test]
fn run_performs_all_checks_and_leaves_no_key() {
    use claviger::{keys::Curve, secrets::Token};
    use claviger_testkit::{SoftToken, suite};

    // Fewer curves, for speed.
    let lacks = [Curve::Secp256k1, Curve::P384, Curve::P521];
    let token = lacks.into_iter().fold(SoftToken::new("run"), SoftToken::lacking);
    let capabilities = lacks.into_iter().fold(suite::Capabilities::all(), suite::Capabilities::without);
    suite::run(&token, &capabilities);
    assert_eq!(token.keys(), Ok(Vec::new()));
    let counts = token.counts();
    assert!(counts.derivations > 0 && counts.signatures > 0 && counts.unwraps > 0 && counts.wraps > 0, "{counts:?}");
}
