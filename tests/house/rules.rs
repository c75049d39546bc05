//! The rules. Each returns its violations, each with its file.

use std::{collections::BTreeSet, path::Path};

use crate::{
    graph::{Reference, references, rings},
    source::{Source, flatten},
};

/// Uses of a higher layer by a lower one, and uses of the second layer in a pair of `apart` by the first. Imports,
/// re-exports and paths in code count, and so does each module that a path leads through.
pub fn upward_imports(source: &Source, layers: &[&str], apart: &[(&str, &str)]) -> Vec<String> {
    let height = |name: &str| layers.iter().position(|layer| *layer == name);
    let mut violations = BTreeSet::new();
    for module in &source.modules {
        let layer = layer_of(&module.file);
        if !["lib", "main"].contains(&layer.as_str()) && height(&layer).is_none() {
            violations.insert(format!("{}: `{layer}` is in no layer: add it to LAYERS", module.file.display()));
        }
    }
    for reference in references(source) {
        let from = layer_of(&reference.from);
        let Some(own) = height(&from) else { continue };
        let through = reference.through.iter().map(|path| path.split("::").next().unwrap().to_owned());
        for to in through.chain([layer_of(&reference.to)]) {
            if height(&to).is_some_and(|other| other > own) || apart.contains(&(&from, &to)) {
                violations.insert(format!("{}: `{from}` uses `{to}`", place(&reference)));
            }
        }
    }
    violations.into_iter().collect()
}

/// The first segment of a file's path: `agent` of `agent/seal.rs`, `lib` of `lib.rs`.
fn layer_of(file: &Path) -> String {
    let first = Path::new(file.iter().next().unwrap());
    first.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Rings of files that use each other, with the names that make each edge.
pub fn circles(source: &Source) -> Vec<String> {
    let references = references(source);
    let mut violations = Vec::new();
    for ring in rings(&references) {
        let mut lines = vec![ring.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" -> ")];
        for edge in ring.windows(2) {
            let uses = references
                .iter()
                .filter(|reference| reference.is_edge && reference.from == edge[0] && reference.to == edge[1]);
            lines.extend(uses.map(|reference| format!("    {}: {}", place(reference), edge[1].display())));
        }
        violations.push(lines.join("\n"));
    }
    violations
}

fn place(reference: &Reference) -> String {
    format!("{}:{}: {}", reference.from.display(), reference.line, reference.path)
}

/// Files with more than `most` lines, unit tests included.
pub fn long_files(source: &Source, most: usize) -> Vec<String> {
    let long = source.files.iter().filter(|(_, file)| file.lines > most);
    long.map(|(path, file)| format!("{}: {} lines, at most {most} are allowed", path.display(), file.lines)).collect()
}

/// Files that no module declares.
pub fn undeclared_files(source: &Source) -> Vec<String> {
    let modules = source.modules.iter().map(|module| &module.file);
    let declared: BTreeSet<_> = modules.chain(&source.tests).collect();
    let undeclared = source.files.keys().filter(|path| !declared.contains(path));
    undeclared.map(|path| format!("{}: no module declares it", path.display())).collect()
}

/// Words that are allowed only in some files or folders. Paths are relative to the source folder; a folder ends in `/`.
pub struct Absence<'a> {
    pub words: &'a [Word<'a>],
    pub except: &'a [&'a str],
}

pub enum Word<'a> {
    /// The name of a crate, at the beginning of a path or of a `use` declaration.
    Crate(&'a str),
    /// These tokens, in sequence.
    Tokens(&'a str),
}

/// Files outside the exceptions whose code has the words, and exceptions that are not needed. Comments and unit tests
/// do not count.
pub fn present(source: &Source, absence: &Absence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut unused: BTreeSet<&str> = absence.except.iter().copied().collect();
    for (file, code) in &source.files {
        let Some(first) = absence.words.iter().find_map(|word| word.find(&code.tokens)) else { continue };
        let exception = absence.except.iter().find(|except| match except.strip_suffix('/') {
            Some(folder) => file.starts_with(folder),
            None => file == Path::new(*except),
        });
        match exception {
            Some(exception) => drop(unused.remove(exception)),
            None => violations.push(format!("{}: names {first}", file.display())),
        }
    }
    violations.extend(unused.into_iter().map(|except| format!("{except}: needs no exception any more")));
    violations
}

impl Word<'_> {
    fn find(&self, code: &[String]) -> Option<String> {
        match self {
            Self::Tokens(text) => {
                let wanted = flatten(text.parse().unwrap());
                code.windows(wanted.len()).any(|window| window == wanted).then(|| format!("`{text}`"))
            }
            Self::Crate(name) => {
                let is_path = |at: usize| {
                    let before = at.checked_sub(1).map(|before| code[before].as_str());
                    let next = code.get(at + 1..at + 3);
                    // A group within a longer path, `a::{name::B}`, counts as the crate too. So the rule may report too
                    // much, but never too little.
                    match before {
                        Some(":") => at >= 3 && code[at - 3] == "use" && is_separator(&code[at - 2..at]),
                        Some("use") => true,
                        _ => next.is_some_and(is_separator),
                    }
                };
                (0..code.len()).any(|at| code[at] == *name && is_path(at)).then(|| format!("the crate `{name}`"))
            }
        }
    }
}

fn is_separator(tokens: &[String]) -> bool {
    tokens == [":", ":"]
}

/// The types in the list that derive `Debug`, and those that do not exist.
pub fn derived_debug(source: &Source, types: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut missing: BTreeSet<&str> = types.iter().copied().collect();
    for (path, file) in &source.files {
        for (name, derives_debug) in &file.types {
            if missing.remove(name.as_str()) && *derives_debug {
                violations.push(format!("{}: {name} derives Debug", path.display()));
            }
        }
    }
    violations.extend(missing.into_iter().map(|name| format!("there is no type {name}: correct the list")));
    violations
}
