//! The suite over the software token: both are right, or this fails.

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

/// A token that is shared by all checks at once, as one of hardware is.
mod shared {
    use std::sync::{Arc, LazyLock};

    use claviger_testkit::{SoftToken, suite::Capabilities, token_suite};

    static TOKEN: LazyLock<Arc<SoftToken>> = LazyLock::new(|| Arc::new(SoftToken::new("shared").keeping_zs(100)));

    token_suite!(**TOKEN, Capabilities::all(), || (**TOKEN).clone());
}

#[test]
fn run_runs_them_all_and_leaves_nothing() {
    use claviger::{keys::Curve, secrets::Token};
    use claviger_testkit::{SoftToken, suite};

    // Like Kryoptic, and faster than all curves once more.
    let lacks = [Curve::Secp256k1, Curve::P384, Curve::P521];
    let token = lacks.into_iter().fold(SoftToken::new("run"), SoftToken::lacking);
    let capabilities = lacks.into_iter().fold(suite::Capabilities::all(), suite::Capabilities::without);
    suite::run(&token, &capabilities);
    assert_eq!(token.keys(), Ok(Vec::new()));
    let counts = token.counts();
    assert!(counts.derivations > 0 && counts.signatures > 0 && counts.unwraps > 0 && counts.wraps > 0, "{counts:?}");
}
