//! The examination of a token.

use std::sync::Arc;

use claviger::{
    keys::Curve,
    secrets::{
        Custodian, HeldKey, Token, TokenError, UnpairedKey,
        pkcs11::{Examination, ExaminationStep, PinRecord, Pkcs11Token, TokenOverview},
    },
};

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{Out, Progress},
    tokens::open::{open_pkcs11, pkcs11_options},
};

/// A token that was examined.
pub struct ExaminedToken {
    pub name: String,
    /// The module and the token as they are without a login. `None` if the token is absent.
    pub overview: Option<TokenOverview>,
    /// The PIN guard's record.
    pub pin_record: Option<PinRecord>,
    /// The results of the examination, or why the token could not be opened.
    pub opened: Result<OpenedToken, Failure>,
}

/// The results that need a login.
pub struct OpenedToken {
    pub token: Arc<Pkcs11Token>,
    /// All keys, including those that are refused for use.
    pub inventory: Vec<HeldKey>,
    pub usable: Vec<HeldKey>,
    /// The private keys whose public halves are not known.
    pub unpaired: Vec<UnpairedKey>,
    pub examination: Examination,
}

impl ExaminedToken {
    /// Examines a token. If it is not ready, the result has what can be seen without a login. Fails if the
    /// configuration of the token is wrong.
    pub fn examine(config: &Config, token: &TokenConfig, out: &Out) -> Result<Self, Failure> {
        let name = token.name.clone();
        let options = pkcs11_options(config, token)?;
        let opened = open_pkcs11(config, token);
        // Read the overview after the login, which may have changed the state of the PIN.
        let overview = options.overview(&token.uri);
        let opened = match (opened, &overview) {
            (Err(failure), Err(TokenError::Config(_))) => return Err(failure),
            (Err(failure), _) => Err(failure),
            (Ok(opened), _) => OpenedToken::examine(opened, out).map_err(|error| Failure::from_token(&name, &error)),
        };
        let overview = overview.ok();
        // A record that cannot be read was already a failure to open the token.
        let pin_record = overview.as_ref().and_then(|overview| options.pin_record(&overview.token.info).ok()?);
        Ok(Self { name, overview, pin_record, opened })
    }
}

impl OpenedToken {
    fn examine(token: Arc<Pkcs11Token>, out: &Out) -> Result<Self, TokenError> {
        let progress = Progress::new(out);
        progress.show(&format!("{}: its keys", token.name()));
        let inventory = token.inventory()?;
        let usable = token.keys()?;
        let unpaired = token.unpaired_keys();
        let examination = token.examine(|curve, step| progress.show(&progress_line(token.name(), curve, step)))?;
        Ok(Self { token, inventory, usable, unpaired, examination })
    }

    /// Whether the number of objects in the token changed during the examination.
    pub fn has_changed(&self) -> bool {
        let (before, after) = self.examination.objects;
        before != after
    }

    /// The multikeys of the keys that are refused for use.
    pub fn refused_keys(&self) -> Vec<String> {
        let unused = self.inventory.iter().filter(|held| !self.usable.contains(held));
        unused.map(|held: &HeldKey| held.public.to_multikey()).collect()
    }
}

/// The present step of the examination.
fn progress_line(token: &str, curve: Curve, step: ExaminationStep) -> String {
    let does = match step {
        ExaminationStep::Key => "a key for the test",
        ExaminationStep::Sign => "signing",
        ExaminationStep::Agree => "key agreement",
        ExaminationStep::TimeSign => "time for a signature",
        ExaminationStep::TimeAnoncrypt => "time to open an anoncrypt",
        ExaminationStep::TimeAuthcrypt => "time to open an authcrypt",
    };
    let number = ExaminationStep::ALL.iter().position(|it| *it == step).map_or(0, |at| at + 1);
    format!("{token}: {curve}: {does} [{number}/{}]", ExaminationStep::ALL.len())
}
