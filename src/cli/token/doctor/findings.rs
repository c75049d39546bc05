//! The findings of `token doctor`. docs/cli.md lists the IDs, and a test compares the list.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use claviger::{
    keys::Curve,
    secrets::{
        Custody, HeldKey, Origin, Token,
        pkcs11::{
            Answer, CurveExamination, EvidenceBasis, PinLocation, ProfileSource, TestKey, TokenOverview, Verdict,
        },
    },
};

use super::{
    examination::{ExaminedToken, OpenedToken},
    machine::Machine,
};
use crate::cli::{config::TokenConfig, output::count, token::pin_problem::PinProblem};

/// A finding about a token, its PIN, its keys or this machine.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The ID for programs, in kebab-case.
    pub id: &'static str,
    pub level: Level,
    /// The algorithms, keys or measures that the finding is about. Empty if the finding is about the token.
    pub about: Vec<String>,
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// The severity of a finding, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Bad,
    Warning,
    Note,
    Good,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Bad, Self::Warning, Self::Note, Self::Good];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Bad => "Bad",
            Level::Warning => "Warning",
            Level::Note => "Note",
            Level::Good => "Good",
        })
    }
}

/// An operation that takes longer than this is reported as slow.
const SLOW: Duration = Duration::from_millis(50);

/// Returns all findings, in the order of the checks.
pub fn findings(token: &ExaminedToken, configured: &TokenConfig, machine: &Machine) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    if let Some(overview) = &token.overview {
        found.pin(token, overview);
        found.uri(overview);
        found.profile(overview);
    }
    if let (Ok(opened), Some(overview)) = (&token.opened, &token.overview) {
        found.token(opened, overview);
        found.remoting(opened, overview);
        found.algorithms(opened, overview);
        let algorithms = opened.examination.algorithms.iter();
        let reached = algorithms.filter(|it| it.verdict == Some(Verdict::Authcrypt));
        let reached: Vec<_> = reached.filter_map(|it| Some((it.curve, it.custody?))).collect();
        found.custody(&reached, configured.policy().minimum_custody);
        found.keys(opened);
        found.keys_that_fail(opened);
    }
    found.machine(machine);
    found.0
}

/// Collects the findings of the checks.
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub fn add(&mut self, id: &'static str, level: Level, message: impl Into<String>) -> &mut Finding {
        self.0.push(Finding { id, level, about: Vec::new(), message: message.into(), hint: None });
        self.0.last_mut().expect("it was pushed")
    }

    fn pin(&mut self, token: &ExaminedToken, overview: &TokenOverview) {
        let (state, record) = (overview.token.pin, token.pin_record.as_ref());
        let when_locked = overview.profile.new_pin(&overview.module.to_string_lossy(), &overview.token.info.label);
        self.pin_problem(PinProblem::find(&token.name, state, record, token.opened.is_ok(), &when_locked));
        match &overview.pin_location {
            PinLocation::File { path, others_may_read: true } => {
                let path = path.display();
                self.add(
                    "pin-file-readable",
                    Level::Warning,
                    format!("other users than its owner may read the PIN's file {path}"),
                )
                .hint(format!("chmod 600 {path}"));
            }
            PinLocation::Uri => {
                self.add("pin-in-uri", Level::Warning, "the PIN is in the token's URI, which is not kept secret")
                    .hint("write the PIN to a file, and name the file with pin-source=file:PATH");
            }
            _ => {}
        }
    }

    pub fn pin_problem(&mut self, problem: Option<PinProblem>) {
        let Some(problem) = problem else { return };
        let id = match problem.word {
            "LOCKED" => "pin-locked",
            "LOCKED-HERE" => "pin-locked-here",
            "REFUSED" => "pin-refused",
            "UNFINISHED" => "pin-unfinished",
            "FINAL-TRY" => "pin-final-try",
            _ => "pin-count-low",
        };
        self.add(id, Level::Bad, problem.message).hint(problem.hint);
    }

    fn uri(&mut self, overview: &TokenOverview) {
        if !overview.unused_attributes.is_empty() {
            let message = "these attributes of the token's URI have no effect: RFC 7512 does not define them";
            let finding = self.add("uri-attributes-unused", Level::Note, message);
            finding.about.clone_from(&overview.unused_attributes);
            finding.hint("take them out, or correct their names");
        }
    }

    /// p11-kit's remoting passes on only mechanisms that it knows (p11-kit, `rpc-message.c`, up to 0.26.4).
    fn remoting(&mut self, opened: &OpenedToken, overview: &TokenOverview) {
        if overview.module.file_stem().is_none_or(|stem| stem != "p11-kit-client") {
            return;
        }
        let agrees = opened.examination.algorithms.iter().any(|it| it.custody.is_some());
        let level = if agrees { Level::Note } else { Level::Warning };
        let message = "the token is reached through p11-kit's remoting, which hides mechanisms of the token: \
                       CKM_ECDH1_DERIVE and CKM_SHA256_KEY_DERIVATION before 0.25.0; and in every version up to 0.26.4 \
                       CKM_EDDSA, CKM_AES_KEY_WRAP, CKM_CONCATENATE_* and the generation of X25519 and Ed25519 keys";
        self.add("remoting-hides", level, message).hint(
            "p11-kit 0.25.0 or later at both ends passes on authcrypt with P-256, P-384 and P-521, and with X25519 keys \
             that were made without the remoting; `claviger token doctor` at the token's own machine shows the rest",
        );
    }

    fn profile(&mut self, overview: &TokenOverview) {
        let (name, device) = (overview.profile.name(), overview.profile.device());
        if overview.profile_source == ProfileSource::Unknown {
            let message = "no profile matches this device: each mechanism is tried, which takes longer at the start";
            self.add("profile-unknown", Level::Note, message)
                .hint("docs/devices.md says how to write a profile with the results of this test");
        } else if let Some((EvidenceBasis::Documented, version)) = overview.profile.basis() {
            let message = format!(
                "the profile {name} of {device} was written from documentation ({version}), and never measured"
            );
            self.add("profile-not-measured", Level::Note, message)
                .hint("please send the results of this test to the project");
        }
    }

    fn token(&mut self, opened: &OpenedToken, overview: &TokenOverview) {
        let used = opened.token.concurrency() as u64;
        if let Some(most) = overview.most_sessions.filter(|most| *most < used) {
            let message =
                format!("{used} operations may run at once, and the token allows {}", count(most as usize, "session"));
            self.add("too-many-sessions", Level::Warning, message)
                .hint(format!("set sessions = {most} in the [[token]], or less"));
        }
        let (before, after) = opened.examination.objects;
        if before != after {
            let message = format!(
                "the token holds {after} objects, and held {before} before the test, which makes and deletes none"
            );
            self.add("objects-changed", Level::Bad, message)
                .hint("another program may use the token; if not, ask its manufacturer");
        }
        // Of a token that has none of the algorithms, the verdicts say all.
        let is_open = |it: &CurveExamination| it.verdict != Some(Verdict::Unsupported);
        if !opened.examination.session_keys && opened.examination.algorithms.iter().any(is_open) {
            let message = "the token makes no session keys: it was tested with the keys that it holds";
            self.add("no-session-keys", Level::Note, message)
                .hint("`claviger key generate` makes a key for an algorithm that was not tested");
        }
    }

    fn algorithms(&mut self, opened: &OpenedToken, overview: &TokenOverview) {
        let algorithms = &opened.examination.algorithms;
        for it in algorithms {
            self.answers(it);
            let longest = [it.authcrypt_time.or(it.anoncrypt_time), it.sign_time].into_iter().flatten().max();
            if let Some(took) = longest.filter(|took| *took > SLOW) {
                let (millis, sessions) = (took.as_millis(), opened.token.concurrency());
                let a_second = sessions as f64 / took.as_secs_f64();
                let message = format!(
                    "one operation takes {millis} ms: expect {a_second:.0} messages a second with {}",
                    count(sessions, "session")
                );
                self.add("slow", Level::Warning, message)
                    .about(it.curve)
                    .hint("`sessions` in the [[token]] runs several at once, if the device gains from that");
            }
            if let (Some(verdict), Some(expected)) = (it.verdict, overview.profile.verdict(it.curve))
                && verdict != expected
                && !matches!(it.test_key, TestKey::Held(_))
            {
                let (id, level) = match verdict < expected {
                    true => ("verdict-worse", Level::Warning),
                    false => ("verdict-better", Level::Note),
                };
                let (name, version) =
                    (overview.profile.name(), overview.profile.basis().map_or("", |(_, version)| version));
                let message = format!("the verdict is {verdict}, and the profile {name} says {expected} for {version}");
                self.add(id, level, message)
                    .about(it.curve)
                    .hint("the version or a policy of the token differs: the result of this test counts");
            }
        }
        let x25519 = algorithms.iter().find(|it| it.curve == Curve::X25519).and_then(|it| it.verdict);
        if x25519.is_some_and(|verdict| verdict < Verdict::Authcrypt) {
            self.no_x25519();
        }
    }

    pub fn no_x25519(&mut self) {
        let message =
            "the token has no X25519: authcrypt to peers whose documents have X25519 keys only is not possible";
        self.add("no-x25519", Level::Warning, message)
            .about(Curve::X25519)
            .hint("make DIDs with P-256, which every DIDComm v2 agent must support; anoncrypt to such peers works");
    }

    /// Reports wrong answers, and differences between the mechanisms that work and those that the token lists.
    fn answers(&mut self, it: &CurveExamination) {
        let mut reported = Vec::new();
        for wrong in it.tests.iter().filter(|tried| tried.answer == Answer::Wrong) {
            if !reported.contains(&wrong.custody) {
                reported.push(wrong.custody);
                self.wrong_answer(it.curve, wrong.custody);
            }
        }
        for mechanism in &it.mechanisms {
            let name = mechanism.name;
            match (mechanism.listed, mechanism.works) {
                (true, false) => {
                    let why = it.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                    self.add(
                        "mechanism-fails",
                        Level::Warning,
                        format!("the token lists {name}, which does not work{why}"),
                    )
                    .about(it.curve)
                    .hint("a policy of the token may forbid it, or it requires a KDF that JOSE does not have");
                }
                (false, true) => {
                    self.add(
                        "mechanism-unlisted",
                        Level::Note,
                        format!("{name} works, although the token does not list it"),
                    )
                    .about(it.curve);
                }
                _ => {}
            }
        }
        if it.verdict == Some(Verdict::Anoncrypt) {
            let message =
                "the token does ECDH-ES and not ECDH-1PU: its keys open anoncrypt only, and enter no DID document";
            self.add("anoncrypt-only", Level::Bad, message).about(it.curve).hint("use another curve");
        }
        if it.signs == Some(false) && it.verdict == Some(Verdict::Authcrypt) {
            self.add("does-not-sign", Level::Warning, "the token does key agreement and does not sign")
                .about(it.curve)
                .hint("sign with Ed25519; a did:key on P-256 needs both");
        }
    }

    /// A result of a key agreement with this custody, or of a signature.
    pub fn wrong_answer(&mut self, curve: Curve, custody: Option<Custody>) {
        let what = custody.map_or("signed".to_owned(), |custody| format!("did a key agreement ({custody})"));
        let message = format!("the token {what} without an error, and the result was wrong");
        self.add("wrong-answer", Level::Bad, message)
            .about(curve)
            .hint("claviger does not use it; look for a newer firmware or module, and tell the manufacturer");
    }

    /// The custody that key agreement on each curve reaches.
    pub fn custody(&mut self, reached: &[(Curve, Custody)], minimum: Option<Custody>) {
        for custody in Custody::ALL {
            let on = reached.iter().filter(|(_, reached)| *reached == custody);
            let about: Vec<_> = on.map(|(curve, _)| curve.to_string()).collect();
            if about.is_empty() {
                continue;
            }
            let (level, means) = match custody {
                Custody::KekInToken => (Level::Good, "only the content key of a message leaves the token"),
                Custody::KekInProcess => (
                    Level::Good,
                    "the shared secret stays in the token; the key-encryption key of one message leaves it, to the \
                     keeper",
                ),
                Custody::SharedSecretInProcess => (
                    Level::Note,
                    "the shared secret of each message leaves the token, to the keeper, which wipes it: whoever reads \
                     the keeper's memory at that time can forge messages of that sender to us",
                ),
            };
            let finding = self.add("custody", level, format!("{custody}: {means}"));
            finding.about = about.clone();
            if custody == Custody::SharedSecretInProcess {
                finding.hint("run the keeper as its own user (docs/custody.md)");
            }
            if let Some(minimum) = minimum.filter(|minimum| custody < *minimum) {
                let message = format!(
                    "minimum_custody is {minimum}, and the token reaches {custody}: its keys are refused at start"
                );
                let finding = self.add("custody-below-minimum", Level::Bad, message);
                finding.about = about;
                finding.hint("use another token, or lower minimum_custody if you accept that");
            }
        }
    }

    fn keys(&mut self, opened: &OpenedToken) {
        let unused = |held: &&HeldKey| !opened.usable.contains(held);
        let mut add_for_keys = |id, level, message: &str, hint: &str, is: &dyn Fn(&&HeldKey) -> bool| {
            let about: Vec<_> = opened.inventory.iter().filter(is).map(name).collect();
            if !about.is_empty() {
                let finding = self.add(id, level, message);
                finding.about = about;
                finding.hint(hint);
            }
        };
        add_for_keys(
            "key-unprotected",
            Level::Bad,
            "can leave the token now (extractable, or not sensitive), and is used only if the configuration allows it",
            "make a new key in its place; `allow_unprotected` in the [[token]] allows it anyway",
            &|held| !held.protected,
        );
        add_for_keys(
            "key-asks-pin",
            Level::Warning,
            "needs the PIN for each operation, and is not used",
            "make a key without CKA_ALWAYS_AUTHENTICATE",
            &|held| held.asks_pin && unused(held),
        );
        add_for_keys(
            "key-imported",
            Level::Note,
            "existed outside the token before the import: a copy may exist, and no token can prove otherwise",
            "`claviger key generate` makes a key that was never outside the token",
            &|held| held.origin == Origin::Imported,
        );
        add_for_keys(
            "key-was-exposed",
            Level::Warning,
            "could leave the token at some time, so a copy may exist",
            "make a new key in its place",
            &|held| {
                let denied = [held.always_sensitive, held.never_extractable].contains(&Some(false));
                held.protected && held.origin != Origin::Imported && denied
            },
        );
    }

    /// The keys that are not served for a reason of their own. The reason says what to do.
    fn keys_that_fail(&mut self, opened: &OpenedToken) {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let unused = |held: &&HeldKey| held.protected && !held.asks_pin && !opened.usable.contains(held);
        for held in opened.inventory.iter().filter(unused) {
            let reason = held.refused.as_deref().unwrap_or("its test failed just now; run the command again");
            by_reason.entry(reason).or_default().push(name(held));
        }
        for (reason, about) in by_reason {
            self.add("key-fails", Level::Bad, format!("is not used: {reason}")).about = about;
        }
        for unpaired in &opened.unpaired {
            let message = format!("a private key ({}) is not used: {}", unpaired.curve, unpaired.reason);
            let about = unpaired.label.clone().unwrap_or_else(|| "a key without a label".to_owned());
            self.add("key-unpaired", Level::Warning, message).about(about);
        }
    }

    pub fn machine(&mut self, machine: &Machine) {
        let missing_measures = machine.missing_hardening();
        if missing_measures.is_empty() {
            let message = "a keeper's memory is protected here: not dumpable, no core dump, locked, and nothing is \
                           passed on to other programs";
            self.add("process", Level::Good, message);
        }
        for missing in missing_measures {
            let finding = self.add(
                "process",
                Level::Warning,
                format!("a keeper on this machine lacks a protection: {}", missing.why),
            );
            finding.about.push(missing.name);
            finding.hint = missing.remedy;
        }
        let missing_measures = machine.missing_sandbox_measures();
        if missing_measures.is_empty() {
            let message = "an agent's sandbox works here: no files but its own, no programs, no other processes";
            self.add("sandbox", Level::Good, message);
        }
        for missing in missing_measures {
            let finding = self.add(
                "sandbox",
                Level::Warning,
                format!("an agent on this machine lacks a restriction of its sandbox: {}", missing.why),
            );
            finding.about.push(missing.name);
            finding.hint = missing.remedy;
        }
    }
}

impl Finding {
    pub fn about(&mut self, what: impl fmt::Display) -> &mut Self {
        self.about.push(what.to_string());
        self
    }

    pub fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// The name of a key for people.
pub fn name(held: &HeldKey) -> String {
    held.label.clone().unwrap_or_else(|| held.public.to_multikey())
}
