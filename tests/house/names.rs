//! Collects the names in a file's code: imports, paths and identifiers, also within macros and attributes.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemUse, Macro, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

use crate::source::is_test;

/// One leaf of a `use` declaration.
#[derive(Debug, Clone)]
pub struct Import {
    /// The segments as written, without a `self` or `*` at the end.
    pub path: Vec<String>,
    /// Begins with `::`, so it names another crate.
    pub is_absolute: bool,
    /// The name in this module. None for `_` and for a glob.
    pub name: Option<String>,
    pub is_glob: bool,
    /// Has a visibility, so that others may import the name from here.
    pub is_reexport: bool,
    pub line: usize,
}

/// A path or a single identifier in code.
#[derive(Debug, Clone)]
pub struct Name {
    pub path: Vec<String>,
    pub line: usize,
}

/// Collects the names in items.
#[derive(Default)]
pub struct Names {
    pub imports: Vec<Import>,
    pub names: Vec<Name>,
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let import = Import {
            path: Vec::new(),
            is_absolute: item.leading_colon.is_some(),
            name: None,
            is_glob: false,
            is_reexport: !matches!(item.vis, Visibility::Inherited),
            line: line(item.use_token.span),
        };
        self.add_tree(import, &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.names.push(Name { path: segments, line: line(first.ident.span()) });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.visit_path(&invocation.path);
        self.add_tokens(invocation.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        self.visit_path(attribute.path());
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
            if attribute.path().is_ident("serde") {
                self.add_quoted_paths(list.tokens.clone());
            }
        }
    }
}

impl Names {
    fn add_tree(&mut self, mut import: Import, tree: &UseTree) {
        match tree {
            UseTree::Path(tree) => {
                import.path.push(tree.ident.to_string());
                self.add_tree(import, &tree.tree);
            }
            UseTree::Name(tree) => {
                import.line = line(tree.ident.span());
                if tree.ident != "self" {
                    import.path.push(tree.ident.to_string());
                }
                import.name = import.path.last().cloned();
                self.imports.push(import);
            }
            UseTree::Rename(tree) => {
                import.line = line(tree.ident.span());
                if tree.ident != "self" {
                    import.path.push(tree.ident.to_string());
                }
                import.name = Some(tree.rename.to_string()).filter(|name| name != "_");
                self.imports.push(import);
            }
            UseTree::Glob(tree) => {
                import.line = line(tree.star_token.spans[0]);
                import.is_glob = true;
                self.imports.push(import);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(import.clone(), tree);
                }
            }
        }
    }

    /// Adds the paths in the tokens of a macro or an attribute. The tokens cannot be parsed, as each macro has its
    /// own grammar.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        // The name of a member after a dot is not a path.
        let mut after_dot = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(ident) if !after_dot => {
                    let mut path = vec![ident.to_string()];
                    while is_colon(tokens.peek()) {
                        let mut ahead = tokens.clone();
                        ahead.next();
                        if !is_colon(ahead.peek()) {
                            break;
                        }
                        ahead.next();
                        let Some(TokenTree::Ident(next)) = ahead.next() else { break };
                        path.push(next.to_string());
                        tokens = ahead;
                    }
                    self.names.push(Name { path, line: line(ident.span()) });
                }
                TokenTree::Punct(punct) => {
                    after_dot = punct.as_char() == '.';
                    continue;
                }
                _ => {}
            }
            after_dot = false;
        }
    }

    /// Adds paths in quotes, which serde accepts, as in `with = "crate::json"`.
    fn add_quoted_paths(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.add_quoted_paths(group.stream()),
                TokenTree::Literal(literal) => {
                    let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else { continue };
                    if let Ok(path) = text.parse::<syn::Path>() {
                        let path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                        self.names.push(Name { path, line: line(literal.span()) });
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

fn line(span: Span) -> usize {
    span.start().line
}
