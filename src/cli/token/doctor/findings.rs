//! What a doctor finds, in plain words. docs/cli.md lists the ids, and a test compares.

use std::{fmt, time::Duration};

use serde::Serialize;

use claviger::{
    keys::Curve,
    secrets::{
        Custody, HeldKey, Origin, Token,
        pkcs11::{Answer, Basis, Examined, Look, PinPlace, ProfileBy, TestKey, Verdict},
    },
};

use super::{Inside, Patient, machine::Machine};
use crate::cli::{config::TokenConfig, output::count, token::list::PinTrouble};

/// One thing that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// For programs, in kebab-case.
    pub id: &'static str,
    pub level: Level,
    /// The algorithms, keys or measures that it is about; none if it is the token.
    pub about: Vec<String>,
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// How bad it is, worst first.
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

/// A message in longer than this is slow.
const SLOW: Duration = Duration::from_millis(50);

/// Everything that was found, in no order but that of looking.
pub fn findings(patient: &Patient, configured: &TokenConfig, machine: &Machine) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    if let Some(look) = &patient.look {
        found.pin(patient, look);
        found.profile(look);
    }
    if let (Ok(inside), Some(look)) = (&patient.inside, &patient.look) {
        found.token(inside, look);
        found.algorithms(inside, look);
        found.custody(&inside.examination.algorithms, configured.policy().minimum_custody);
        found.keys(inside);
    }
    found.machine(machine);
    found.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, id: &'static str, level: Level, message: impl Into<String>) -> &mut Finding {
        self.0.push(Finding { id, level, about: Vec::new(), message: message.into(), hint: None });
        self.0.last_mut().expect("it was pushed")
    }

    fn pin(&mut self, patient: &Patient, look: &Look) {
        let trouble =
            PinTrouble::of(&patient.name, look.token.pin, patient.remembered.as_ref(), patient.inside.is_ok());
        if let Some(trouble) = trouble {
            let id = match trouble.word {
                "LOCKED" => "pin-locked",
                "LOCKED-HERE" => "pin-locked-here",
                "REFUSED" => "pin-refused",
                "UNFINISHED" => "pin-unfinished",
                "FINAL-TRY" => "pin-final-try",
                _ => "pin-count-low",
            };
            self.add(id, Level::Bad, trouble.said).hint(trouble.hint);
        }
        match &look.pin {
            PinPlace::File { path, others_may_read: true } => {
                let path = path.display();
                self.add(
                    "pin-file-readable",
                    Level::Warning,
                    format!("others than its owner may read the PIN's file {path}"),
                )
                .hint(format!("chmod 600 {path}"));
            }
            PinPlace::Uri => {
                self.add(
                    "pin-in-uri",
                    Level::Warning,
                    "the PIN stands in the token's URI, which is no secret elsewhere",
                )
                .hint("write it to a file of its own and name that as pin-source=file:PATH");
            }
            _ => {}
        }
    }

    fn profile(&mut self, look: &Look) {
        let (name, device) = (look.profile.name(), look.profile.device());
        if look.profile_by == ProfileBy::Nothing {
            let said = "no profile fits this device: every form is tried, which takes longer at the start";
            self.add("profile-unknown", Level::Note, said)
                .hint("docs/hsm.md says how to write one; what this test shows is what stands in it");
        } else if let Some((Basis::Read, version)) = look.profile.basis() {
            let said = format!("what the profile {name} says of {device} was read ({version}), and never measured");
            self.add("profile-not-measured", Level::Note, said)
                .hint("what this test shows is more than is known: tell the project of it");
        }
    }

    fn token(&mut self, inside: &Inside, look: &Look) {
        let used = inside.token.concurrency() as u64;
        if let Some(most) = look.most_sessions.filter(|most| *most < used) {
            let said =
                format!("{used} operations may be under way at once, and it gives {}", count(most as usize, "session"));
            self.add("too-many-sessions", Level::Warning, said)
                .hint(format!("sessions = {most} in its [[token]], or less"));
        }
        let (before, after) = inside.examination.objects;
        if before != after {
            let said =
                format!("it holds {after} objects, and held {before} before the test, which makes and deletes none");
            self.add("objects-changed", Level::Bad, said)
                .hint("another program at work on it does that; else ask its maker");
        }
        if !inside.examination.session_keys {
            let said = "it makes no keys for the time of a test: it was tested with those that it holds";
            self.add("no-session-keys", Level::Note, said)
                .hint("`claviger key generate` makes a key for an algorithm that was not tested");
        }
    }

    fn algorithms(&mut self, inside: &Inside, look: &Look) {
        let algorithms = &inside.examination.algorithms;
        for it in algorithms {
            self.answers(it);
            let longest = [it.authcrypt.or(it.unwrap), it.sign].into_iter().flatten().max();
            if let Some(took) = longest.filter(|took| *took > SLOW) {
                let (millis, sessions) = (took.as_millis(), inside.token.concurrency());
                let a_second = sessions as f64 / took.as_secs_f64();
                let said = format!(
                    "one operation takes {millis} ms: expect {a_second:.0} messages a second with {}",
                    count(sessions, "session")
                );
                self.add("slow", Level::Warning, said)
                    .about(it.curve)
                    .hint("`sessions` in its [[token]] has several at once, if the device gains from it");
            }
            if let (Some(verdict), Some(said)) = (it.verdict, look.profile.verdict(it.curve))
                && verdict != said
                && !matches!(it.with, TestKey::Held(_))
            {
                let (id, level) = match verdict < said {
                    true => ("verdict-worse", Level::Warning),
                    false => ("verdict-better", Level::Note),
                };
                let (name, version) = (look.profile.name(), look.profile.basis().map_or("", |(_, version)| version));
                let said = format!("it is {verdict}, and the profile {name} says {said} of {version}");
                self.add(id, level, said)
                    .about(it.curve)
                    .hint("another version, or a policy of the token: what was seen here counts");
            }
        }
        let x25519 = algorithms.iter().find(|it| it.curve == Curve::X25519).and_then(|it| it.verdict);
        if x25519.is_some_and(|verdict| verdict < Verdict::Authcrypt) {
            let said =
                "there is no X25519: peers whose documents have X25519 keys only cannot be written to with a sender";
            self.add("no-x25519", Level::Warning, said)
                .about(Curve::X25519)
                .hint("make DIDs with P-256, which every DIDComm v2 agent must have; anoncrypt to such peers works");
        }
    }

    /// What it did, against what it claims.
    fn answers(&mut self, it: &Examined) {
        let mut told = Vec::new();
        for wrong in it.tried.iter().filter(|tried| tried.answer == Answer::Wrong) {
            if !told.contains(&wrong.custody) {
                told.push(wrong.custody);
                let what = wrong.custody.map_or("signed".to_owned(), |custody| format!("agreed ({custody})"));
                let said = format!("it {what} without an error, and the result was wrong");
                self.add("wrong-answer", Level::Bad, said)
                    .about(it.curve)
                    .hint("it is not used so; tell its maker, and look for a newer firmware or module");
            }
        }
        for mechanism in &it.mechanisms {
            let name = mechanism.name;
            match (mechanism.listed, mechanism.works) {
                (true, false) => {
                    let why = it.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                    self.add("mechanism-fails", Level::Warning, format!("it lists {name}, which does not serve{why}"))
                        .about(it.curve)
                        .hint("a policy of the token may forbid it, or it wants a KDF that JOSE does not have");
                }
                (false, true) => {
                    self.add("mechanism-unlisted", Level::Note, format!("{name} works, though it does not list it"))
                        .about(it.curve);
                }
                _ => {}
            }
        }
        if it.verdict == Some(Verdict::Anoncrypt) {
            let said = "it opens ECDH-ES and does not do ECDH-1PU: no key of it is used for agreement";
            self.add("anoncrypt-only", Level::Bad, said).about(it.curve).hint("use another curve");
        }
        if it.signs == Some(false) && it.verdict == Some(Verdict::Authcrypt) {
            self.add("does-not-sign", Level::Warning, "it agrees on keys and does not sign")
                .about(it.curve)
                .hint("sign with Ed25519; a did:key on P-256 needs both");
        }
    }

    fn custody(&mut self, algorithms: &[Examined], minimum: Option<Custody>) {
        for custody in Custody::ALL {
            let on = |it: &&Examined| it.custody == Some(custody) && it.verdict == Some(Verdict::Authcrypt);
            let about: Vec<_> = algorithms.iter().filter(on).map(|it| it.curve.to_string()).collect();
            if about.is_empty() {
                continue;
            }
            let (level, means) = match custody {
                Custody::KekInToken => (Level::Good, "only a message's content key ever comes out of the token"),
                Custody::KekInProcess => (
                    Level::Good,
                    "the shared secret stays in the token; the key of one message comes out to the keeper",
                ),
                Custody::SharedSecretInProcess => (
                    Level::Note,
                    "the shared secret of each message comes out to the keeper, which wipes it: who reads its memory then \
                     can forge that sender to us",
                ),
            };
            let finding = self.add("custody", level, format!("{custody}: {means}"));
            finding.about = about.clone();
            if custody == Custody::SharedSecretInProcess {
                finding.hint("run the keeper as its own user (docs/custody.md)");
            }
            if let Some(minimum) = minimum.filter(|minimum| custody < *minimum) {
                let said =
                    format!("minimum_custody is {minimum}, and it reaches {custody}: its keys are refused at start");
                let finding = self.add("custody-below-minimum", Level::Bad, said);
                finding.about = about;
                finding.hint("use another token, or lower minimum_custody knowingly");
            }
        }
    }

    fn keys(&mut self, inside: &Inside) {
        let unused = |held: &&HeldKey| !inside.usable.contains(held);
        let mut of = |id, level, message: &str, hint: &str, is: &dyn Fn(&&HeldKey) -> bool| {
            let about: Vec<_> = inside.inventory.iter().filter(is).map(name).collect();
            if !about.is_empty() {
                let finding = self.add(id, level, message);
                finding.about = about;
                finding.hint(hint);
            }
        };
        of(
            "key-unprotected",
            Level::Bad,
            "can leave the token now (extractable, or not sensitive), and is used only if the configuration allows it",
            "make a new key in its place; `allow_unprotected` in the [[token]] allows it all the same",
            &|held| !held.protected,
        );
        of(
            "key-asks-pin",
            Level::Warning,
            "wants the PIN for each operation, and is not used",
            "make a key without CKA_ALWAYS_AUTHENTICATE",
            &|held| held.asks_pin && unused(held),
        );
        of(
            "key-fails",
            Level::Bad,
            "failed its known answers, and is not used: its halves do not pair, or the token cannot use it",
            "`claviger -v key list` says why",
            &|held| held.protected && !held.asks_pin && unused(held),
        );
        of(
            "key-imported",
            Level::Note,
            "existed outside the token before it was imported: a copy may exist, and no token can prove otherwise",
            "`claviger key generate` makes one that never was outside",
            &|held| held.origin == Origin::Imported,
        );
        of(
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

    fn machine(&mut self, machine: &Machine) {
        let unguarded = machine.unguarded();
        if unguarded.is_empty() {
            let said =
                "a keeper's memory is guarded here: not dumpable, no core, locked, nothing passed on to other programs";
            self.add("process", Level::Good, said);
        }
        for lacking in unguarded {
            let finding =
                self.add("process", Level::Warning, format!("a keeper here goes without it: {}", lacking.why));
            finding.about.push(lacking.name);
            finding.hint = lacking.remedy;
        }
        let open = machine.open_doors();
        if open.is_empty() {
            let said = "an agent's sandbox holds here: no files but its own, no programs, no other processes";
            self.add("sandbox", Level::Good, said);
        }
        for lacking in open {
            let finding =
                self.add("sandbox", Level::Warning, format!("an agent here goes without it: {}", lacking.why));
            finding.about.push(lacking.name);
            finding.hint = lacking.remedy;
        }
    }
}

impl Finding {
    fn about(&mut self, what: impl fmt::Display) -> &mut Self {
        self.about.push(what.to_string());
        self
    }

    fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// A key for people.
fn name(held: &HeldKey) -> String {
    held.label.clone().unwrap_or_else(|| held.public.to_multikey())
}
