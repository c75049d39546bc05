//! Which file uses which, and the rings among them.
//!
//! An edge from file A to file B means that A's code uses an item that B defines. Names are resolved through imports,
//! groups, globs and re-exports to the file that defines the item, so a re-export hides nothing. These are no edges:
//!
//! - `mod` and `pub use`: a parent that lists its children does not use them thereby. If its code also uses the name
//!   that it re-exports, that is an edge.
//! - The import of a module, and a glob. Each name that is reached through it is an edge.
//! - Names in unit tests, comments and documentation.
//!
//! So a child that uses an item of its parent's `mod.rs` is in a ring with it, if the parent's code uses an item of the
//! child. Method calls have no path, so they are not seen; neither are traits that a glob imports.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use crate::{
    names::Import,
    source::{ModuleId, Source},
};

/// A use of one file's item by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub from: PathBuf,
    pub line: usize,
    /// As written in the source.
    pub path: String,
    /// The file that defines the item. For the import of a module, the module's file.
    pub to: PathBuf,
    /// Whether this is an edge between files. If not, the name only names a module or re-exports an item.
    pub is_edge: bool,
    /// The modules of this crate that the path leads through, each as its path from the root.
    pub through: Vec<String>,
}

/// Every name in the source that leads to another file of it.
pub fn references(source: &Source) -> Vec<Reference> {
    let mut found = Vec::new();
    for (id, module) in source.modules.iter().enumerate() {
        let mut add = |path: &[String], line: usize, is_edge: bool, import: Option<&Import>| {
            let mut walk = Walk::new(source);
            let target = match import {
                Some(import) => walk.import(id, import),
                None => walk.path(id, path, true),
            };
            let (to, is_edge) = match target {
                Target::Item(file) => (file, is_edge),
                Target::Module(module) => (source.modules[module].file.clone(), false),
                Target::Elsewhere => return,
            };
            if to != module.file {
                let through = walk.through.iter().map(|id| source.path(*id).join("::")).collect();
                found.push(Reference { from: module.file.clone(), line, path: path.join("::"), to, is_edge, through });
            }
        };
        for import in &module.imports {
            add(&import.path, import.line, !import.is_reexport, Some(import));
        }
        for name in &module.names {
            add(&name.path, name.line, true, None);
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Where a path leads.
#[derive(Debug)]
enum Target {
    /// An item that this file defines.
    Item(PathBuf),
    Module(ModuleId),
    /// Another crate, the prelude, or a local name.
    Elsewhere,
}

/// Follows one path.
struct Walk<'a> {
    source: &'a Source,
    through: Vec<ModuleId>,
    /// Imports that are being followed, as these may be circular.
    following: BTreeSet<(ModuleId, String)>,
}

impl<'a> Walk<'a> {
    fn new(source: &'a Source) -> Self {
        Self { source, through: Vec::new(), following: BTreeSet::new() }
    }

    fn import(&mut self, module: ModuleId, import: &Import) -> Target {
        if import.is_absolute { Target::Elsewhere } else { self.path(module, &import.path, false) }
    }

    /// `in_code`: whether the path is in code, and not in a `use` declaration, where a lone `self` names the module.
    fn path(&mut self, module: ModuleId, path: &[String], in_code: bool) -> Target {
        let Some((first, mut rest)) = path.split_first() else { return Target::Elsewhere };
        let modules = &self.source.modules;
        let mut at = match first.as_str() {
            "crate" => Target::Module(modules[module].root),
            "self" if path.len() > 1 || !in_code => Target::Module(module),
            "super" => modules[module].parent.map_or(Target::Elsewhere, Target::Module),
            "claviger" if Some(modules[module].root) == self.source.program => {
                self.source.library.map_or(Target::Elsewhere, Target::Module)
            }
            name => self.in_scope(module, name),
        };
        while let Target::Module(id) = at {
            if self.through.last() != Some(&id) {
                self.through.push(id);
            }
            let Some((next, after)) = rest.split_first() else { break };
            at = match next.as_str() {
                "super" => modules[id].parent.map_or(Target::Elsewhere, Target::Module),
                "self" => Target::Module(id),
                // An item that a macro makes has no definition in the source. It counts as the module's own.
                name => self.lookup(id, name).unwrap_or_else(|| Target::Item(modules[id].file.clone())),
            };
            rest = after;
        }
        at
    }

    /// A name without a path before it: the module's own names, or a macro that a module above it defines.
    fn in_scope(&mut self, module: ModuleId, name: &str) -> Target {
        if let Some(found) = self.lookup(module, name) {
            return found;
        }
        let mut above = self.source.modules[module].parent;
        while let Some(id) = above {
            let parent = &self.source.modules[id];
            if parent.macros.iter().any(|found| found == name) {
                return Target::Item(parent.file.clone());
            }
            above = parent.parent;
        }
        Target::Elsewhere
    }

    /// A name that a module defines or imports.
    fn lookup(&mut self, id: ModuleId, name: &str) -> Option<Target> {
        let module = &self.source.modules[id];
        if let Some(child) = module.children.get(name) {
            return Some(Target::Module(*child));
        }
        if module.items.iter().any(|item| item == name) {
            return Some(Target::Item(module.file.clone()));
        }
        if !self.following.insert((id, name.to_owned())) {
            return None;
        }
        let imports = &module.imports;
        let found = imports.iter().find(|import| import.name.as_deref() == Some(name));
        let found = found.map(|import| self.import(id, import)).or_else(|| {
            imports.iter().filter(|import| import.is_glob).find_map(|import| match self.import(id, import) {
                Target::Module(inner) if inner != id => self.lookup(inner, name),
                _ => None,
            })
        });
        self.following.remove(&(id, name.to_owned()));
        found
    }
}

/// The shortest rings among files. Each list begins and ends with the same file.
pub fn rings(references: &[Reference]) -> Vec<Vec<PathBuf>> {
    let mut edges: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for reference in references.iter().filter(|reference| reference.is_edge) {
        edges.entry(&reference.from).or_default().insert(&reference.to);
    }
    let mut seen = BTreeSet::new();
    let mut rings = Vec::new();
    for (from, targets) in &edges {
        for to in targets {
            let Some(path) = shortest(&edges, to, from) else { continue };
            let mut members: Vec<&Path> = path.clone();
            members.sort();
            if seen.insert(members) {
                let ring = [*from].into_iter().chain(path);
                rings.push(ring.map(Path::to_owned).collect());
            }
        }
    }
    rings.sort_by_key(|ring: &Vec<PathBuf>| ring.len());
    rings
}

/// The shortest path from one file to another, both included.
fn shortest<'a>(edges: &BTreeMap<&'a Path, BTreeSet<&'a Path>>, from: &'a Path, to: &'a Path) -> Option<Vec<&'a Path>> {
    let mut before: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut path = vec![to];
            while let Some(previous) = before.get(path.last().unwrap()).filter(|_| *path.last().unwrap() != from) {
                path.push(previous);
            }
            path.reverse();
            return Some(path);
        }
        for next in edges.get(at).into_iter().flatten() {
            if *next != from && !before.contains_key(next) {
                before.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}
