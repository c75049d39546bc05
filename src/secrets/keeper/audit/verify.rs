//! [`AuditVerifier`]: reads audit files, and finds lines that are missing, changed, or out of order.
//!
//! The lines are read once, in order. As long as each line names the one before it, they form a run. Each fault ends a
//! run. When all lines are read, the numbers and hashes of the runs' ends say what happened between them.

use std::{
    collections::HashSet,
    io::{self, BufRead},
};

use sha2::{Digest, Sha256};

use super::{
    chain::{AuditHash, Link, MAX_LINE},
    report::{AuditFinding, AuditHead, AuditReport, AuditedFile},
};

/// How many faults are told apart. Further ones are only counted.
const MAX_FINDINGS: usize = 1000;

/// A line's file and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: usize,
    line: u64,
}

/// A line of the chain.
#[derive(Debug, Clone, Copy)]
struct Chained {
    place: Place,
    seq: u64,
    hash: AuditHash,
}

/// Lines that name each other.
struct Run {
    first: Chained,
    last: Chained,
    /// Whether the first line is the beginning of a chain.
    begins_chain: bool,
    /// Whether the first line names the last line of the run before, and other lines stand between the two.
    follows: bool,
}

/// A line between two lines of the chain.
struct Stray {
    place: Place,
    /// Whether it is JSON, and so no torn line.
    is_json: bool,
}

/// Reads audit files. Give it the files in the order in which they were written.
pub struct AuditVerifier {
    files: Vec<AuditedFile>,
    expected: HashSet<AuditHash>,
    runs: Vec<Run>,
    more_faults: u64,
    findings: Vec<(Place, AuditFinding)>,
    notes: Vec<AuditFinding>,
    /// The hash of everything since the beginning of the last chained line.
    region: Sha256,
    /// The hash of the last line, whatever it is.
    last_line: Option<AuditHash>,
    strays: Vec<Stray>,
    more_strays: u64,
    /// Whether the last line that was read has no end.
    is_torn: bool,
    /// How many lines came before the chain begins.
    unchained: u64,
}

impl AuditVerifier {
    /// A verifier that also looks for these hashes of lines, which somebody kept elsewhere.
    pub fn new(expected: impl IntoIterator<Item = AuditHash>) -> Self {
        Self {
            files: Vec::new(),
            expected: expected.into_iter().collect(),
            runs: Vec::new(),
            more_faults: 0,
            findings: Vec::new(),
            notes: Vec::new(),
            region: Sha256::new(),
            last_line: None,
            strays: Vec::new(),
            more_strays: 0,
            is_torn: false,
            unchained: 0,
        }
    }

    /// Reads a file. Memory does not grow with its size.
    ///
    /// # Errors
    /// Those of `input`.
    pub fn read(&mut self, name: &str, input: &mut dyn BufRead) -> io::Result<()> {
        self.files.push(AuditedFile { name: name.to_owned(), lines: 0, chained: 0 });
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut whole = Sha256::new();
            let (mut is_long, mut is_ended) = (false, false);
            while !is_ended {
                let read = input.fill_buf()?;
                if read.is_empty() {
                    break;
                }
                let end = read.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                let part = &read[..end.unwrap_or(read.len())];
                is_ended = end.is_some();
                is_long |= line.len() + part.len() > MAX_LINE;
                if is_long {
                    for bytes in [&line, part] {
                        whole.update(bytes);
                        self.region.update(bytes);
                    }
                    line.clear();
                } else {
                    line.extend_from_slice(part);
                }
                let consumed = part.len();
                input.consume(consumed);
            }
            if line.is_empty() && !is_long {
                return Ok(());
            }
            self.is_torn = !is_ended;
            if is_long {
                // No keeper wrote a line that long.
                let end: &[u8] = if is_ended { b"" } else { b"\n" };
                whole.update(end);
                self.stray(AuditHash::finish(whole), false, end);
            } else {
                if !is_ended {
                    line.push(b'\n');
                }
                self.line(&line);
            }
        }
    }

    fn file(&mut self) -> &mut AuditedFile {
        self.files.last_mut().expect("a line belongs to a file")
    }

    fn next_place(&mut self) -> Place {
        let file = self.files.len() - 1;
        self.file().lines += 1;
        Place { file, line: self.file().lines }
    }

    /// Reads a line, with its line end.
    fn line(&mut self, line: &[u8]) {
        let Some(Link { seq, prev, .. }) = Link::parse(line) else {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
            return self.stray(AuditHash::of(line), is_json, line);
        };
        let place = self.next_place();
        self.file().chained += 1;
        let this = Chained { place, seq, hash: AuditHash::of(line) };
        self.expected.remove(&this.hash);
        let region = AuditHash::finish(std::mem::replace(&mut self.region, Sha256::new_with_prefix(line)));
        let strays = std::mem::take(&mut self.strays);
        let more_strays = std::mem::take(&mut self.more_strays);
        let last_line = self.last_line.replace(this.hash);
        let Some(run) = self.runs.last_mut() else {
            // The hash of the line before these files may be the one that was kept.
            if let Some(prev) = prev {
                self.expected.remove(&prev);
            }
            if seq > 1 && self.unchained > 0 {
                let text = format!("lines 1 to {} of the chain, before this one, are missing", seq - 1);
                self.fault(place, "missing", text);
            }
            if seq == 1 && prev.is_some() && last_line.is_some() && prev != last_line {
                self.fault(place, "changed", "the line before the beginning of the chain was changed".to_owned());
            }
            return self.runs.push(Run { first: this, last: this, begins_chain: true, follows: false });
        };
        let before = run.last;
        if prev == Some(region) {
            // Whatever stands between was there when this line was written.
            if seq != before.seq.saturating_add(1) {
                let text = format!("the number is {seq}, and that of the line before {}", before.seq);
                self.fault(place, "changed", text);
            }
            if let Some(run) = self.runs.last_mut() {
                run.last = Chained { seq: before.seq.saturating_add(1), ..this };
            }
            for stray in strays {
                let text = match stray.is_json {
                    true => "the line is not in the chain: a program without the chain wrote it",
                    false => "the line is torn: a write did not end. The chain goes on after it",
                };
                let kind = if stray.is_json { "unchained" } else { "torn" };
                self.note(stray.place, kind, text);
            }
            return;
        }
        let follows = prev == Some(before.hash);
        for stray in strays {
            let (kind, text) = match follows {
                true => ("inserted", "the line was not there when the next line was written"),
                false => ("changed", "the line is not in the chain, or was changed"),
            };
            self.fault(stray.place, kind, text.to_owned());
        }
        self.more_faults += more_strays;
        let begins_chain = seq == 1 && (prev.is_none() || prev == last_line);
        if self.runs.len() < MAX_FINDINGS {
            self.runs.push(Run { first: this, last: this, begins_chain, follows });
        } else if let Some(run) = self.runs.last_mut() {
            self.more_faults += 1;
            run.last = this;
        }
    }

    /// Notes a line that is not in the chain. `rest` is what of it is not in the region yet.
    fn stray(&mut self, hash: AuditHash, is_json: bool, rest: &[u8]) {
        let place = self.next_place();
        self.region.update(rest);
        self.last_line = Some(hash);
        if self.runs.is_empty() {
            self.unchained += 1;
        } else if self.strays.len() < MAX_FINDINGS {
            self.strays.push(Stray { place, is_json });
        } else {
            self.more_strays += 1;
        }
    }

    fn finding(&self, place: Place, kind: &'static str, text: String) -> AuditFinding {
        AuditFinding { kind, file: Some(self.files[place.file].name.clone()), line: Some(place.line), text }
    }

    fn fault(&mut self, place: Place, kind: &'static str, text: String) {
        if self.findings.len() < MAX_FINDINGS {
            let finding = self.finding(place, kind, text);
            self.findings.push((place, finding));
        } else {
            self.more_faults += 1;
        }
    }

    fn note(&mut self, place: Place, kind: &'static str, text: &str) {
        if self.notes.len() < MAX_FINDINGS {
            let note = self.finding(place, kind, text.to_owned());
            self.notes.push(note);
        }
    }

    /// The faults between two runs.
    fn compare_runs(&mut self) {
        let runs = std::mem::take(&mut self.runs);
        let run_with = |seq: u64| runs.iter().find(|run| (run.first.seq..=run.last.seq).contains(&seq));
        for (at, pair) in runs.windows(2).enumerate() {
            let [before, after] = pair else { continue };
            let (last, next) = (before.last, after.first);
            if after.begins_chain {
                self.fault(next.place, "restarted", "a new chain begins; what was before it is not proved".to_owned());
            } else if next.seq > last.seq.saturating_add(1) {
                // Lines that stand elsewhere are out of order there.
                let (mut from, mut to) = (last.seq + 1, next.seq - 1);
                while from <= to
                    && let Some(run) = run_with(from)
                {
                    from = run.last.seq.saturating_add(1);
                }
                while from <= to
                    && let Some(run) = run_with(to)
                {
                    to = run.first.seq.saturating_sub(1);
                }
                if from <= to {
                    let text = match from == to {
                        true => format!("line {from} of the chain, before this one, is missing"),
                        false => format!("lines {from} to {to} of the chain, before this one, are missing"),
                    };
                    self.fault(next.place, "missing", text);
                }
            } else if next.seq <= last.seq {
                let text = format!("line {} of the chain comes after line {}", next.seq, last.seq);
                self.fault(next.place, "out-of-order", text);
            } else if !after.follows {
                // Either the line that is named was changed, or the line that names it. If the line after that one names
                // it rightly, it is as it was written.
                let is_proved = after.first.place != after.last.place || runs.len() == at + 2;
                let (place, text) = match is_proved {
                    true => (last.place, "the line, or the hash in the next line, was changed"),
                    false => (next.place, "the line was changed"),
                };
                self.fault(place, "changed", text.to_owned());
            }
        }
        self.runs = runs;
    }

    /// The report on the files that were read.
    pub fn finish(mut self) -> AuditReport {
        self.compare_runs();
        for stray in std::mem::take(&mut self.strays) {
            match stray.is_json {
                true => self.fault(stray.place, "unchained", "the line is not in the chain".to_owned()),
                false => self.fault(stray.place, "torn", "the line is torn".to_owned()),
            }
        }
        self.more_faults += self.more_strays;
        let end =
            Place { file: self.files.len().saturating_sub(1), line: self.files.last().map_or(0, |file| file.lines) };
        if self.is_torn && self.findings.last().is_none_or(|(place, _)| *place != end) {
            self.fault(end, "torn", "the last line has no end".to_owned());
        }
        let head = |line: &Chained| AuditHead { seq: line.seq, sha256: line.hash };
        let begin = self.runs.first().map(|run| head(&run.first));
        let end = self.runs.last().map(|run| head(&run.last));
        let lines: u64 = self.files.iter().map(|file| file.lines).sum();
        if self.unchained > 0 && begin.is_some() {
            let text = format!("the {} lines before the beginning of the chain are not proved", self.unchained);
            self.notes.insert(0, AuditFinding { kind: "unchained", file: None, line: None, text });
        }
        self.findings.sort_by_key(|(place, _)| *place);
        let mut faults: Vec<_> = self.findings.into_iter().map(|(_, finding)| finding).collect();
        let all = |kind, text: String| AuditFinding { kind, file: None, line: None, text };
        if begin.is_none() && lines > 0 {
            faults.push(all("no-chain", "no line is in a chain, so nothing is proved".to_owned()));
        }
        let mut expected: Vec<_> = self.expected.into_iter().collect();
        expected.sort();
        let absent = expected.into_iter().map(|hash| all("head-missing", format!("no line has the hash {hash}")));
        faults.extend(absent);
        let (notes, more_faults) = (self.notes, self.more_faults);
        let ok = faults.is_empty() && more_faults == 0;
        AuditReport { ok, files: self.files, begin, head: end, faults, notes, more_faults }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::{super::chain::ChainEnd, *};

    /// A chain of lines, the first with the number 1.
    fn chain(lines: usize) -> Vec<Vec<u8>> {
        let (mut end, mut chain) = (ChainEnd::NOTHING, Vec::new());
        for number in 0..lines {
            let mut text = Vec::new();
            end.append(format!("{{\"time\":\"{number}\",\"result\":\"done\"}}\n").as_bytes(), &mut text);
            chain.push(text);
        }
        chain
    }

    fn verify(files: &[Vec<u8>], expected: &[AuditHash]) -> AuditReport {
        let mut verifier = AuditVerifier::new(expected.iter().copied());
        for (number, file) in files.iter().enumerate() {
            verifier.read(&number.to_string(), &mut &file[..]).unwrap();
        }
        verifier.finish()
    }

    fn kinds(report: &AuditReport) -> Vec<(&'static str, Option<u64>)> {
        report.faults.iter().map(|fault| (fault.kind, fault.line)).collect()
    }

    #[test]
    fn each_fault_is_named_with_its_line() {
        let lines = chain(9);
        let check = |change: fn(&mut Vec<Vec<u8>>)| {
            let mut changed = lines.clone();
            change(&mut changed);
            let report = verify(&[changed.concat()], &[]);
            assert_eq!(report.ok, report.faults.is_empty());
            kinds(&report)
        };
        let line = Some;
        assert_eq!(check(|_| ()), []);
        assert_eq!(check(|lines| drop(lines.remove(3))), [("missing", line(4))]);
        assert_eq!(check(|lines| drop(lines.drain(3..6))), [("missing", line(4))]);
        assert_eq!(check(|lines| lines.swap(3, 4)), [("out-of-order", line(5))]);
        assert_eq!(check(|lines| lines[3][9] ^= 1), [("changed", line(4))]);
        assert_eq!(check(|lines| lines.insert(4, lines[1].clone())), [("out-of-order", line(5))]);
        assert_eq!(check(|lines| lines.insert(4, b"{}\n".to_vec())), [("inserted", line(5))]);
        assert_eq!(check(|lines| lines[8].truncate(20)), [("torn", line(9))]);
        assert_eq!(check(|lines| lines[3].truncate(20)), [("changed", line(4)), ("missing", line(5))]);
        assert_eq!(check(|lines| lines.insert(5, chain(1).remove(0))), [("restarted", line(6))]);
        // What is gone at either end is seen only with a hash that was kept.
        assert_eq!(check(|lines| lines.truncate(5)), []);
        assert_eq!(check(|lines| drop(lines.drain(..5))), []);
        let [first, last] = [&lines[0], &lines[8]].map(|line| AuditHash::of(line));
        assert!(verify(&[lines[1..].concat()], &[first, last]).ok, "the first line that is there names it");
        assert_eq!(kinds(&verify(&[lines[2..8].concat()], &[first, last])), [("head-missing", None); 2]);
    }

    #[test]
    fn torn_lines_and_lines_of_an_older_version_are_covered() {
        let old = b"{\"time\":\"old\"}\n".to_vec();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = |lines: &[u8]| super::super::chained_file::ChainedFile::open(&path).unwrap().append(lines).unwrap();
        std::fs::write(&path, [b"an older one\n", &old[..]].concat()).unwrap();
        log(b"{\"time\":\"a\"}\n{\"time\":\"b\"}\n");
        let add = |bytes: &[u8]| std::fs::write(&path, [&std::fs::read(&path).unwrap(), bytes].concat()).unwrap();
        add(&old);
        log(b"{\"time\":\"c\"}\n");
        add(b"{\"time\":\"to");
        let torn = verify(&[std::fs::read(&path).unwrap()], &[]);
        assert_eq!(kinds(&torn), [("torn", Some(7))]);
        log(b"{\"time\":\"d\"}\n");
        let text = std::fs::read(&path).unwrap();
        let report = verify(std::slice::from_ref(&text), &[]);
        assert_eq!(kinds(&report), []);
        let notes: Vec<_> = report.notes.iter().map(|note| (note.kind, note.line)).collect();
        assert_eq!(notes, [("unchained", None), ("unchained", Some(5)), ("torn", Some(7))]);
        assert_eq!((report.begin.unwrap().seq, report.head.unwrap().seq), (1, 4));
        // Each of these lines is covered.
        let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 1..7 {
            let without = [&lines[..at], &lines[at + 1..]].concat().concat();
            assert!(!verify(&[without], &[]).ok, "line {}", at + 1);
        }
    }

    proptest! {
        /// A removed, moved, repeated, changed or cut line is found, wherever the file was rotated. So is a line that is
        /// gone at the end, if its hash was kept.
        #[test]
        fn every_change_is_found(lines in 2usize..30, at: Index, other: Index, byte: Index, bit in 0u8..8, split: Index) {
            let whole = chain(lines);
            let head = AuditHash::of(&whole[lines - 1]);
            let (at, other, split) = (at.index(lines), other.index(lines), split.index(lines));
            let files = |lines: &[Vec<u8>]| {
                let (old, new) = lines.split_at(split.min(lines.len()));
                [old.concat(), new.concat()]
            };
            let is_found = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
                let mut changed = whole.clone();
                change(&mut changed);
                changed == whole || !verify(&files(&changed), &[head]).ok
            };
            let report = verify(&files(&whole), &[head]);
            prop_assert!(report.ok, "{:?}", report.faults);
            prop_assert_eq!(report.head, Some(AuditHead { seq: lines as u64, sha256: head }));
            // Lines that are gone at the beginning were perhaps rotated away.
            prop_assert!(at == 0 || is_found(&|lines| drop(lines.remove(at))), "removed");
            prop_assert!(is_found(&|lines| lines.swap(at, other)), "swapped");
            prop_assert!(is_found(&|lines| lines.insert(other, lines[at].clone())), "repeated");
            prop_assert!(at == 0 || is_found(&|lines| lines[at].truncate(byte.index(whole[at].len() - 1))), "cut");
            prop_assert!(
                is_found(&|lines| {
                    let byte = byte.index(lines[at].len());
                    lines[at][byte] ^= 1 << bit;
                }),
                "changed"
            );
        }

        #[test]
        fn arbitrary_files_do_no_harm(files: Vec<Vec<u8>>) {
            let report = verify(&files, &[]);
            prop_assert!(report.begin.is_none());
        }
    }
}
