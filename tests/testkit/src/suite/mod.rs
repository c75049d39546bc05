//! What every token must do, as checks that any test runner can call.
//!
//! [`token_suite!`](crate::token_suite) makes a `#[test]` of each check. Another test runner calls [`run`], or the
//! functions of [`CHECKS`] one by one. A check makes its own keys and deletes them, does not touch other keys, and
//! panics if it fails. So checks may run at the same time, and on a token in use.

pub mod agreement;
pub mod concurrency;
pub mod keys;
pub mod signing;
mod temporary;

use claviger::{
    keys::Curve,
    secrets::{Custodian, Custody},
};

/// What a token can do. A token must refuse what it lacks as unsupported.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// The curves that the token lacks.
    pub lacks: Vec<Curve>,
    /// Whether keys can be imported.
    pub imports: bool,
    /// Whether the token distinguishes generated from imported keys.
    pub tells_origin: bool,
    /// The longest input that the token signs with Ed25519, in bytes.
    pub longest_eddsa: Option<usize>,
    /// The custody that every key for key agreement must have, if that is known.
    pub custody: Option<Custody>,
}

impl Default for Capabilities {
    /// A token that can do everything.
    fn default() -> Self {
        Self { lacks: Vec::new(), imports: true, tells_origin: true, longest_eddsa: None, custody: None }
    }
}

impl Capabilities {
    /// A token that can do everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// These capabilities without a curve.
    pub fn without(mut self, curve: Curve) -> Self {
        self.lacks.push(curve);
        self
    }

    /// These capabilities with an expected custody.
    pub fn with_custody(mut self, custody: Custody) -> Self {
        self.custody = Some(custody);
        self
    }

    /// The token's curves.
    pub fn curves(&self) -> impl Iterator<Item = Curve> {
        Curve::ALL.into_iter().filter(|curve| !self.lacks.contains(curve))
    }

    /// The token's curves with key agreement.
    pub fn agreeing(&self) -> impl Iterator<Item = Curve> {
        self.curves().filter(|curve| curve.supports_key_agreement())
    }

    /// The token's curves with signatures.
    pub fn signing(&self) -> impl Iterator<Item = Curve> {
        self.curves().filter(|curve| curve.signature_algorithm().is_some())
    }
}

/// One check of a token.
pub struct Check {
    /// The name of the check's function, and of the test that [`token_suite!`](crate::token_suite) makes.
    pub name: &'static str,
    /// Runs the check. Panics if it fails.
    pub run: fn(&dyn Custodian, &Capabilities),
}

/// Runs all checks, one after the other.
pub fn run(token: &dyn Custodian, capabilities: &Capabilities) {
    for check in CHECKS {
        eprintln!("{}: {}", token.name(), check.name);
        (check.run)(token, capabilities);
    }
}

/// Makes the table and the macro `token_suite!` from one list.
macro_rules! checks {
    ($($module:ident::$name:ident,)*) => {
        /// All checks.
        pub const CHECKS: &[Check] =
            &[$(Check { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name }),*];

        /// A `#[test]` for each check of a token: `token_suite!(open)`, `token_suite!(open, capabilities)` or
        /// `token_suite!(open, capabilities, reopen)`.
        ///
        /// `open` is an expression for a [`Custodian`](claviger::secrets::Custodian), evaluated in each test; for a
        /// token behind a pointer, write `*pointer`. `capabilities` is an expression for `suite::Capabilities`; the
        /// default is everything. `reopen` is a closure that opens the same token again, for tokens that keep keys when
        /// they are closed. Call the macro at most once in a Rust module.
        ///
        /// ```
        /// claviger_testkit::token_suite!(claviger_testkit::SoftToken::new("under test"));
        /// # fn main() {}
        /// ```
        #[macro_export]
        macro_rules! token_suite {
            ($open:expr) => {
                $crate::token_suite!($open, $crate::suite::Capabilities::all());
            };
            ($open:expr, $capabilities:expr) => {$(
                #[test]
                fn $name() {
                    $crate::suite::$module::$name(&$open, &$capabilities);
                }
            )*};
            ($open:expr, $capabilities:expr, $reopen:expr) => {
                $crate::token_suite!($open, $capabilities);

                #[test]
                fn keys_are_the_same_when_opened_again() {
                    $crate::suite::keys::are_the_same_when_opened_again(&$open, &$capabilities, $reopen);
                }
            };
        }
    };
}

checks! {
    keys::are_made_on_every_curve,
    keys::of_a_curve_that_is_lacking_are_refused,
    keys::for_a_use_that_does_not_fit_are_refused,
    keys::do_only_what_they_were_made_for,
    keys::keep_their_labels,
    keys::are_imported_on_every_curve,
    keys::are_imported_with_leading_zeros,
    keys::of_two_halves_that_do_not_match_leave_nothing,
    keys::of_no_curve_leave_nothing,
    keys::imported_twice_are_deleted_once,
    keys::deleted_are_gone_and_no_others,
    keys::not_held_are_gone,
    agreement::unwraps_ecdh_es,
    agreement::unwraps_ecdh_1pu,
    agreement::unwraps_from_one_sender_again_and_again,
    agreement::unwraps_with_any_party_info,
    agreement::unwraps_where_z_begins_with_zero,
    agreement::refuses_what_was_changed,
    agreement::refuses_what_is_for_another,
    agreement::refuses_a_wrapped_key_of_no_length,
    agreement::wraps_for_one_to_twenty,
    agreement::wraps_for_the_same_recipient_twice,
    agreement::wraps_for_nobody,
    agreement::wraps_and_unwraps_to_itself,
    signing::verifies,
    signing::refuses_an_input_that_is_too_long,
    signing::gives_ed25519_signatures_that_are_those_of_rfc_8032,
    signing::gives_64_bytes_though_r_or_s_is_short,
    signing::gives_a_low_s_on_secp256k1,
    concurrency::keys_serve_many_threads,
    concurrency::keys_come_and_go_while_others_work,
}
