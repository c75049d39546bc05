//! The page behind an invitation's URL in a real browser, and its QR code as a scanner reads it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::daemon::Daemon;

/// Whether chromium and zbarimg are installed. Panics if one is missing where tokens are required (CI).
fn are_programs_installed() -> bool {
    let is_installed = |name| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    let all = is_installed("chromium") && is_installed("zbarimg");
    let set = |name, value| std::env::var(name).is_ok_and(|is| is == value);
    if !all {
        assert!(!set("CLAVIGER_REQUIRE_TOKENS", "1") && !set("CI", "true"), "chromium or zbarimg is missing");
        println!("skipped: chromium or zbarimg is not installed");
    }
    all
}

/// Opens a URL in the browser. Returns the DOM as HTML, and saves a screenshot as page.png.
fn open(url: &str, folder: &Path) -> String {
    let browse = |argument: String| {
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg("--disable-dev-shm-usage").arg("--window-size=1000,1400").arg("--hide-scrollbars");
        command.arg(format!("--user-data-dir={}", folder.join("profile").display())).arg(argument).arg(url);
        command.current_dir(folder).env("HOME", folder).stderr(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "chromium: {}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    browse(format!("--screenshot={}", folder.join("page.png").display()));
    browse("--dump-dom".to_owned())
}

/// The content of the QR code in the screenshot; empty if there is none.
fn scan(folder: &Path) -> String {
    let output = Command::new("zbarimg").args(["--raw", "--quiet"]).arg(folder.join("page.png")).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn an_invitation_url_shows_a_page_with_a_qr_code() {
    if !are_programs_installed() {
        return;
    }
    let Some(alice) = Daemon::running("") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let invitation = alice.json(&["invite", "--goal", "Lunch <b>at noon</b>?"]);
    let url = invitation["url"].as_str().unwrap();

    let page = open(url, folder);
    assert!(page.contains("You are invited to talk") && page.contains("<svg"), "{page}");
    // The goal is escaped.
    assert!(page.contains("Lunch &lt;b&gt;at noon&lt;/b&gt;?"), "{page}");
    assert_eq!(scan(folder), url);

    // The short URL shows the same page.
    let page = open(invitation["short_url"].as_str().unwrap(), folder);
    assert!(page.contains("You are invited to talk"), "{page}");
    assert_eq!(scan(folder), url);

    let page = open(&url[..url.len() - 40], folder);
    assert!(page.contains("This link is damaged"), "{page}");
    assert_eq!(scan(folder), "");
    let page = open(&format!("http://127.0.0.1:{}/", alice.port), folder);
    assert!(page.contains("There is a DIDComm agent here"), "{page}");
}
