//! A crate's source: its files, and the tree of its modules with what each defines, imports and names.

use std::{
    collections::BTreeMap,
    fs, iter,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item, ItemMod, visit::Visit};

use crate::names::{Import, Name, Names};

/// A source folder with a library (`lib.rs`), a program (`main.rs`) or both.
#[derive(Default)]
pub struct Source {
    /// Every file below the folder, by its relative path, whether or not a module declares it.
    pub files: BTreeMap<PathBuf, SourceFile>,
    pub modules: Vec<Module>,
    /// The root modules of the library and of the program.
    pub library: Option<ModuleId>,
    pub program: Option<ModuleId>,
    /// The files of modules for unit tests.
    pub tests: Vec<PathBuf>,
}

pub struct SourceFile {
    pub lines: usize,
    /// The tokens of its code, without comments, documentation and unit tests.
    pub tokens: Vec<String>,
    /// Its structs and enums, and whether each derives `Debug`.
    pub types: Vec<(String, bool)>,
}

/// An index into [`Source::modules`].
pub type ModuleId = usize;

/// A module, in a file of its own or inline. Items for unit tests are left out.
pub struct Module {
    pub file: PathBuf,
    pub parent: Option<ModuleId>,
    pub root: ModuleId,
    pub children: BTreeMap<String, ModuleId>,
    /// The items that it defines, other than modules.
    pub items: Vec<String>,
    /// The macros among `items`. Modules below see them without an import.
    pub macros: Vec<String>,
    pub imports: Vec<Import>,
    /// The paths and identifiers in its code, other than in `use` declarations.
    pub names: Vec<Name>,
}

impl Source {
    /// Reads and parses every file, and follows the modules from `lib.rs` and `main.rs`.
    ///
    /// Panics if a file is missing or does not parse, or has a `#[path]` attribute.
    pub fn read(folder: &Path) -> Self {
        let mut reader = Reader::default();
        for file in rust_files(folder) {
            let text = fs::read_to_string(folder.join(&file)).unwrap();
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            reader.source.files.insert(file.clone(), SourceFile::new(&text, &parsed));
            reader.parsed.insert(file, parsed);
        }
        reader.source.library = reader.add_root("lib.rs");
        reader.source.program = reader.add_root("main.rs");
        assert!(!reader.source.modules.is_empty(), "{} has neither lib.rs nor main.rs", folder.display());
        reader.source
    }

    /// The module's path, such as `agent::store`. Empty for a root.
    pub fn path(&self, id: ModuleId) -> Vec<&str> {
        let mut path: Vec<&str> = iter::successors(Some(id), |id| self.modules[*id].parent)
            .filter_map(|id| {
                let siblings = &self.modules[self.modules[id].parent?].children;
                siblings.iter().find(|(_, child)| **child == id).map(|(name, _)| name.as_str())
            })
            .collect();
        path.reverse();
        path
    }
}

impl SourceFile {
    fn new(text: &str, parsed: &syn::File) -> Self {
        let items = parsed.items.iter().filter(|item| !is_test(item));
        let types = parsed.items.iter().filter_map(|item| match item {
            Item::Struct(item) => Some((item.ident.to_string(), item.attrs.iter().any(derives_debug))),
            Item::Enum(item) => Some((item.ident.to_string(), item.attrs.iter().any(derives_debug))),
            _ => None,
        });
        let tokens = items.flat_map(|item| flatten(item.to_token_stream())).collect();
        Self { lines: text.lines().count(), tokens, types: types.collect() }
    }
}

fn derives_debug(attribute: &Attribute) -> bool {
    let tokens = flatten(attribute.meta.to_token_stream());
    tokens.iter().any(|token| token == "derive") && tokens.iter().any(|token| token == "Debug")
}

/// All tokens in one list, with those within brackets in place.
pub fn flatten(tokens: TokenStream) -> Vec<String> {
    let mut flat = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                // An opening bracket separates the tokens before a group from those in it.
                flat.push("(".to_owned());
                flat.extend(flatten(group.stream()));
            }
            TokenTree::Ident(ident) => flat.push(ident.to_string()),
            TokenTree::Punct(punct) => flat.push(punct.as_char().to_string()),
            // The content of a literal is no code.
            TokenTree::Literal(_) => flat.push("\"\"".to_owned()),
        }
    }
    flat
}

/// Builds the tree of modules.
#[derive(Default)]
struct Reader {
    source: Source,
    parsed: BTreeMap<PathBuf, syn::File>,
}

impl Reader {
    fn add_root(&mut self, name: &str) -> Option<ModuleId> {
        self.parsed.contains_key(Path::new(name)).then(|| self.add_file(PathBuf::from(name), Path::new(""), None))
    }

    /// Adds a module in a file of its own. `below` is the folder of its children.
    fn add_file(&mut self, file: PathBuf, below: &Path, parent: Option<ModuleId>) -> ModuleId {
        let parsed = self.parsed.remove(&file).unwrap_or_else(|| panic!("{} is missing", file.display()));
        self.add(file, below, parent, &parsed.items)
    }

    fn add(&mut self, file: PathBuf, below: &Path, parent: Option<ModuleId>, items: &[Item]) -> ModuleId {
        let id = self.source.modules.len();
        let root = parent.map_or(id, |parent| self.source.modules[parent].root);
        let (mut defined, mut macros) = (Vec::new(), Vec::new());
        let mut inner = Vec::new();
        let mut names = Names::default();
        for item in items {
            match item {
                Item::Mod(module) if is_test(item) => {
                    if module.content.is_none() {
                        let file = self.module_file(below, &module.ident.to_string());
                        self.source.tests.push(file);
                    }
                }
                item if is_test(item) => {}
                Item::Mod(module) => inner.push(module),
                item => {
                    if matches!(item, Item::Macro(_)) {
                        macros.extend(defined_name(item));
                    }
                    defined.extend(defined_name(item));
                    names.visit_item(item);
                }
            }
        }
        let Names { imports, names } = names;
        let children = BTreeMap::new();
        let module = Module { file: file.clone(), parent, root, children, items: defined, macros, imports, names };
        self.source.modules.push(module);
        for module in inner {
            let child = self.add_child(&file, below, id, module);
            self.source.modules[id].children.insert(module.ident.to_string(), child);
        }
        id
    }

    fn add_child(&mut self, file: &Path, below: &Path, parent: ModuleId, module: &ItemMod) -> ModuleId {
        let has_path = module.attrs.iter().any(|attribute| attribute.path().is_ident("path"));
        assert!(!has_path, "{}: #[path] is not followed", file.display());
        let name = module.ident.to_string();
        let folder = below.join(&name);
        match &module.content {
            Some((_, items)) => self.add(file.to_owned(), &folder, Some(parent), items),
            None => self.add_file(self.module_file(below, &name), &folder, Some(parent)),
        }
    }

    fn module_file(&self, below: &Path, name: &str) -> PathBuf {
        let flat = below.join(format!("{name}.rs"));
        if self.source.files.contains_key(&flat) { flat } else { below.join(name).join("mod.rs") }
    }
}

/// The files below a folder that end in `.rs`, relative to it, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(&inner).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Whether an item is for unit tests only.
pub fn is_test(item: &Item) -> bool {
    attributes(item).iter().any(|attribute| {
        attribute.path().is_ident("cfg") && {
            let mut test = false;
            let _ = attribute.parse_nested_meta(|meta| {
                test |= meta.path.is_ident("test");
                if meta.path.is_ident("all") {
                    meta.parse_nested_meta(|meta| {
                        test |= meta.path.is_ident("test");
                        skip(&meta)
                    })?;
                    return Ok(());
                }
                skip(&meta)
            });
            test
        }
    })
}

/// Skips the value or the arguments of a member of an attribute.
fn skip(meta: &syn::meta::ParseNestedMeta) -> syn::Result<()> {
    if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Lit>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|meta| skip(&meta))?;
    }
    Ok(())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn defined_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
