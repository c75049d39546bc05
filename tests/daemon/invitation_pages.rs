//! The web pages of the public side, in a real browser: at the width of a telephone and of a desk, light and dark, and without
//! scripts.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    api_client::ApiClient,
    chromium::{Browser, WIDTHS, are_installed},
    clock::Clock,
    daemon::{Daemon, TIMEOUT, http, status_of},
};

/// The content of the QR code on the page; empty if there is none.
fn scan(browser: &mut Browser, folder: &Path) -> String {
    let file = folder.join("page.png");
    browser.screenshot(&file);
    let output = Command::new("zbarimg").args(["--raw", "--quiet"]).arg(&file).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Saves a picture for docs/images if `CLAVIGER_SCREENSHOTS` names a folder.
pub fn save_picture(browser: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("CLAVIGER_SCREENSHOTS") {
        browser.screenshot(&Path::new(&folder).join(name));
    }
}

fn running(http: &str) -> Option<Daemon> {
    let mut daemon = Daemon::with_config(&format!("{http}\n[net]\nallow_private = [\"127.0.0.0/8\"]"), "")?;
    daemon.start();
    Some(daemon)
}

#[test]
fn an_invitation_has_a_page_for_telephones_and_desks() {
    if !are_installed(&["chromium", "zbarimg"]) {
        return;
    }
    let Some(alice) = running("name = \"Alice <i>\u{202e}Müller\"") else { return };
    let folder = tempfile::tempdir().unwrap();
    let invitation = alice.json(&["invite", "--goal", "Lunch <b>at noon</b>?\u{202e} Really", "--hours", "48"]);
    let (url, short_url) = (invitation["url"].as_str().unwrap(), invitation["short_url"].as_str().unwrap());

    let mut browser = Browser::start();
    for width in WIDTHS {
        for scheme in ["light", "dark"] {
            browser.look(width, scheme);
            browser.open(short_url);
            browser.check_page();
            let text = browser.text();
            // Foreign text is shown as it is written, but for what would turn it around.
            for expected in ["Alice <i>Müller invites you to talk", "Lunch <b>at noon</b>? Really", "for one person"] {
                assert!(text.contains(expected), "{expected}: {text}");
            }
            assert_eq!(scan(&mut browser, folder.path()), short_url, "{width} {scheme}");
        }
    }
    // A person who scans a code sees the whole of it without scrolling.
    browser.look(WIDTHS[0], "light");
    browser.open(url);
    let bottom = browser.eval("document.querySelector('svg').getBoundingClientRect().bottom").as_f64().unwrap();
    assert!(bottom < 844.0, "{bottom}");
    let link = browser.eval("document.querySelector('a.button').href");
    assert_eq!(link, format!("didcomm://invite{}", &url[url.find("?_oob=").unwrap()..]));

    let origin = format!("http://127.0.0.1:{}", alice.port);
    let permissions = json!({"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": origin});
    browser.call("Browser.grantPermissions", permissions);
    browser.call("Page.bringToFront", json!({}));
    browser.eval("document.getElementById('copy').click()");
    browser.wait_for("document.getElementById('copied').textContent == 'Copied.'");
    assert_eq!(browser.eval("navigator.clipboard.readText()"), short_url);
    // Times are in the zone of the browser.
    assert_eq!(browser.eval("document.querySelector('time').textContent.includes('UTC')"), false);
}

#[test]
fn the_page_of_an_invitation_needs_no_script() {
    if !are_installed(&["chromium", "zbarimg"]) {
        return;
    }
    let Some(alice) = running("") else { return };
    let folder = tempfile::tempdir().unwrap();
    let invitation = alice.json(&["invite", "--hours", "1"]);
    let mut browser = Browser::start();
    browser.look(WIDTHS[0], "dark");
    browser.set_scripts(false);
    browser.open(invitation["url"].as_str().unwrap());
    assert_eq!(scan(&mut browser, folder.path()), invitation["short_url"].as_str().unwrap());
    browser.set_scripts(true);
    let text = browser.text();
    assert!(text.contains("You are invited to talk") && text.contains(" UTC"), "{text}");
    assert!(!text.contains("Copy"), "a button that does nothing is hidden: {text}");
    assert_eq!(browser.eval("document.querySelector('details').open"), false);
    browser.check_page();
}

/// Used, expired, withdrawn, unknown and damaged: the page looks like the others, and says what to do.
#[test]
fn the_page_of_an_ended_invitation_says_what_to_do() {
    if !are_installed(&["chromium", "zbarimg"]) {
        return;
    }
    let Some(mut alice) = Daemon::with_config("name = \"Alice Müller\"\n[net]\nallow_private = [\"127.0.0.0/8\"]", "")
    else {
        return;
    };
    let clock = Clock::new(&alice.home);
    alice.start_with(clock.command(&alice.home));
    alice.wait_until_token_ready();
    let make = |more: &[&str]| {
        let made = alice.json(&[&["invite"], more].concat());
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("url"), text("short_url"))
    };
    let (used, used_short) = make(&[]);
    let (expired, expired_short) = make(&["--multi", "--hours", "1"]);
    let (withdrawn, withdrawn_short) = make(&[]);
    let mut browser = Browser::start();
    let (open, _) = make(&["--goal", "Lunch at noon?", "--hours", "48"]);
    for (width, scheme) in [(WIDTHS[0], "light"), (WIDTHS[1], "dark")] {
        browser.look(width, scheme);
        browser.open(&open);
        save_picture(&mut browser, &format!("invitation-{width}-{scheme}.png"));
    }
    let bob = Daemon::running("").unwrap();
    bob.json(&["accept", &used]);
    let id = &withdrawn_short[withdrawn_short.find('=').unwrap() + 1..];
    assert_eq!(ApiClient::new(&alice).request("DELETE", &format!("/v1/invitations/{id}"), "", "").status, 204);

    browser.look(WIDTHS[0], "light");
    browser.open(&used_short);
    let until = Instant::now() + TIMEOUT;
    while !browser.text().contains("This invitation was used") {
        assert!(Instant::now() < until, "{}", browser.text());
        thread::sleep(Duration::from_millis(200));
        browser.open(&used_short);
    }
    clock.set(2 * 60 * 60);
    let pages = [
        (expired, 410, "This invitation has expired", "Ask Alice Müller for a new one"),
        (expired_short, 410, "This invitation has expired", "Ask Alice Müller for a new one"),
        (used.clone(), 410, "This invitation was used", "Ask Alice Müller for a new one"),
        (withdrawn, 404, "This agent has no such invitation", "ask for a new one"),
        (withdrawn_short, 404, "This agent has no such invitation", "ask for a new one"),
        (used[..used.len() - 40].to_owned(), 400, "This link is damaged", "Ask for it again"),
        (format!("http://127.0.0.1:{}/", alice.port), 200, "There is a DIDComm agent here", "open it with your wallet"),
    ];
    for (url, status, title, advice) in pages {
        let path = &url[url.find("/?").unwrap_or(url.len() - 1)..];
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert_eq!(status_of(&http(alice.port, &head, b"")), status, "{url}");
        for width in WIDTHS {
            browser.look(width, "dark");
            browser.open(&url);
            // The browser notes each status of an error.
            browser.complaints.retain(|complaint| !complaint.contains("the server responded with a status of"));
            browser.check_page();
            let text = browser.text();
            assert!(text.contains(title) && text.contains(advice), "{url}: {text}");
            assert_eq!(browser.eval("document.querySelector('svg')"), Value::Null);
        }
    }
    browser.look(WIDTHS[0], "light");
    browser.open(&used);
    save_picture(&mut browser, "invitation-used-390-light.png");
}

/// The page at `/` does not say that the keys are in hardware (here they are in files), nor which release runs.
#[test]
fn the_page_about_the_agent_claims_nothing() {
    let Some(alice) = running("") else { return };
    let page = http(alice.port, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"");
    assert_eq!(status_of(&page), 200);
    assert!(page.contains("There is a DIDComm agent here"), "{page}");
    assert!(!page.contains("hardware") && !page.contains(env!("CARGO_PKG_VERSION")), "{page}");
}
