//! Every link in the Markdown files has a target, every file that the pages name exists, and the book has every page.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file below a folder, except in build output and hidden folders.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(pages(&path));
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

/// The text without blocks of code, and without code within a line.
fn without_code(text: &str) -> String {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// The targets of `[text](target)` and `![text](target)`.
fn targets(text: &str) -> Vec<String> {
    let prose = without_code(text);
    let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a page's headings, made as GitHub and mdbook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        }
        let Some(heading) = line.strip_prefix('#').filter(|_| !in_block) else { continue };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        let anchor: String = kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        let times = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
        *times += 1;
    }
    anchors
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[test]
fn links_and_anchors_resolve() {
    let mut broken = Vec::new();
    for page in pages(root()) {
        let text = fs::read_to_string(&page).unwrap();
        let shown = page.strip_prefix(root()).unwrap().display();
        for target in targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.clone() } else { normal(&page.parent().unwrap().join(file)) };
            if !path.exists() {
                broken.push(format!("{shown}: {target}: no such file"));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&path).unwrap()).contains(anchor) {
                broken.push(format!("{shown}: {target}: no such heading"));
            } else if page.starts_with(root().join("docs")) && !path.starts_with(root().join("docs")) {
                broken.push(format!("{shown}: {target}: the book has only what is below docs/; name the file instead"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> =
        targets(&fs::read_to_string(&summary).unwrap()).iter().map(|target| normal(&docs.join(target))).collect();
    let written: BTreeSet<PathBuf> = pages(&docs).into_iter().filter(|page| *page != summary).collect();
    assert_eq!(written, listed);
}

/// Source files that ARCHITECTURE.md names in code, as `agent/inbox/worker.rs`: from `src`, or from the
/// repository's root.
#[test]
fn the_source_files_in_architecture_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = code.filter(|code| code.ends_with(".rs") && !code.contains(' ') && !code.contains("NAME"));
    let exists = |name: &str| root().join("src").join(name).is_file() || root().join(name).is_file();
    let missing: Vec<&str> = names.filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Files of the repository that a page names in code, as `src/lib.rs`.
#[test]
fn the_files_that_pages_name_exist() {
    let folders = ["benches/", "examples/", "hsm-config/", "packaging/", "softhsm/", "src/", "tests/"];
    let is_path = |letter: char| letter.is_ascii_alphanumeric() || "/_.-@".contains(letter);
    let mut missing = Vec::new();
    for folder in [root(), &root().join("docs")] {
        for page in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if page.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&page).unwrap();
            let code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
            let names = code.filter(|code| folders.iter().any(|folder| code.starts_with(folder)));
            // NAME stands for any name.
            let names = names.filter(|name| name.chars().all(is_path) && !name.contains("NAME"));
            let absent = names.filter(|name| !root().join(name).exists());
            missing.extend(absent.map(|name| format!("{}: {name}", page.display())));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let page = "# One\n## One\n[a](b.md#c) `[not](a-link)` ![d](e.svg)\n```sh\n# [f](g)\n```\n";
    assert_eq!(targets(page), ["b.md#c", "e.svg"]);
    assert_eq!(anchors(page), BTreeSet::from(["one".to_owned(), "one-1".to_owned()]));
    assert_eq!(normal(Path::new("a/b/../c/./d.md")), Path::new("a/c/d.md"));
}

/// `benches/speed.py` makes the plot from the tables of docs/performance.md.
#[test]
fn the_plot_shows_the_figures_of_the_page() {
    let drawn = tempfile::NamedTempFile::new().unwrap();
    let mut command = std::process::Command::new("python3");
    command.arg("-B").arg(root().join("benches/speed.py")).arg(root().join("docs/performance.md")).arg(drawn.path());
    match command.output() {
        // A developer may do without Python.
        Err(error) => return assert!(std::env::var_os("CI").is_none(), "python3: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let kept = fs::read_to_string(root().join("docs/images/speed.svg")).unwrap();
    assert!(
        fs::read_to_string(drawn.path()).unwrap() == kept,
        "old plot: benches/speed.py docs/performance.md docs/images/speed.svg"
    );
}
