//! docs/settings.md, generated from the structs of the configuration, and the test of examples/claviger.toml. This
//! module is compiled for tests only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use syn::{Attribute, Expr, Field, Fields, GenericArgument, Item, ItemStruct, Lit, Meta, PathArguments, Type};

use super::{daemon::RELOADABLE, file::ConfigFile, source::SECTIONS};
use crate::cli::reference::{check_generated, markdown};

/// The files with the structs.
const SOURCES: [&str; 7] = [
    include_str!("file.rs"),
    include_str!("token.rs"),
    include_str!("keeper.rs"),
    include_str!("daemon.rs"),
    include_str!("store.rs"),
    include_str!("access.rs"),
    include_str!("webhook.rs"),
];

/// A table of the configuration.
struct Table {
    /// As in the file: `[http]`, `[[token]]`; empty for the top.
    header: String,
    /// The prefix of its settings' names: `http.`.
    prefix: String,
    meaning: String,
    settings: Vec<Setting>,
}

struct Setting {
    name: String,
    kind: String,
    is_required: bool,
    meaning: String,
}

#[test]
fn the_settings_are_documented() {
    let defaults = serde_json::to_value(toml::from_str::<ConfigFile>("").unwrap()).unwrap();
    let mut page = String::new();
    for Table { header, prefix, meaning, settings } in tables() {
        let header = if header.is_empty() { "Before the first table".to_owned() } else { format!("`{header}`") };
        page +=
            &format!("\n## {header}\n\n{}\n\n| setting | type | default | SIGHUP | meaning |\n", markdown(&meaning));
        page += "|---|---|---|---|---|\n";
        for Setting { name, kind, is_required, meaning } in settings {
            let path = format!("{prefix}{name}");
            let default = match default_value(&defaults, &path) {
                _ if is_required => "required".to_owned(),
                Some(value) => format!("`{value}`"),
                None => String::new(),
            };
            let is_reloadable = RELOADABLE.iter().any(|it| path == *it || path.starts_with(&format!("{it}.")));
            let reload = if is_reloadable { "yes" } else { "" };
            page +=
                &format!("| `{name}` | {kind} | {default} | {reload} | {} |\n", markdown(&meaning).replace('|', "\\|"));
        }
    }
    check_generated("docs/settings.md", &page);
}

#[test]
fn the_example_has_every_setting() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/claviger.toml");
    let text = fs::read_to_string(file).unwrap();
    // `#name = value` and `#[table]` are settings that are commented out; `# text` is a comment.
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => setting,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    toml::from_str::<ConfigFile>(&text).unwrap();
    let mut shown = BTreeSet::new();
    collect_names("", &toml::from_str::<Value>(&text).unwrap(), &mut shown);
    let known: BTreeSet<String> = tables()
        .iter()
        .flat_map(|table| table.settings.iter().map(|setting| format!("{}{}", table.prefix, setting.name)))
        .collect();
    assert_eq!(shown, known);
}

#[test]
fn the_environment_may_name_every_table() {
    let structs = structs();
    let mut fields: Vec<String> = structs["ConfigFile"].fields.iter().map(name_of).collect();
    let mut sections = SECTIONS.map(str::to_owned);
    fields.sort();
    sections.sort();
    assert_eq!(fields, sections);
    let known: Vec<String> = tables()
        .iter()
        .flat_map(|table| table.settings.iter().map(|it| format!("{}{}", table.prefix, it.name)))
        .chain(tables().iter().map(|table| table.prefix.trim_end_matches('.').to_owned()))
        .collect();
    for name in RELOADABLE {
        assert!(known.iter().any(|it| it == name), "{name}");
    }
}

/// The names of the settings in a document: `http.listen`. The members of `environment` are not settings.
fn collect_names(prefix: &str, value: &Value, names: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().unwrap() {
        let path = format!("{prefix}{name}");
        match value {
            Value::Object(_) if name != "environment" => collect_names(&format!("{path}."), value, names),
            Value::Array(all) if all.iter().any(Value::is_object) => {
                all.iter().for_each(|value| collect_names(&format!("{path}."), value, names));
            }
            _ => {
                names.insert(path);
            }
        }
    }
}

fn default_value<'v>(defaults: &'v Value, path: &str) -> Option<&'v Value> {
    let pointer = format!("/{}", path.replace('.', "/"));
    defaults.pointer(&pointer).filter(|value| !value.is_null() && **value != Value::Array(Vec::new()))
}

fn structs() -> BTreeMap<String, ItemStruct> {
    let items = SOURCES.iter().flat_map(|source| syn::parse_file(source).unwrap().items);
    let structs = items.filter_map(|item| match item {
        Item::Struct(item) if matches!(item.fields, Fields::Named(_)) => Some((item.ident.to_string(), item)),
        _ => None,
    });
    structs.collect()
}

fn tables() -> Vec<Table> {
    let structs = structs();
    let mut tables = Vec::new();
    add_table("", false, "ConfigFile", &structs, &mut tables);
    tables
}

/// Adds the table of a struct, and then the tables in it.
fn add_table(path: &str, is_array: bool, name: &str, structs: &BTreeMap<String, ItemStruct>, tables: &mut Vec<Table>) {
    let item = &structs[name];
    let (mut settings, mut nested) = (Vec::new(), Vec::new());
    for field in item.fields.iter().filter(|field| !has_serde(&field.attrs, "skip")) {
        let (outer, inner) = type_names(&field.ty);
        if structs.contains_key(&inner) {
            nested.push((name_of(field), outer == "Vec", inner));
            continue;
        }
        let has_default =
            has_serde(&field.attrs, "default") || has_serde(&item.attrs, "default") || is_option(&field.ty);
        settings.push(Setting {
            name: name_of(field),
            kind: kind(&name_of(field), &outer, &inner),
            is_required: !has_default,
            meaning: documentation(&field.attrs),
        });
    }
    let (header, prefix) = match path {
        "" => (String::new(), String::new()),
        path if is_array => (format!("[[{path}]]"), format!("{path}.")),
        path => (format!("[{path}]"), format!("{path}.")),
    };
    let meaning = documentation(&item.attrs);
    tables.push(Table { header, prefix: prefix.clone(), meaning, settings });
    for (field, is_array, inner) in nested {
        add_table(&format!("{prefix}{field}"), is_array, &inner, structs, tables);
    }
}

fn name_of(field: &Field) -> String {
    field.ident.as_ref().unwrap().to_string()
}

/// The names of a type and of its innermost argument: `Option` and `PathBuf` for `Option<PathBuf>`.
fn type_names(of: &Type) -> (String, String) {
    let Type::Path(path) = of else { panic!("a setting has the type of a path") };
    let segment = path.path.segments.last().unwrap();
    let outer = segment.ident.to_string();
    match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.last().unwrap() {
            GenericArgument::Type(inner) => {
                let (middle, inner) = type_names(inner);
                let outer = if outer == "Option" && middle == "Vec" { "Vec".to_owned() } else { outer };
                (outer, inner)
            }
            _ => (outer.clone(), outer),
        },
        _ => (outer.clone(), outer),
    }
}

fn is_option(of: &Type) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().unwrap().ident == "Option")
}

/// The type of a setting in TOML, with its unit.
fn kind(name: &str, outer: &str, inner: &str) -> String {
    let unit = ["bytes", "seconds", "days"].into_iter().find(|unit| name.split('_').any(|word| word == *unit));
    let kind = match inner {
        "bool" => "boolean".to_owned(),
        "u32" | "u64" | "usize" => unit.map_or_else(|| "integer".to_owned(), |unit| format!("integer, {unit}")),
        "PathBuf" => "path".to_owned(),
        "SocketAddr" => "address and port".to_owned(),
        "SocketAddrs" => "address and port, or an array of them".to_owned(),
        _ => "string".to_owned(),
    };
    match outer {
        "Vec" => format!("array of {kind}s"),
        "BTreeMap" => format!("table of {kind}s"),
        _ => kind,
    }
}

fn has_serde(attributes: &[Attribute], word: &str) -> bool {
    let serde = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    serde
        .filter_map(|attribute| attribute.meta.require_list().ok())
        .any(|list| list.tokens.to_string().split([',', ' ']).any(|it| it == word))
}

fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(value) => match &value.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}
